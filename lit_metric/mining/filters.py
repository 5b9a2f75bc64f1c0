"""Which candidates may serve as negatives.

A candidate that is as similar to the anchor as a true positive is often an unlabelled positive. The score
filters here are those of NV-Retriever (Moreira et al., arXiv 2407.15831), for anchors with any number of
positives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_metric.mining.candidates import Candidates, PositiveScores, Reference, check_reference

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations
    from lit_metric.mining.vectors import Vectors


class NegativeFilter(ABC):
    """A rule that keeps some of the candidates and drops the rest."""

    @property
    def name(self) -> str:
        """What logs and samples call it."""
        return type(self).__name__

    def prepare(self, vectors: Vectors, ids: Tensor, relations: Relations) -> None:  # noqa: B027
        """Learn what is needed of the ``M`` items to be mined, with their ids ``[M]``, before any is judged;
        most need nothing."""

    @abstractmethod
    def keep(self, candidates: Candidates) -> Tensor:
        """``[A, K]`` bool: True where the candidate may be a negative. Empty places may be either."""


class CeilingFilter(NegativeFilter):
    """Keeps candidates by their score alone, below a ceiling that depends on the anchor's positives.

    A search can leave out the others while it ranks, so that they are never fetched.
    """

    @abstractmethod
    def ceiling(self, positives: PositiveScores) -> Tensor:
        """``[A]`` float32: what scores as much or more is dropped; NaN drops nothing."""

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        # Written as "not at or above" so that a missing positive (NaN) drops nothing.
        return ~(candidates.scores >= self.ceiling(candidates.positives)[:, None])


class RelationFilter(NegativeFilter):
    """Never the anchor itself, never one of its positives, never a text equal to one of those, never a pair
    that the relations leave out.

    A miner always applies this one first; it needs no configuration.

    Args:
        relations: answers ``excluded_pairs(anchors [P], candidates [P])``.
    """

    def __init__(self, relations: Relations) -> None:
        self.relations = relations

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        return allowed(self.relations, candidates.anchors, candidates.ids)


class MaxScore(CeilingFilter):
    """Keeps s⁻ < ``maximum`` ("TopK-Abs").

    Args:
        maximum: on the scale of the index: at most 1 says something for cosine. NV-Retriever: 0.7.
    """

    def __init__(self, maximum: float = 0.7) -> None:
        self.maximum = maximum

    def ceiling(self, positives: PositiveScores) -> Tensor:
        """See :class:`CeilingFilter`."""
        return torch.full_like(positives.best, self.maximum)


class AbsoluteMargin(CeilingFilter):
    """Keeps s⁻ < s⁺ − ``margin`` ("TopK-MarginPos"). An anchor without positives keeps all of its candidates.

    Args:
        margin: on the scale of the index. NV-Retriever: 0.05 on cosine.
        reference: which positive s⁺ is, where there are several; see :class:`RelativeMargin`.
    """

    def __init__(self, margin: float = 0.05, reference: Reference = "mean") -> None:
        check_reference(reference)
        self.margin = margin
        self.reference: Reference = reference

    def ceiling(self, positives: PositiveScores) -> Tensor:
        """See :class:`CeilingFilter`."""
        return positives.of(self.reference) - self.margin


class RelativeMargin(CeilingFilter):
    """Keeps s⁻ < ``share`` · s⁺ ("TopK-PercPos", NV-Retriever's best). An anchor without positives keeps all
    of its candidates.

    A percentage of a score that is not positive means nothing: 95% of −0.2 is −0.19, *above* the positive.
    There the ceiling is s⁺ itself, so s⁻ < min(``share`` · s⁺, s⁺) throughout. That joins the rule at s⁺ = 0,
    never falls as s⁺ rises, and never lets pass a candidate that is more similar than the positive; to drop
    all or nothing for such anchors would jump at 0.

    Args:
        share: between 0 and 1.
        reference: which positive s⁺ is, where there are several; all are the same for an anchor with one.
            ``"mean"``: what is about as near as a typical positive is suspected. ``"best"`` suspects only
            what is about as near as the nearest positive: it leaves the hardest negatives, for labels that
            can be trusted, or classes that fall into several clusters. ``"worst"``: a negative must be
            farther than every positive, for anchors with few. *Measured* on 4,000 questions of BANKING77 with
            a frozen MiniLM-L6, 15% of the labels replaced at random, ten negatives each: 35% of what was
            mined without a filter truly belonged to the anchor's class, 22% with ``"best"``, 2% with
            ``"mean"``; ``"worst"`` left only far items. With the right labels, ``"mean"`` lowered the
            negatives' mean cosine from 0.66 to 0.54.
    """

    def __init__(self, share: float = 0.95, reference: Reference = "mean") -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: the share of the positive's score must lie in (0, 1]")
        check_reference(reference)
        self.share = share
        self.reference: Reference = reference

    def ceiling(self, positives: PositiveScores) -> Tensor:
        """See :class:`CeilingFilter`."""
        positive = positives.of(self.reference)
        return torch.minimum(self.share * positive, positive)


class RankRange(NegativeFilter):
    """Keeps the candidates ranked ``start`` to ``stop`` − 1, counted from 0 ("top-k shifted by N": the very
    first neighbours are the likeliest to be unlabelled positives).

    The rank counts only candidates that the filters before this one kept.

    Args:
        start: how many to skip.
        stop: where to end; None: nowhere.
    """

    def __init__(self, start: int = 0, stop: int | None = None) -> None:
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"ranks {start} to {stop}: start must be at least 0 and stop beyond it")
        self.start = start
        self.stop = stop

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`NegativeFilter`."""
        rank = ranks(candidates)
        keep = rank >= self.start
        return keep if self.stop is None else keep & (rank < self.stop)


def allowed(relations: Relations, anchors: Tensor, ids: Tensor) -> Tensor:
    """``[A, K]`` bool: where ``ids [A, K]`` are there (not -1) and may be negatives of ``anchors [A]``."""
    anchors = anchors[:, None].expand_as(ids)
    # The anchor itself is out whatever the relations say, and -1 is no id that they could be asked about.
    keep = (ids >= 0) & (ids != anchors)
    keep[keep.clone()] = ~relations.excluded_pairs(anchors[keep], ids[keep])
    return keep


def ranks(candidates: Candidates) -> Tensor:
    """``[A, K]`` int64: how many candidates stand before each one in its row."""
    return candidates.present.cumsum(1) - candidates.present.long()
