"""Search among one representative of each cluster of near duplicates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lit_metric.index.base import Exclude, Index, StoredIndexError, index_from
from lit_metric.index.exact import ExactIndex
from lit_metric.store import read_array, write_array

_BLOCK = 16384
_MOST_LINKED = 10_000

Linkage = Literal["single", "complete"]


class RepresentativeIndex(Index):
    """Any index, with one vector in the place of each cluster of near duplicates.

    Chains of near pairs form a cluster, see :func:`near_duplicates`. The vector with the lowest id represents
    it: a search scans and finds only representatives. A vector that is added later joins the cluster of the
    nearest representative if that is near enough, and else forms a new cluster.

    Building the index searches all vectors among all once, with a second ``index``, and holds them twice.

    Args:
        index: searches the representatives; exact cosine search by default.
        threshold: two vectors are near duplicates from this similarity on, in the similarity of ``index``.
        neighbours: number of nearest neighbours of each vector that are compared with ``threshold``, >= 1.

    Raises:
        ValueError: ``neighbours`` is below 1.

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
        super().__init__(self.index.similarity)

    def representatives(self, ids: Tensor) -> Tensor:
        """The ids of the vectors that represent ``ids``, in the same shape.

        Raises:
            KeyError: an id was not added.
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
        self._refuse_duplicates(torch.cat([ids, self._members]).sort().values)
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
        """``[n]`` ids of near representatives that are in the index already, -1 for none."""
        joined = torch.full((len(vectors),), -1)
        if len(self.index):
            for rows, block in _blocks(vectors, torch.arange(len(vectors))):
                scores, found = (values[:, 0].cpu() for values in self.index.search(block, 1))
                joined[rows] = found.masked_fill(scores < self.threshold, -1)
        return joined

    def _search(self, queries: Tensor, k: int, exclude: Exclude | None) -> tuple[Tensor, Tensor]:
        return self.index.search(queries, k)

    def _settings(self) -> dict[str, Any]:
        settings = {"threshold": self.threshold, "neighbours": self.neighbours}
        return {"index": self.index._described(), **settings}

    @classmethod
    def _from_settings(
        cls, settings: dict[str, Any], threads: int | None, device: str | torch.device | None
    ) -> RepresentativeIndex:
        return cls(**{**settings, "index": index_from(settings["index"], threads, device)})

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
    """Cluster rows: each row joins those of its nearest neighbours that are near enough.

    Rows that are connected over several steps are one cluster: single linkage on the graph of neighbours.

    Args:
        index: an empty index for the search. It holds all vectors in the end.
        blocks: returns pairs of rows ``[b]``, from 0 on without gaps, and vectors ``[b, d]``; called twice.
        threshold: two rows are joined from this similarity on.
        neighbours: number of nearest neighbours of each row that are compared with ``threshold``.

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
    first, second = torch.cat(ends, dim=1).numpy()
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(len(index), len(index)))
    count, cluster = connected_components(graph, directed=False)
    lowest = np.full(count, len(index))
    np.minimum.at(lowest, cluster, np.arange(len(index)))
    return torch.from_numpy(lowest[cluster])


def linked(clusters: Tensor, vectors: Tensor, threshold: float) -> Tensor:
    """Divide clusters by complete linkage: the cosine of any two rows of one is at least ``threshold``.

    Clusters are joined in the order of their least cosine, the largest first, as long as it is large enough.

    Args:
        clusters: ``[n]`` int64, equal for rows of one cluster, as of :func:`near_duplicates`.
        vectors: ``[n, d]``.
        threshold: a cosine.

    Returns:
        ``[n]`` int64, the lowest row of each row's cluster.

    Raises:
        ValueError: if a cluster has more than 10,000 rows, whose pairs would be too many to compare.

    Example:
        >>> angles = torch.tensor([0.0, 0.2, 0.4])
        >>> chain = torch.stack([angles.cos(), angles.sin()], dim=1)
        >>> linked(torch.tensor([0, 0, 0]), chain, threshold=0.97).tolist()  # cos 0.2 = 0.98, cos 0.4 = 0.92
        [0, 0, 2]
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # a quarter of a second, which few need
    from scipy.spatial.distance import squareform

    found = torch.arange(len(clusters))
    order = clusters.sort(stable=True).indices
    for rows in order.split(torch.unique(clusters, return_counts=True)[1].tolist()):
        if len(rows) > _MOST_LINKED:
            raise ValueError(
                f"a cluster of near duplicates has {len(rows)} items, too many to compare all pairs: raise "
                f"the threshold, which is {threshold}"
            )
        if len(rows) > 1:
            unit = torch.nn.functional.normalize(vectors[rows.to(vectors.device)].double(), dim=1)
            far = (1 - unit @ unit.T).clamp(min=0).cpu()
            pairs = squareform(far.numpy(), checks=False)
            joined = fcluster(linkage(pairs, "complete"), 1 - threshold, "distance")
            lowest = np.full(joined.max() + 1, len(clusters))
            np.minimum.at(lowest, joined, rows.numpy())
            found[rows] = torch.from_numpy(lowest[joined])
    return found


def _blocks(vectors: Tensor, rows: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Blocks of places in ``rows``, from 0 on, and the vectors of those rows."""
    for places in torch.arange(len(rows)).split(_BLOCK):
        yield places, vectors[rows[places].to(vectors.device)]
