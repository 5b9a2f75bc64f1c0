"""Exact search as a matrix product in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.files import write_array
from lit_metric.index.base import Index, LeftOut, Similarity, refuse_duplicates
from lit_metric.index.products import similarities, top_k
from lit_metric.index.stored import StoredIndexError, read_array


class ExactIndex(Index):
    """Exact search as a matrix product, block by block, on whatever device the vectors are.

    Memory beyond the vectors is that of one block of scores, whatever the numbers of queries and vectors.

    Args:
        metric: as in `Index`.
        query_block: queries in one block, >= 1.
        vector_block: vectors in one block, >= 1.
        threads: of torch while it searches; by default its own setting, which is put back afterwards.
        device: where the vectors are kept and searched; by default where those of the first `add` are.

    Example:
        >>> index = ExactIndex(metric="dot")
        >>> index.add(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([7, 3, 5]))
        >>> scores, ids = index.search(torch.tensor([[2.0, 1.0]]), k=4)
        >>> scores.tolist(), ids.tolist()
        ([[2.0, 2.0, 1.0, -inf]], [[5, 7, 3, -1]])
        >>> index.search(torch.tensor([[2.0, 1.0]]), k=2, left_out=lambda rows, ids, _: ids[None] == 5)[1]
        tensor([[7, 3]])
    """

    def __init__(
        self,
        metric: Similarity = "cosine",
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
        super().__init__(metric)

    def _clear(self) -> None:
        self._vectors: Tensor | None = None
        self._ids = torch.empty(0, dtype=torch.int64)

    def _build(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        built = [] if self._vectors is None else [(self._vectors, self._ids)]
        first = (built or parts)[0][0]
        device = first.device if self.device is None else self.device
        # In the order of ids the lower position is the lower id, which is all that ties need.
        ids, order = torch.cat([ids.to(device) for _, ids in [*built, *parts]]).sort(stable=True)
        refuse_duplicates(ids)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=device)
        vectors = torch.empty(len(ids), first.shape[1], device=device)
        self._vectors, start = None, 0
        del first
        for queue in (built, parts):
            while queue:
                part = queue.pop(0)[0]
                vectors[place[start : start + len(part)]] = part.to(device)
                start += len(part)
        self._vectors, self._ids = vectors, ids

    @property
    def leaves_out(self) -> bool:
        """True."""
        return True

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores, positions = self._search_blocks(queries, k, None)
        return scores, self._ids[positions]

    def _search_without(self, queries: Tensor, k: int, left_out: LeftOut) -> tuple[Tensor, Tensor]:
        scores, positions = self._search_blocks(queries, k, left_out)
        return scores, self._ids[positions].masked_fill_(scores.isneginf(), -1)

    def _search_blocks(self, queries: Tensor, k: int, left_out: LeftOut | None) -> tuple[Tensor, Tensor]:
        assert self._vectors is not None
        queries = queries.to(self._vectors.device)
        with _torch_threads(self.threads):
            found = []
            for start in range(0, len(queries), self.query_block):
                rows = slice(start, min(start + self.query_block, len(queries)))
                found.append(self._search_block(queries[rows], k, left_out and partial(left_out, rows)))
            scores, positions = (torch.cat(parts) for parts in zip(*found, strict=True))
            return scores, positions

    def _search_block(
        self, queries: Tensor, k: int, left_out: Callable[[Tensor, Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        assert self._vectors is not None
        best = queries.new_empty(len(queries), 0), self._ids.new_empty(len(queries), 0)
        for start in range(0, len(self._vectors), self.vector_block):
            block = slice(start, start + self.vector_block)
            scores = similarities(queries, self._vectors[block])
            if left_out is not None:
                scores.masked_fill_(left_out(self._ids[block], scores), -torch.inf)
            values, where = top_k(scores, k, empty=left_out is not None)
            best = _merge(*best, values, where + start, k)
        return best

    def _settings(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "query_block": self.query_block,
            "vector_block": self.vector_block,
        }

    def _write(self, folder: Path) -> None:
        assert self._vectors is not None
        write_array(folder / "vectors.npy", self._vectors.cpu().numpy())
        write_array(folder / "ids.npy", self._ids.cpu().numpy())

    def _read(self, folder: Path, shape: tuple[int, int], memory_map: bool) -> None:
        vectors = read_array(folder, "vectors", np.float32, shape, memory_map)
        ids = torch.from_numpy(read_array(folder, "ids", np.int64, shape[:1]))
        if bool((ids.diff() <= 0).any()):
            raise StoredIndexError(f"{folder / 'ids.npy'}: the ids of an exact index must rise; save it anew")
        self._vectors, self._ids = torch.from_numpy(vectors).to(self.device), ids.to(self.device)


def _merge(
    values: Tensor, where: Tensor, more_values: Tensor, more_where: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    # A stable sort keeps what came first, hence the lower positions, first among equals.
    values, order = torch.cat([values, more_values], 1).sort(dim=1, descending=True, stable=True)
    return values[:, :k], torch.cat([where, more_where], 1).gather(1, order[:, :k])


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
