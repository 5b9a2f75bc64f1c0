"""Nearest-neighbour search behind one interface: an exact matrix product in torch, or any FAISS index.

Both keep vectors in memory in float32, whatever they were given. Scores are similarities: larger is nearer.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Similarity = Literal["cosine", "dot"]
Vectors = Tensor | np.ndarray


class Index(ABC):
    """Vectors under integer ids, searched by similarity.

    Vectors are added in any number of calls; the dimension is that of the first call.

    Args:
        metric: ``"cosine"`` scales every vector to unit length (a zero vector stays zero, its cosine is 0);
            ``"dot"`` takes vectors as they are.

    Raises:
        ValueError: ``metric`` is neither of the two.
    """

    def __init__(self, metric: Similarity = "cosine") -> None:
        if metric not in ("cosine", "dot"):
            raise ValueError(f"metric is {metric!r}; use 'cosine' or 'dot'")
        self.metric = metric
        self.reset()

    def reset(self) -> None:
        """Forget all vectors, the dimension too; the settings stay."""
        self.dimension: int | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._count = 0
        self._clear()

    def __len__(self) -> int:
        return self._count

    def add(self, vectors: Vectors, ids: Tensor | np.ndarray) -> None:
        """Add ``vectors [n, d]`` (any float dtype) under ``ids [n]`` (integers >= 0, each used once).

        Raises:
            ValueError: shapes disagree with each other or with earlier vectors, a value is NaN or infinite,
                an id is negative. An id used twice is noticed by the next `search`.
        """
        vectors = self._prepare(vectors, "vectors")
        ids = torch.as_tensor(ids)
        if ids.is_floating_point() or ids.shape != vectors.shape[:1]:
            got = f"{ids.dtype} {list(ids.shape)}"
            raise ValueError(f"ids must be {len(vectors)} integers, one for each vector; got {got}")
        if len(ids) and int(ids.min()) < 0:
            raise ValueError(f"ids must be >= 0 (-1 stands for 'no neighbour'); got {int(ids.min())}")
        self.dimension = vectors.shape[1]
        # Copies, since a caller may fill the same buffer anew before the first search.
        kept = vectors.clone() if self.metric == "dot" else vectors
        self._waiting.append((kept, ids.to(vectors.device, torch.int64, copy=True)))
        self._count += len(vectors)

    @torch.no_grad()
    def search(self, queries: Vectors, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` most similar vectors of each query.

        Args:
            queries: ``[q, d]``, any float dtype.
            k: >= 1; may exceed the number of vectors.

        Returns:
            scores: ``[q, k]`` float32, falling, on the queries' device; ``-inf`` where there are fewer than
                ``k`` vectors.
            ids: ``[q, k]`` int64, ``-1`` in the same places. Of equal scores the lower id comes first.

        Raises:
            ValueError: ``k`` is below 1, the dimension is not that of the index, a query holds NaN, an id was
                added twice.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries = self._prepare(queries, "queries")
        scores = torch.full((len(queries), k), -torch.inf, device=queries.device)
        ids = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
        if len(self) == 0 or len(queries) == 0:
            return scores, ids
        if self._waiting:
            self._build(*(torch.cat(parts) for parts in zip(*self._waiting, strict=True)))
            self._waiting = []
        width = min(k, len(self))
        found_scores, found_ids = self._search(queries, width)
        scores[:, :width] = found_scores.to(scores.device)
        ids[:, :width] = found_ids.to(ids.device)
        return scores, ids

    def _prepare(self, vectors: Vectors, name: str) -> Tensor:
        if isinstance(vectors, np.ndarray):
            vectors = torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))
        vectors = vectors.detach().to(torch.float32)
        if vectors.ndim != 2:
            raise ValueError(f"{name} must be [n, dimension], got {list(vectors.shape)}")
        if self.dimension is not None and vectors.shape[1] != self.dimension:
            raise ValueError(f"{name} have dimension {vectors.shape[1]}, the index has {self.dimension}")
        finite = vectors.isfinite().all(dim=1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise ValueError(f"row {row} of {name} holds NaN or infinity, which has no neighbours")
        return F.normalize(vectors, dim=1) if self.metric == "cosine" else vectors

    @abstractmethod
    def _clear(self) -> None:
        """Drop what `_build` made."""

    @abstractmethod
    def _build(self, vectors: Tensor, ids: Tensor) -> None:
        """Take in prepared ``vectors [n, d]`` and ``ids [n]``; may be called again with more."""

    @abstractmethod
    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Prepared ``queries [q, d]`` with ``k <= len(self)``, to scores and ids ``[q, k]``."""


