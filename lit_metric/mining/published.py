"""What a version on disk holds beside its table: the items' vectors, for planners that look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lit_metric import store
from lit_metric.index import Embeddings
from lit_metric.store import StoredError

_ITEMS, _VECTORS, _DIMENSION = "items", "vectors", "dimension"
_VECTOR_ROWS = 16384


class TableError(StoredError):
    """A stored version is missing, unfinished, damaged, or belongs to something else."""

    remedy = "mine it again"


def write_vectors(folder: Path, vectors: Embeddings) -> dict[str, int]:
    """Write the ids (int32, rising) and the unit vectors (float16); return entries of the manifest."""
    vectors, ids = vectors.by("cosine"), vectors.ids.sort().values
    store.write_array(folder / f"{_ITEMS}.npy", ids.int().numpy())
    shape = len(vectors), vectors.dimension
    header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
    # Block by block and not through a memory map, which would end the process where the disk is full.
    path = folder / f"{_VECTORS}.npy"
    with store.replacing(path) as unfinished, unfinished.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in ids.split(_VECTOR_ROWS):
            file.write(vectors.of(block).half().cpu().numpy().tobytes())
    return {_ITEMS: shape[0], _DIMENSION: shape[1]}


def open_vectors(root: str | Path, version: int, corpus: str | None = None) -> Embeddings:
    """The memory-mapped vectors of the items, which were published with a table, with unit length.

    Args:
        root: folder of the versions.
        version: its number.
        corpus: fingerprint of the expected corpus; None accepts any.

    Raises:
        TableError: if the version is missing, unfinished, damaged, of another corpus, or was mined without
            vectors.
    """
    folder = store.version_folder(root, version)
    manifest = store.read_manifest(folder, TableError, [])
    if manifest.get(_DIMENSION) is None:
        raise TableError(f"{folder} was mined for a planner that uses no vectors; {TableError.remedy}")
    check_corpus(folder, manifest.get("corpus"), corpus)
    store.read_manifest(folder, TableError, [f"{_ITEMS}.npy", f"{_VECTORS}.npy"])
    rows, dimension = int(manifest[_ITEMS]), int(manifest[_DIMENSION])
    ids = store.read_array(folder, _ITEMS, np.int32, (rows,), TableError, "r")
    values = store.read_array(folder, _VECTORS, np.float16, (rows, dimension), TableError, "r")
    return Embeddings(torch.from_numpy(ids.astype(np.int64)), values)


def check_corpus(folder: Path, found: str | None, expected: str | None) -> None:
    """Refuse a version of another corpus; ``expected`` None accepts any."""
    if expected is not None and found != expected:
        raise TableError(f"{folder} was mined for another corpus ({found}, not {expected}): mine it again")
