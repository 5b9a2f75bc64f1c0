"""Exact search as a matrix product in torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_metric.index.base import Exclude, Index, Similarity, StoredIndexError
from lit_metric.index.scores import RunningTop, similarities
from lit_metric.store import read_array, write_array

_TILE = 2048
_MOST = 0.6
_WIDE = 16


class ExactIndex(Index):
    """Exact search as a matrix product, block by block, on the device of the vectors.

    Memory beyond the vectors and the results is that of one block of scores, whatever the numbers of queries
    and vectors.

    Args:
        similarity: as in `Index`.
        query_block: queries in one block, >= 1.
        vector_block: vectors in one block, >= 1.
        device: where the vectors are kept and searched; by default the device of the first added vectors.
        threads: of torch during a search; by default its own setting, which is restored afterwards.

    Example:
        >>> index = ExactIndex(similarity="dot")
        >>> index.add(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([7, 3, 5]))
        >>> scores, ids = index.search(torch.tensor([[2.0, 1.0]]), k=4)
        >>> scores.tolist(), ids.tolist()
        ([[2.0, 2.0, 1.0, -inf]], [[5, 7, 3, -1]])
        >>> index.search(torch.tensor([[2.0, 1.0]]), k=2, exclude=lambda rows, ids, _: ids[None] == 5)[1]
        tensor([[7, 3]])
    """

    excludes = True

    def __init__(
        self,
        similarity: Similarity = "cosine",
        query_block: int = 1024,
        vector_block: int = 16384,
        device: str | torch.device | None = None,
        threads: int | None = None,
    ) -> None:
        if query_block < 1 or vector_block < 1:
            raise ValueError(f"blocks must be at least 1, got {query_block} and {vector_block}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.query_block = query_block
        self.vector_block = vector_block
        self.device = device
        self.threads = threads
        super().__init__(similarity)

    def _clear(self) -> None:
        self._vectors: Tensor | None = None
        self._ids = torch.empty(0, dtype=torch.int64)

    def _build(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        built = [] if self._vectors is None else [(self._vectors, self._ids)]
        first = (built or parts)[0][0]
        device = first.device if self.device is None else self.device
        # In the order of ids the lower position is the lower id, which is all that ties need.
        ids, order = torch.cat([ids.to(device) for _, ids in [*built, *parts]]).sort(stable=True)
        self._refuse_duplicates(ids)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=device)
        vectors = torch.empty(len(ids), first.shape[1], dtype=torch.float32, device=device)
        self._vectors, start = None, 0
        del first
        for queue in (built, parts):
            while queue:
                part = queue.pop(0)[0]
                vectors[place[start : start + len(part)]] = part.to(device)
                start += len(part)
        self._vectors, self._ids = vectors, ids

    def holds(self, ids: Tensor) -> bool:
        """Whether there is a vector under each of ``ids [n]``."""
        self._settle()
        return bool(torch.isin(ids.to(self._ids.device), self._ids).all())

    @torch.no_grad()
    def search_by_id(self, ids: Tensor, k: int, exclude: Exclude | None = None) -> tuple[Tensor, Tensor]:
        """`search` with vectors of the index as queries, which find themselves unless they are excluded.

        On a CPU each product of two of them is computed once for both. With most vectors as queries, and
        ``k`` at most 128, that saves nearly half of the multiplications; the results are the same.

        Args:
            ids: ``[q]`` int64, rising, all in the index.
            k, exclude: as in `search`; rows are those of ``ids``.

        Returns:
            Scores ``[q, k]`` and ids ``[q, k]``, as from `search`, on the device of the vectors.

        Raises:
            ValueError: ``k`` is below 1, an id is not in the index, or they don't rise.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self._settle()
        ids = ids.to(self._ids.device)
        if len(missing := ids[~torch.isin(ids, self._ids)]):
            raise ValueError(f"id {int(missing[0])} is not in the index")
        if bool((ids.diff() <= 0).any()):
            raise ValueError("ids must rise: sort them, and give each once")
        places = torch.searchsorted(self._ids, ids)
        if self._vectors is None or not len(places):
            return torch.empty(0, k, dtype=torch.float32), self._ids.new_empty(0, k)
        few = len(places) < _MOST * len(self)
        if self._vectors.device.type != "cpu" or few or k > _TILE // _WIDE:
            return self._search(self._vectors[places], k, exclude)
        with self._torch_threads():
            return self._search_tiles(places, k, exclude)

    def _search(self, queries: Tensor, k: int, exclude: Exclude | None) -> tuple[Tensor, Tensor]:
        assert self._vectors is not None
        queries = queries.to(self._vectors.device)
        with self._torch_threads():
            found = []
            for start in range(0, len(queries), self.query_block):
                rows = slice(start, min(start + self.query_block, len(queries)))
                found.append(self._search_block(queries[rows], k, exclude and partial(exclude, rows)))
            return self._joined(found)

    def _joined(self, found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        scores, places = (torch.cat(parts) for parts in zip(*found, strict=True))
        return scores, self._ids[places].masked_fill_(places < 0, -1)

    def _search_tiles(self, places: Tensor, k: int, exclude: Exclude | None) -> tuple[Tensor, Tensor]:
        """The upper triangle of all products; a block of queries meets the other blocks in their order."""
        assert self._vectors is not None
        blocks = [slice(start, start + _TILE) for start in range(0, len(self._vectors), _TILE)]
        edges = torch.searchsorted(places, torch.tensor([*(b.start for b in blocks), len(self._vectors)]))
        rows_of = [slice(*pair) for pair in itertools.pairwise(edges.tolist())]
        tops = [RunningTop(rows.stop - rows.start, k, places.device) for rows in rows_of]

        def add(query: int, scores: Tensor, other: int) -> None:
            rows, block = rows_of[query], blocks[other]
            if rows.stop - rows.start < len(scores):
                scores = scores[places[rows] - blocks[query].start]
            if len(scores):
                excluded = exclude and exclude(rows, self._ids[block], scores)
                tops[query].add(scores, block.start, excluded)

        found = []
        for query, block in enumerate(blocks):
            for other in range(query, len(blocks)):
                scores = similarities(self._vectors[block], self._vectors[blocks[other]])
                if other > query:
                    add(other, scores.T.contiguous(), query)
                add(query, scores, other)
            found.append(tops[query].result())
        return self._joined(found)

    def _search_block(
        self, queries: Tensor, k: int, exclude: Callable[[Tensor, Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        assert self._vectors is not None
        top = RunningTop(len(queries), k, queries.device)
        # Each block is as long as all before it, so that few scores pass the best of those.
        start, size = 0, min(max(_TILE, _WIDE * k), self.vector_block)
        while start < len(self._vectors):
            block = slice(start, start + size)
            scores = similarities(queries, self._vectors[block])
            top.add(scores, start, exclude and exclude(self._ids[block], scores))
            start += size
            size = min(start, self.vector_block)
        return top.result()

    @contextmanager
    def _torch_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("similarity", "query_block", "vector_block")}

    def _write(self, folder: Path) -> None:
        assert self._vectors is not None
        write_array(folder / "vectors.npy", self._vectors.cpu().numpy())
        write_array(folder / "ids.npy", self._ids.cpu().numpy())

    def _read(self, folder: Path, shape: tuple[int, int], memory_map: bool) -> None:
        # Copy on write: torch takes no read-only array, and the file stays as it is.
        mode: Literal["c"] | None = "c" if memory_map else None
        vectors = read_array(folder, "vectors", np.float32, shape, StoredIndexError, mode)
        ids = torch.from_numpy(read_array(folder, "ids", np.int64, shape[:1], StoredIndexError))
        if bool((ids.diff() <= 0).any()):
            raise StoredIndexError(
                f"{folder / 'ids.npy'}: the ids of an exact index must rise; save it again"
            )
        self._vectors, self._ids = torch.from_numpy(vectors).to(self.device), ids.to(self.device)
