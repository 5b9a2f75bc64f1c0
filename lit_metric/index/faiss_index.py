"""Search by any FAISS index on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.index.base import Exclude, Index, Similarity, StoredIndexError, Vectors
from lit_metric.store import read_array, replacing, write_array

FILE = "index.faiss"
TRAINED_ON = 1 << 18
TRAINED_PER_CELL = 64


class FaissIndex(Index):
    """Search by a FAISS index on the CPU.

    Vectors wait until the first `search`, which adds them. It first trains the index on them if it needs
    training: on at most 2¹⁸ of them, or 64 for each IVF cell if that is more. Vectors that are added later
    don't train it again. Only ``Flat`` is exact. If several vectors have exactly the score of the k-th, FAISS
    chooses which of them are returned; the order is that of `Index.search`.

    Args:
        factory: a string for ``faiss.index_factory``: ``"Flat"``, ``"IVF256,Flat"``, ``"HNSW32"``,
            ``"IVF256,PQ32"``, ...
        similarity: as in `Index`.
        nprobe: cells searched, for IVF; by default FAISS's own, 1.
        ef_search: candidates kept during the search, for HNSW; by default FAISS's own, 16.
        threads: threads for training, adding and searching; by default FAISS's own setting, which is all
            cores. The process-wide setting is restored afterwards.
        reproducible: insert into an HNSW graph with one thread, since with several the graph depends on their
            timing. A loaded index still grows into another graph than the saved one would, as FAISS doesn't
            save the random state that draws the levels of vectors.

    Raises:
        ValueError: a setting is out of its range or does not apply to ``factory``; at the first `search`,
            ``factory`` is not understood or there are too few vectors to train it.

    Example:
        >>> index = FaissIndex("Flat", similarity="cosine", threads=1)
        >>> index.add(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([10, 11]))
        >>> scores, ids = index.search(torch.tensor([[0.0, 2.0]]), k=1)
        >>> scores.tolist(), ids.tolist()
        ([[1.0]], [[11]])
    """

    def __init__(
        self,
        factory: str = "Flat",
        similarity: Similarity = "cosine",
        nprobe: int | None = None,
        ef_search: int | None = None,
        threads: int | None = None,
        reproducible: bool = True,
    ) -> None:
        for name, value in {"nprobe": nprobe, "ef_search": ef_search, "threads": threads}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if nprobe is not None and "IVF" not in factory:
            raise ValueError(f"nprobe is for IVF indexes, and the factory is {factory!r}; leave it out")
        if ef_search is not None and "HNSW" not in factory:
            raise ValueError(f"ef_search is for HNSW indexes, and the factory is {factory!r}; leave it out")
        self.factory = factory
        self.nprobe = nprobe
        self.ef_search = ef_search
        self.threads = threads
        self.reproducible = reproducible
        super().__init__(similarity)

    def _clear(self) -> None:
        self._index: Any = None
        self._ids = torch.empty(0, dtype=torch.int64)
        self._mapped = False

    def add(self, vectors: Vectors, ids: Tensor | np.ndarray) -> None:
        """See :meth:`Index.add`.

        Raises:
            ValueError: likewise; or the index lies in a file that was memory-mapped, and can't grow.
        """
        if self._mapped:  # FAISS would end the process.
            raise ValueError(
                "this index was loaded memory-mapped and takes no more vectors; "
                "load it with memory_map=False, or reset() it"
            )
        super().add(vectors, ids)

    def _build(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        all_ids = torch.cat([self._ids, *(ids.cpu() for _, ids in parts)])
        self._refuse_duplicates(all_ids.sort().values)
        index = self._index if self._index is not None else self._trained([vectors for vectors, _ in parts])
        one_thread = self.reproducible and "HNSW" in self.factory
        with _faiss_threads(1 if one_thread else self.threads):
            while parts:
                index.add(parts.pop(0)[0].cpu().numpy())
        self._index, self._ids = index, all_ids

    def empty(self, dimension: int) -> Any:
        """The FAISS index for vectors of ``dimension`` components, before any training.

        Raises:
            ValueError: ``factory`` is not understood, or not for this dimension.
        """
        import faiss

        try:
            return faiss.index_factory(dimension, self.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot build {self.factory!r} for dimension {dimension}: {_reason(error)}"
            ) from error

    def _trained(self, parts: list[Tensor]) -> Any:
        import faiss

        index = self.empty(parts[0].shape[1])
        if not index.is_trained:
            try:
                cells = int(faiss.extract_index_ivf(index).nlist)
            except RuntimeError:
                cells = 0  # It has none.
            vectors = _spread(parts, max(TRAINED_ON, TRAINED_PER_CELL * cells))
            try:
                with _faiss_threads(self.threads):
                    index.train(vectors)
            except RuntimeError as error:
                raise ValueError(
                    f"{self.factory!r} cannot be trained on {len(vectors)} vectors: {_reason(error)}; use "
                    "'Flat', or a factory with fewer cells or bits"
                ) from error
        return self._tuned(index)

    def _tuned(self, index: Any) -> Any:
        import faiss

        for name, value in {"nprobe": self.nprobe, "efSearch": self.ef_search}.items():
            if value is not None:
                faiss.ParameterSpace().set_index_parameter(index, name, value)
        return index

    def _search(self, queries: Tensor, k: int, exclude: Exclude | None) -> tuple[Tensor, Tensor]:
        with _faiss_threads(self.threads):
            found, where = self._index.search(queries.cpu().numpy(), k)
        scores, positions = torch.from_numpy(found), torch.from_numpy(where)
        missing = positions < 0
        scores = scores.masked_fill(missing, -torch.inf)
        ids = self._ids[positions.clamp(min=0)].masked_fill(missing, torch.iinfo(torch.int64).max)
        ids, by_id = ids.sort(dim=1)
        scores, by_score = scores.gather(1, by_id).sort(dim=1, descending=True, stable=True)
        return scores, ids.gather(1, by_score).masked_fill(scores.isneginf(), -1)

    def _settings(self) -> dict[str, Any]:
        names = ("factory", "similarity", "nprobe", "ef_search", "reproducible")
        return {name: getattr(self, name) for name in names}

    def _write(self, folder: Path) -> None:
        import faiss

        with replacing(folder / FILE) as unfinished:
            faiss.write_index(self._index, str(unfinished))
        write_array(folder / "ids.npy", self._ids.numpy())

    def _read(self, folder: Path, shape: tuple[int, int], memory_map: bool) -> None:
        import faiss

        path = folder / FILE
        try:
            # Leave most of the index on the disk: the lists of cells, or all arrays where there are no cells
            # (FAISS 1.11 and later).
            flat = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP)
            mapping = faiss.IO_FLAG_MMAP if "IVF" in self.factory else flat
            index = faiss.read_index(str(path), mapping if memory_map else 0)
        except RuntimeError as error:
            raise StoredIndexError(
                f"{path} cannot be read by FAISS ({_reason(error)}); {StoredIndexError.remedy}"
            ) from error
        if (index.ntotal, index.d) != shape:
            raise StoredIndexError(
                f"{path} holds {[index.ntotal, index.d]}, expected {[*shape]}; {StoredIndexError.remedy}"
            )
        self._index, self._mapped = self._tuned(index), memory_map
        self._ids = torch.from_numpy(read_array(folder, "ids", np.int64, shape[:1], StoredIndexError))

    @classmethod
    def _from_settings(
        cls, settings: dict[str, Any], threads: int | None, device: str | torch.device | None
    ) -> FaissIndex:
        if device is not None:
            raise ValueError(f"device={device}: the folder holds a FAISS index, which is searched on the CPU")
        return cls(**settings, threads=threads)


def _spread(parts: list[Tensor], most: int) -> np.ndarray:
    """At most ``most`` of the vectors, evenly spread over all parts."""
    step = -(-sum(map(len, parts)) // most)
    chosen, start = [], 0
    for part in parts:
        chosen.append(part[start::step].cpu())
        start = (start - len(part)) % step
    array: np.ndarray = torch.cat(chosen).numpy()
    return array


def _reason(error: RuntimeError) -> str:
    """A FAISS error without the C++ signature and the file name before it."""
    return re.split(r"Error: |\.(?:cpp|h):\d+: ", str(error).strip())[-1]


@contextmanager
def _faiss_threads(threads: int | None) -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()
    if threads is not None:
        faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
