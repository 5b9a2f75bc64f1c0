"""The items' vectors of a version, beside its table, for planners that look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.index import Embeddings
from lit_metric.mining.files import TableError
from lit_metric.mining.vectors import Vectors
from lit_metric.store import read_array, read_manifest, replacing, version_folder, write_array

ITEMS, VECTORS, DIMENSION = "items", "vectors", "dimension"
_BLOCK = 16384

Embedded = tuple[Tensor, Tensor | NDArray[Any]]
"""Distinct global ids ``[M]`` of items, and their embeddings ``[M, d]``, maybe memory-mapped."""


def size_of(embedded: Embedded) -> int:
    """The bytes that :func:`write_vectors` needs."""
    ids, embeddings = embedded
    return len(ids) * (4 + 2 * embeddings.shape[1])


def write_vectors(folder: Path, embedded: Embedded) -> dict[str, int]:
    """Write the ids (int32, rising) and the vectors (float16, of unit length) into the folder of a version.

    Returns:
        What the manifest should say of them.

    Raises:
        ValueError: if an embedding is not finite.
    """
    ids, embeddings = embedded
    ids, order = ids.cpu().sort()
    write_array(folder / f"{ITEMS}.npy", ids.int().numpy())
    rows = Vectors(embeddings, "cosine", order)
    shape = (len(ids), int(embeddings.shape[1]))
    header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
    # Block by block and not through a memory map, which would end the process where the disk is full.
    with replacing(folder / f"{VECTORS}.npy") as unfinished, unfinished.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, block in rows.blocks(_BLOCK):
            file.write(block.half().cpu().numpy().tobytes())
    return {ITEMS: shape[0], DIMENSION: shape[1]}


class TableVectors:
    """Opens the vectors of the version that an epoch is planned by.

    It may be sent to other processes.

    Args:
        root: folder of the versions.
        corpus: fingerprint that they must be of; None accepts any.
    """

    def __init__(self, root: str | Path, corpus: str | None = None) -> None:
        self.root = str(root)
        self.corpus = corpus

    def __call__(self, version: int) -> Embeddings:
        """The memory-mapped vectors of ``version``.

        Raises:
            TableError: if the version is not there, unfinished, damaged, of another corpus, or was mined
                without vectors.
        """
        folder = version_folder(self.root, version)
        manifest = read_manifest(folder, TableError, [])
        if manifest.get(DIMENSION) is None:
            raise TableError(f"{folder} was mined for a planner that uses no vectors; {TableError.remedy}")
        if self.corpus not in (None, of := manifest.get("corpus")):
            raise TableError(f"{folder} was mined for another corpus ({of}, not {self.corpus}): mine it anew")
        read_manifest(folder, TableError, [f"{ITEMS}.npy", f"{VECTORS}.npy"])
        rows, dimension = int(manifest[ITEMS]), int(manifest[DIMENSION])
        ids = read_array(folder, ITEMS, np.int32, (rows,), TableError, "r")
        return Embeddings(
            torch.from_numpy(ids.astype(np.int64)),
            read_array(folder, VECTORS, np.float16, (rows, dimension), TableError, "r"),
        )