class ExactIndex(Index):
    """Exact search as a matrix product, block by block, on whatever device the vectors are.

    Memory beyond the vectors is that of one block of scores, whatever the numbers of queries and vectors.

    Args:
        metric: as in `Index`.
        query_block: queries in one block, >= 1.
        vector_block: vectors in one block, >= 1.
        device: where the vectors are kept and searched; by default where those of the first `add` are.

    Example:
        >>> index = ExactIndex(metric="dot")
        >>> index.add(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([7, 3, 5]))
        >>> scores, ids = index.search(torch.tensor([[2.0, 1.0]]), k=4)
        >>> scores.tolist(), ids.tolist()
        ([[2.0, 2.0, 1.0, -inf]], [[5, 7, 3, -1]])
    """

    def __init__(
        self,
        metric: Similarity = "cosine",
        query_block: int = 1024,
        vector_block: int = 16384,
        device: str | torch.device | None = None,
    ) -> None:
        if query_block < 1 or vector_block < 1:
            raise ValueError(f"blocks must be at least 1, got {query_block} and {vector_block}")
        self.query_block = query_block
        self.vector_block = vector_block
        self.device = device
        super().__init__(metric)

    def _clear(self) -> None:
        self._vectors: Tensor | None = None
        self._ids = torch.empty(0, dtype=torch.int64)

    def _build(self, vectors: Tensor, ids: Tensor) -> None:
        if self._vectors is not None:
            vectors = torch.cat([self._vectors, vectors.to(self._vectors.device)])
            ids = torch.cat([self._ids, ids.to(self._ids.device)])
        # In the order of ids the lower position is the lower id, which is all that ties need.
        ids, order = ids.sort(stable=True)
        _refuse_duplicates(ids)
        self._vectors, self._ids = vectors[order].to(self.device), ids.to(self.device)

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        assert self._vectors is not None
        found = []
        for block in queries.to(self._vectors.device).split(self.query_block):
            best = block.new_empty(len(block), 0), self._ids.new_empty(len(block), 0)
            for start in range(0, len(self._vectors), self.vector_block):
                part = self._vectors[start : start + self.vector_block]
                values, where = top_k(similarities(block, part), k)
                best = _merge(*best, values, where + start, k)
            found.append(best)
        scores, positions = (torch.cat(parts) for parts in zip(*found, strict=True))
        return scores, self._ids[positions]


class FaissIndex(Index):
    """Search by a FAISS index on the CPU.

    Vectors wait until the first `search`, which trains the index on them if it needs training and adds them;
    what is added later goes in without training again. Only ``Flat`` is exact. Which of several vectors with
    exactly the score of the k-th are returned is FAISS's choice; those that are returned come in the order
    that `Index.search` promises.

    Args:
        factory: what ``faiss.index_factory`` takes: ``"Flat"``, ``"IVF256,Flat"``, ``"HNSW32"``,
            ``"IVF256,PQ32"``, ...
        metric: as in `Index`.
        nprobe: cells searched, for IVF; by default FAISS's own, 1.
        ef_search: candidates kept during the search, for HNSW; by default FAISS's own, 16.
        threads: threads for training, adding and searching; by default FAISS's own setting, which is all
            cores. The process-wide setting is put back afterwards.
        reproducible: insert into an HNSW graph with one thread, since with several the graph depends on their
            timing.

    Raises:
        ValueError: a setting is out of its range or does not apply to ``factory``; at the first `search`,
            ``factory`` is not understood or there are too few vectors to train it.

    Example:
        >>> index = FaissIndex("Flat", metric="cosine", threads=1)
        >>> index.add(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([10, 11]))
        >>> scores, ids = index.search(torch.tensor([[0.0, 2.0]]), k=1)
        >>> scores.tolist(), ids.tolist()
        ([[1.0]], [[11]])
    """

    def __init__(
        self,
        factory: str = "Flat",
        metric: Similarity = "cosine",
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
        super().__init__(metric)

    def _clear(self) -> None:
        self._index: Any = None
        self._ids = torch.empty(0, dtype=torch.int64)

    def _build(self, vectors: Tensor, ids: Tensor) -> None:
        all_ids = torch.cat([self._ids, ids.cpu()])
        _refuse_duplicates(all_ids.sort().values)
        array = vectors.cpu().numpy()
        index = self._index if self._index is not None else self._trained(array)
        one_thread = self.reproducible and "HNSW" in self.factory
        with _faiss_threads(1 if one_thread else self.threads):
            index.add(array)
        self._index, self._ids = index, all_ids

    def _trained(self, vectors: np.ndarray) -> Any:
        import faiss

        try:
            index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot build {self.factory!r} for dimension {vectors.shape[1]}: {_reason(error)}"
            ) from error
        if not index.is_trained:
            try:
                with _faiss_threads(self.threads):
                    index.train(vectors)
            except RuntimeError as error:
                raise ValueError(
                    f"{self.factory!r} cannot be trained on {len(vectors)} vectors: {_reason(error)}; use "
                    "'Flat', or a factory with fewer cells or bits"
                ) from error
        for name, value in {"nprobe": self.nprobe, "efSearch": self.ef_search}.items():
            if value is not None:
                faiss.ParameterSpace().set_index_parameter(index, name, value)
        return index

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        with _faiss_threads(self.threads):
            found, where = self._index.search(queries.cpu().numpy(), k)
        scores, positions = torch.from_numpy(found), torch.from_numpy(where)
        missing = positions < 0
        scores = scores.masked_fill(missing, -torch.inf)
        ids = self._ids[positions.clamp(min=0)].masked_fill(missing, torch.iinfo(torch.int64).max)
        ids, by_id = ids.sort(dim=1)
        scores, by_score = scores.gather(1, by_id).sort(dim=1, descending=True, stable=True)
        return scores, ids.gather(1, by_score).masked_fill(scores.isneginf(), -1)


