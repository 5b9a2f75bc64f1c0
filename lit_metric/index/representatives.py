"""Search among one representative of each cluster of near duplicates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.index.base import Index, StoredIndexError, refuse_duplicates
from lit_metric.index.components import components
from lit_metric.index.exact import ExactIndex
from lit_metric.store import read_array, write_array

_BLOCK = 16384


class RepresentativeIndex(Index):
    """Any index, in which one vector of each cluster of near duplicates stands for all of them.

    A cluster is what chains of near pairs join, see :func:`near_duplicates`; its vector with the lowest id
    stands for it, and is the only one that a search scans and finds. What is added later joins the cluster of
    the nearest representative, if that is near enough, and forms new clusters if not.

    Building searches all vectors among all once, by a second ``index``, and holds them twice meanwhile.

    Args:
        index: what searches the representatives; exact cosine search by default.
        threshold: from which similarity on two vectors are near duplicates, on the scale of ``index``.
        neighbours: how many of a vector's neighbours are looked at, at least 1.

    Raises:
        ValueError: if there are to be no neighbours.

    Example:
        >>> index = RepresentativeIndex(threshold=0.99)
        >>> index.add(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.01, 1.0]]), torch.tensor([5, 8, 7]))
        >>> index.search(torch.tensor([[0.0, 2.0]]), k=3)[1].tolist(), len(index), len(index.index)
        ([[7, 5, -1]], 3, 2)
        >>> index.representatives(torch.tensor([8, 5])).tolist()
        [7, 5]
    """

    def __init__(self, index: Index | None = None, threshold: float = 0.95, neighbours: int = 10) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours={neighbours} must be at least 1")
        self.index = ExactIndex() if index is None else index
        self.threshold = threshold
        self.neighbours = neighbours
        super().__init__(self.index.metric)

    def representatives(self, ids: Tensor) -> Tensor:
        """The ids of those that stand for ``ids``, in the same shape.

        Raises:
            KeyError: names an id that was not added.
        """
        self._settle()
        places = torch.searchsorted(self._members, ids.cpu()).clamp(max=max(0, len(self._members) - 1))
        if len(missing := ids[(self._members[places] != ids.cpu()).to(ids.device)]):
            raise KeyError(f"id {int(missing[0])} was not added to the index")
        return self._representatives[places].to(ids.device)

    def _clear(self) -> None:
        self.index.reset()
        self._members = self._representatives = torch.empty(0, dtype=torch.int64)

    def _build(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        ids, order = torch.cat([ids.cpu() for _, ids in parts]).sort()
        refuse_duplicates(torch.cat([ids, self._members]).sort().values)
        vectors = torch.cat([vectors for vectors, _ in parts])[order.to(parts[0][0].device)]
        joined = self._joined(vectors)
        new = (joined < 0).nonzero()[:, 0]
        empty = copy.copy(self.index)
        empty.reset()
        clusters = near_duplicates(empty, lambda: _blocks(vectors, new), self.threshold, self.neighbours)
        empty.reset()
        joined[new] = ids[new[clusters]]
        chosen = joined == ids
        self.index.add(vectors[chosen.to(vectors.device)], ids[chosen])
        members, order = torch.cat([self._members, ids]).sort()
        self._representatives = torch.cat([self._representatives, joined])[order]
        self._members = members
        parts.clear()

    def _joined(self, vectors: Tensor) -> Tensor:
        """``[n]`` the representative among those that are there already, -1 for none."""
        joined = torch.full((len(vectors),), -1)
        if len(self.index):
            for rows, block in _blocks(vectors, torch.arange(len(vectors))):
                scores, found = (values[:, 0].cpu() for values in self.index.search(block, 1))
                joined[rows] = found.masked_fill(scores < self.threshold, -1)
        return joined

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return self.index.search(queries, k)

    def _settings(self) -> dict[str, Any]:
        inner = {"kind": type(self.index).__name__, "settings": self.index._settings()}
        return {"index": inner, "threshold": self.threshold, "neighbours": self.neighbours}

    def _write(self, folder: Path) -> None:
        self.index._settle()
        self.index._write(folder)
        write_array(folder / "members.npy", self._members.numpy())
        write_array(folder / "representatives.npy", self._representatives.numpy())

    def _read(self, folder: Path, shape: tuple[int, int], memory_map: bool) -> None:
        self._members, self._representatives = (
            torch.from_numpy(read_array(folder, name, np.int64, shape[:1], StoredIndexError))
            for name in ("members", "representatives")
        )
        self.index._restore(folder, len(self._representatives.unique()), shape[1], memory_map)


def near_duplicates(
    index: Index, blocks: Callable[[], Iterable[tuple[Tensor, Tensor]]], threshold: float, neighbours: int
) -> Tensor:
    """Clusters of rows, joined to those of their nearest neighbours that are near enough.

    What hangs together so, also over several steps, is one cluster: single linkage on the neighbours' graph.

    Args:
        index: empty; what searches. It holds all vectors in the end.
        blocks: gives pairs of rows ``[b]``, from 0 on without gaps, and vectors ``[b, d]``; called twice.
        threshold: from which similarity on two rows are joined.
        neighbours: how many of each row's neighbours are looked at.

    Returns:
        ``[n]`` int64, the lowest row of each row's cluster.
    """
    for rows, block in blocks():
        index.add(block, rows)
    ends = [torch.empty(2, 0, dtype=torch.int64)]
    for rows, block in blocks():
        # One more, as a vector is its own nearest neighbour.
        scores, found = (values.cpu() for values in index.search(block, neighbours + 1))
        near = (scores >= threshold) & (found >= 0)
        ends.append(torch.stack([rows[:, None].expand(near.shape)[near], found[near]]))
    first, second = torch.cat(ends, dim=1)
    return components(first, second, len(index))


def _blocks(vectors: Tensor, rows: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """The vectors of ``rows``, which are numbered from 0."""
    for places in torch.arange(len(rows)).split(_BLOCK):
        yield places, vectors[rows[places].to(vectors.device)]
