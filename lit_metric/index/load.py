"""A saved index, whichever kind it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lit_metric.index.base import Index, StoredIndexError
from lit_metric.index.exact import ExactIndex
from lit_metric.index.faiss_index import FaissIndex
from lit_metric.index.representatives import RepresentativeIndex
from lit_metric.store import MANIFEST, read_manifest

KINDS: dict[str, type[Index]] = {
    kind.__name__: kind for kind in (ExactIndex, FaissIndex, RepresentativeIndex)
}


def load_index(
    folder: str | Path,
    memory_map: bool = True,
    verify: bool = True,
    threads: int | None = None,
    device: str | torch.device | None = None,
) -> Index:
    """Read what :meth:`Index.save` wrote. It answers as the saved one did.

    Args:
        folder: as given to ``save``.
        memory_map: leave the vectors on the disk, where several processes share them, as far as the kind
            allows: all of an exact index; of FAISS the lists of IVF cells, else the arrays of the index. A
            mapped FAISS index takes no more vectors. What is added to a mapped exact index is in memory, and
            so are its vectors from then on.
        verify: compare the sha256 of each file, which reads all of them once.
        threads: as in :class:`ExactIndex` and :class:`FaissIndex`.
        device: where an exact index is searched; the CPU by default. Elsewhere nothing is mapped.

    Raises:
        StoredIndexError: there is no index, one of another format, or a damaged one; says which file.
        ValueError: a device is asked for where FAISS searches.

    Example:
        >>> import tempfile
        >>> index = ExactIndex(metric="dot")
        >>> index.add(torch.eye(2), torch.tensor([7, 3]))
        >>> folder = Path(tempfile.mkdtemp()) / "index"
        >>> index.save(folder)
        >>> load_index(folder).search(torch.tensor([[0.0, 2.0]]), k=1)[1].tolist()
        [[3]]
    """
    folder = Path(folder)
    manifest = read_manifest(folder, StoredIndexError, verify=verify)
    try:
        kind, settings = str(manifest["kind"]), dict(manifest["settings"])
        shape = int(manifest["count"]), int(manifest["dimension"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoredIndexError(
            f"{folder / MANIFEST} is damaged ({error!r}); {StoredIndexError.remedy}"
        ) from error
    index = _empty(folder, kind, settings, threads, device)
    index._restore(folder, *shape, memory_map)
    return index


def _empty(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    threads: int | None,
    device: str | torch.device | None,
) -> Index:
    """An index as the saved one was made, and without vectors."""
    kind = KINDS.get(name)
    if kind is None:
        raise StoredIndexError(f"{folder} holds a {name}, expected one of {', '.join(KINDS)}")
    arguments: dict[str, Any] = dict(settings)
    try:
        if kind is RepresentativeIndex:
            inner = settings["index"]
            arguments["index"] = _empty(folder, inner["kind"], inner["settings"], threads, device)
            return kind(**arguments)
        if device is not None:
            if kind is FaissIndex:
                raise ValueError(
                    f"device={device}: {folder} holds a FAISS index, which is searched on the CPU"
                )
            arguments["device"] = device
        arguments["threads"] = threads
        return kind(**arguments)
    except (TypeError, KeyError) as error:
        raise StoredIndexError(
            f"{folder} has settings of another version ({error}); {StoredIndexError.remedy}"
        ) from error
