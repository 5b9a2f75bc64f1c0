"""Which candidates may serve as negatives.

A candidate that is as similar to the anchor as a true positive is often an unlabelled positive. The score
filters are those of NV-Retriever (Moreira et al., arXiv 2407.15831), for anchors with any number of
positives. Their arguments are named as in ``mine_hard_negatives`` of sentence-transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings, ExactIndex, Index
from lit_metric.index.representatives import near_duplicates
from lit_metric.mining.candidates import Candidates, PositiveScore, PositiveScores, check_positive_score

_BLOCK = 16384


class NegativeFilter(ABC):
    """A rule that keeps some of the candidates and drops the others."""

    @property
    def name(self) -> str:
        """The name in logs and samples."""
        return type(self).__name__

    def prepare(self, embeddings: Embeddings, relations: Relations) -> None:  # noqa: B027
        """Look at all items before any candidate is judged. Most filters need nothing."""

    @abstractmethod
    def keep(self, candidates: Candidates) -> Tensor:
        """``[A, K]`` bool: True where the candidate may be a negative. Empty places may be either."""


class CeilingFilter(NegativeFilter):
    """Keeps candidates by their score alone, below a ceiling that depends on the anchor's positives.

    A search can leave out the others while it ranks, so that they are never fetched.
    """

    @abstractmethod
    def ceiling(self, positives: PositiveScores) -> Tensor:
        """``[A]`` float32: a candidate that scores as much or more is dropped; NaN drops nothing."""

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        # Written as "not at or above" so that a missing positive (NaN) drops nothing.
        return ~(candidates.scores >= self.ceiling(candidates.positives)[:, None])


class RelationFilter(NegativeFilter):
    """Drops what the relations exclude: the anchor itself, its positives, and texts equal to one of those.

    A miner always applies this filter first; it needs no configuration.

    Args:
        relations: answers ``excluded_pairs(anchors [P], candidates [P])``.
    """

    def __init__(self, relations: Relations) -> None:
        self.relations = relations

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        return allowed(self.relations, candidates.anchors, candidates.ids)


def allowed(relations: Relations, anchors: Tensor, ids: Tensor) -> Tensor:
    """``[A, K]`` bool: where ``ids [A, K]`` are present (not -1) and may be negatives of ``anchors [A]``."""
    anchors = anchors[:, None].expand_as(ids)
    # The anchor itself is out whatever the relations say. They know no item -1.
    keep = (ids >= 0) & (ids != anchors)
    keep[keep.clone()] = ~relations.excluded_pairs(anchors[keep], ids[keep])
    return keep


class MaxScore(CeilingFilter):
    """Keeps s⁻ < ``max_score`` ("TopK-Abs").

    Args:
        max_score: on the scale of the index, so below 1 for cosine. NV-Retriever: 0.7.
    """

    def __init__(self, max_score: float = 0.7) -> None:
        self.max_score = max_score

    def ceiling(self, positives: PositiveScores) -> Tensor:
        """See :class:`CeilingFilter`."""
        return torch.full_like(positives.best, self.max_score)


class AbsoluteMargin(CeilingFilter):
    """Keeps s⁻ < s⁺ − ``margin`` ("TopK-MarginPos"). An anchor without positives keeps all candidates.

    Args:
        margin: on the scale of the index. NV-Retriever: 0.05 for cosine.
        positive_score: which positive s⁺ is, if there are several; see :class:`RelativeMargin`.

    Raises:
        ValueError: if ``positive_score`` is unknown.
    """

    def __init__(self, margin: float = 0.05, positive_score: PositiveScore = "mean") -> None:
        check_positive_score(positive_score)
        self.margin = margin
        self.positive_score: PositiveScore = positive_score

    def ceiling(self, positives: PositiveScores) -> Tensor:
        """See :class:`CeilingFilter`."""
        return positives.of(self.positive_score) - self.margin


class RelativeMargin(CeilingFilter):
    """Keeps s⁻ < (1 − ``margin``) · s⁺ ("TopK-PercPos", NV-Retriever's best). An anchor without positives
    keeps all candidates.

    A share of a score that is not positive means nothing: 95% of −0.2 is −0.19, *above* the positive. The
    ceiling is therefore min((1 − ``margin``) · s⁺, s⁺). It is continuous at s⁺ = 0, never falls as s⁺ rises,
    and never admits a candidate that is more similar than the positive.

    Args:
        margin: at least 0 and below 1.
        positive_score: which positive s⁺ is, if there are several. ``"mean"`` suspects candidates that are
            about as near as a typical positive. ``"best"`` suspects only those about as near as the nearest
            positive; it leaves the hardest negatives, for reliable labels, or classes of several clusters.
            ``"worst"`` admits only candidates farther than every positive, for anchors with few positives.

    Raises:
        ValueError: if ``margin`` is out of range, or ``positive_score`` is unknown.
    """

    def __init__(self, margin: float = 0.05, positive_score: PositiveScore = "mean") -> None:
        if not 0 <= margin < 1:
            raise ValueError(
                f"margin={margin} must be at least 0 and below 1: 0.05 keeps candidates below 95% of the "
                "positive's score"
            )
        check_positive_score(positive_score)
        self.margin = margin
        self.positive_score: PositiveScore = positive_score

    def ceiling(self, positives: PositiveScores) -> Tensor:
        """See :class:`CeilingFilter`."""
        positive = positives.of(self.positive_score)
        return torch.minimum((1 - self.margin) * positive, positive)


class FloorFilter(NegativeFilter):
    """Keeps s⁻ > s⁺ − ``margin``: the candidates that violate a triplet margin. An anchor without positives
    keeps all candidates.

    The others have no loss under a hinge of that margin, so they would only cost encodings. It is the
    opposite of :class:`AbsoluteMargin`; with both, candidates come from a band below the positive.

    Args:
        margin: on the scale of the index; that of the triplet loss, whose cosines are those of an index.
        positive_score: which positive s⁺ is, if there are several; see :class:`RelativeMargin`.

    Raises:
        ValueError: if ``positive_score`` is unknown.
    """

    def __init__(self, margin: float = 0.2, positive_score: PositiveScore = "mean") -> None:
        check_positive_score(positive_score)
        self.margin = margin
        self.positive_score: PositiveScore = positive_score

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        floor = candidates.positives.of(self.positive_score) - self.margin
        # Written as "not at or below" so that a missing positive (NaN) drops nothing.
        return ~(candidates.scores <= floor[:, None])


class RankRange(NegativeFilter):
    """Keeps the candidates with ranks ``range_min`` to ``range_max`` − 1, counted from 0.

    The very first neighbours are the likeliest unlabelled positives ("top-k shifted by N"). The rank counts
    only candidates that the filters before this one kept.

    Args:
        range_min: how many candidates to skip.
        range_max: where to end; None: at the last candidate.

    Raises:
        ValueError: if ``range_min`` is below 0, or ``range_max`` is not above it.
    """

    def __init__(self, range_min: int = 0, range_max: int | None = None) -> None:
        if range_min < 0 or (range_max is not None and range_max <= range_min):
            raise ValueError(f"range_min={range_min} must be at least 0, and range_max={range_max} above it")
        self.range_min = range_min
        self.range_max = range_max

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        ranks = candidates.ranks
        keep = ranks >= self.range_min
        return keep if self.range_max is None else keep & (ranks < self.range_max)


class DuplicateFilter(NegativeFilter):
    """Drops candidates from the anchor's cluster of near duplicates, whatever their labels say.

    An item is joined to those of its nearest neighbours whose similarity is at least ``threshold``. Chains
    of joined items are one cluster (:func:`~lit_metric.index.representatives.near_duplicates`). This finds
    the paraphrase of a paraphrase, which :class:`MaxScore` misses, as it looks at single pairs. A threshold
    that is too low chains half of the corpus together.

    Each mining searches all items among all items once more; the search is exact without ``index``.

    Args:
        threshold: on the scale of ``index``; cosines from 0.95 on hardly occur but among duplicates.
        neighbours: how many of an item's neighbours to look at, at least 1. Clusters may be larger. A copy
            is missed only if the item has more than this number of nearer copies.
        index: searches; exact cosine search by default.

    Raises:
        ValueError: if ``neighbours`` is below 1.
    """

    def __init__(self, threshold: float = 0.95, neighbours: int = 10, index: Index | None = None) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours={neighbours} must be at least 1")
        self.threshold = threshold
        self.neighbours = neighbours
        self.index = ExactIndex() if index is None else index
        self._embeddings: Embeddings | None = None
        self._clusters = torch.empty(0, dtype=torch.int64)

    def prepare(self, embeddings: Embeddings, relations: Relations) -> None:
        """See :class:`NegativeFilter`."""
        rows = torch.arange(len(embeddings)).split(_BLOCK)
        self.index.reset()
        self._clusters = near_duplicates(
            self.index, lambda: ((some, embeddings[some]) for some in rows), self.threshold, self.neighbours
        )
        self.index.reset()
        self._embeddings = embeddings

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        anchors = candidates.anchors[:, None]
        return self.clusters(anchors) != self.clusters(
            torch.where(candidates.present, candidates.ids, anchors)
        )

    def clusters(self, ids: Tensor) -> Tensor:
        """The cluster numbers of the items ``ids``, in the same shape.

        Raises:
            RuntimeError: before :meth:`prepare`.
            KeyError: for an item that :meth:`prepare` did not see.
        """
        if self._embeddings is None:
            raise RuntimeError("call prepare() first: no item has a cluster yet")
        return self._clusters[self._embeddings.rows(ids)]
