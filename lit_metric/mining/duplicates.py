"""Near duplicates: items so alike that they are the same thing, whatever their labels say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_metric.index import ExactIndex, Index
from lit_metric.index.representatives import near_duplicates
from lit_metric.mining.candidates import Candidates
from lit_metric.mining.filters import NegativeFilter
from lit_metric.mining.vectors import Vectors

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations

_BLOCK = 16384


class DuplicateFilter(NegativeFilter):
    """Drops candidates out of the anchor's cluster of near duplicates.

    Every item is joined to those of its nearest neighbours whose similarity is at least ``threshold``; what
    hangs together so, also over several steps, is one cluster (see
    :func:`~lit_metric.index.representatives.near_duplicates`). So a paraphrase of a paraphrase is found as
    well, where :class:`MaxScore` looks at one pair alone; a threshold that is too low chains half of the
    corpus together.

    Each mining searches all items among all once more, exactly if no ``index`` is given.

    Args:
        threshold: on the scale of ``index``; 0.95 on cosine is rarely anything but a duplicate.
        neighbours: how many of an item's neighbours are looked at, at least 1. Clusters may be larger; a
            copy may be missed only where an item has more copies than that nearer to it.
        index: what searches; exact cosine search by default.

    Raises:
        ValueError: if there are to be no neighbours.
    """

    def __init__(self, threshold: float = 0.95, neighbours: int = 10, index: Index | None = None) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours={neighbours} must be at least 1")
        self.threshold = threshold
        self.neighbours = neighbours
        self.index = ExactIndex() if index is None else index
        self._ids = self._clusters = torch.empty(0, dtype=torch.int64)

    def prepare(self, vectors: Vectors, ids: Tensor, relations: Relations) -> None:
        """See :class:`NegativeFilter`."""
        self.index.reset()
        clusters = near_duplicates(
            self.index, lambda: vectors.blocks(_BLOCK), self.threshold, self.neighbours
        )
        self.index.reset()
        self._ids, order = ids.sort()
        self._clusters = clusters[order]

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        own, others = self.clusters(candidates.anchors), self.clusters(candidates.ids.clamp(min=0))
        return own[:, None] != others

    def clusters(self, ids: Tensor) -> Tensor:
        """The number of each item's cluster, in the shape of ``ids``, which are among those last prepared."""
        return self._clusters[torch.searchsorted(self._ids, ids).clamp(max=len(self._ids) - 1)]