@torch.no_grad()
def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row; of equal scores the one further left, which `torch.topk` leaves open.

    Args:
        scores: ``[q, n]`` float32 without NaN, ``n < 2**31``.
        k: >= 1; at most ``n`` are returned.

    Returns:
        values ``[q, min(k, n)]``, falling, and positions ``[q, min(k, n)]`` int64.

    Example:
        >>> values, positions = top_k(torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0]]), k=3)
        >>> values.tolist(), positions.tolist()
        ([[3.0, 3.0, 1.0]], [[1, 3, 0]])
    """
    n = scores.shape[1]
    k = min(k, n)
    # One more than asked for shows a tie across the edge.
    values, positions = scores.topk(min(k + 1, n), dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
    values, positions = values[:, :k], positions[:, :k]
    if bool(tied.any()):
        rows = tied.nonzero().squeeze(1)
        where = _unique_keys(scores[rows]).topk(k, dim=1).indices
        values, positions = values.clone(), positions.clone()
        values[rows], positions[rows] = scores[rows].gather(1, where), where
    return values, positions


def similarities(queries: Tensor, vectors: Tensor) -> Tensor:
    """``queries [q, d]`` times ``vectors [n, d]``, to ``[q, n]``, in full float32.

    Neither an autocast region around it nor a setting that allows TensorFloat-32 has a say: either would
    reorder close neighbours. Equal vectors get equal scores, wherever they stand.
    """
    with torch.autocast(queries.device.type, enabled=False), _full_float32(queries.device):
        product = padded(queries.float()) @ padded(vectors.float()).T
    return product[: len(queries), : len(vectors)]


def padded(vectors: Tensor) -> Tensor:
    """``vectors [n, d]`` with rows of zeros up to the next multiple of 16.

    BLAS computes what is left over at the edge of a matrix by other kernels, which add in another order: two
    equal vectors, or one vector in two blocks, would differ in the last bit, and ties would be decided by it.
    """
    return F.pad(vectors, (0, 0, 0, -len(vectors) % 16)) if len(vectors) % 16 else vectors


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    setting: Any = getattr(backend, "matmul", None)
    change: Callable[[str], None]
    if hasattr(setting, "fp32_precision"):
        change, full, before = partial(setattr, setting, "fp32_precision"), "ieee", setting.fp32_precision
    else:  # PyTorch before 2.9 has one setting for all backends.
        change, full = torch.set_float32_matmul_precision, "highest"
        before = torch.get_float32_matmul_precision()
    change(full)
    try:
        yield
    finally:
        change(before)


def _unique_keys(scores: Tensor) -> Tensor:
    """Int64 keys that sort like ``scores [q, n]`` and, where these are equal, like falling positions."""
    # Adding zero turns -0.0 into 0.0. Read as integers, negative floats sort backwards: flip them.
    bits = (scores + 0.0).view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return (bits.long() << 32) | torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)


def _merge(
    values: Tensor, where: Tensor, more_values: Tensor, more_where: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    # A stable sort keeps what came first, hence the lower positions, first among equals.
    values, order = torch.cat([values, more_values], 1).sort(dim=1, descending=True, stable=True)
    return values[:, :k], torch.cat([where, more_where], 1).gather(1, order[:, :k])


def _refuse_duplicates(sorted_ids: Tensor) -> None:
    twice = sorted_ids[1:] == sorted_ids[:-1]
    if bool(twice.any()):
        raise ValueError(f"id {int(sorted_ids[1:][twice][0])} was added twice; ids must be unique")


def _reason(error: RuntimeError) -> str:
    """The human part of a FAISS error, which is led by a C++ signature and a file name."""
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
