"""Draws choose an anchor's negatives for a batch among its candidates.

Every draw is without replacement. It is a pure function of seed, epoch, step, anchor and the anchor's
candidates, so it is the same on any rank, in any worker, and in any batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.relations import Relations
from lit_metric.mining.candidates import Candidates, PositiveScore, check_positive_score, first_kept
from lit_metric.mining.filters import allowed
from lit_metric.mining.hashing import hashed, permuted, uniform

# One stream of random numbers for each purpose, so that none repeats another.
_WEIGHTED, _SHARE, _RANDOM = 1, 2, 3


@dataclass(frozen=True, eq=False)
class DrawContext:
    """The moment of a draw, and the items that random negatives come from.

    Args:
        seed, epoch, step: all randomness depends on these and on the anchor's id only.
        ids: ``[M]`` int64 distinct global ids of the items that random negatives come from.
        relations: which of those items an anchor may meet.
    """

    seed: int
    epoch: int
    step: int
    ids: Tensor
    relations: Relations

    def stream(self, purpose: int) -> tuple[int, int, int, int]:
        """The leading parts of the hashes for one ``purpose``."""
        return self.seed, self.epoch, self.step, purpose

    def random_negatives(self, anchors: Tensor, counts: Tensor, taken: Tensor) -> Tensor:
        """Negatives drawn uniformly from the items that the relations allow.

        Args:
            anchors: ``[A]`` int64.
            counts: ``[A]`` how many negatives for each anchor.
            taken: ``[A, t]`` ids that must not come again; -1 is ignored.

        Returns:
            ``[A, max(counts)]`` int64 distinct ids, -1 at the end. There are fewer than ``counts`` only if
            no more items are allowed.
        """
        width, size = int(counts.max()) if len(counts) else 0, len(self.ids)
        found = torch.full((len(anchors), width), -1)
        pending = (counts > 0).nonzero()[:, 0]
        start, length = 0, 2 * width + 8
        keys = hashed(*self.stream(_RANDOM), anchors.numpy())[:, None]
        while len(pending) and start < size:
            # Slot after slot of the anchor's own permutation: no item comes twice, and every item comes.
            slots = np.arange(start, min(size, start + length))[None]
            ids = self.ids[torch.from_numpy(permuted(keys[pending.numpy()], slots, size))]
            ok = allowed(self.relations, anchors[pending], ids)
            ok &= ~(ids[:, :, None] == taken[pending][:, None, :]).any(-1)
            ids = torch.cat([found[pending], ids.masked_fill(~ok, -1)], dim=1)
            needed = torch.arange(width) < counts[pending][:, None]
            found[pending] = first_kept(ids >= 0, width, (ids, -1))[0].masked_fill(~needed, -1)
            pending = pending[(found[pending] >= 0).sum(1) < counts[pending]]
            start, length = start + length, 2 * length
        return found


class Draw(ABC):
    """Chooses negatives among candidates."""

    @abstractmethod
    def pick(self, candidates: Candidates, count: int, context: DrawContext) -> Tensor:
        """``[A, count]`` int64 distinct ids for every anchor, -1 at the end where there are too few."""


class WeightedDraw(Draw):
    """Draws without replacement, with probabilities in proportion to weights (Gumbel top-k).

    Source: Kool et al., "Stochastic Beams and Where to Find Them", ICML 2019.
    """

    @abstractmethod
    def log_weights(self, candidates: Candidates) -> Tensor:
        """``[A, K]`` float64 log weights, up to a constant per row; -inf: never drawn."""

    def pick(self, candidates: Candidates, count: int, context: DrawContext) -> Tensor:
        """See :class:`Draw`."""
        anchors = candidates.anchors.numpy()[:, None]
        # The candidates with the highest log weight + Gumbel noise are a draw in proportion to the weights.
        noise = -np.log(-np.log(uniform(*context.stream(_WEIGHTED), anchors, candidates.ids.numpy())))
        return candidates.top(self.log_weights(candidates) + torch.from_numpy(noise), count)


class TopK(Draw):
    """The most similar candidates, the same ones at every step."""

    def pick(self, candidates: Candidates, count: int, context: DrawContext) -> Tensor:
        """See :class:`Draw`."""
        return candidates.top(candidates.scores.double(), count)


class UniformWindow(WeightedDraw):
    """Any of the candidates with ranks ``start`` to ``stop`` − 1, counted from 0, with equal probability.

    Args:
        start: how many of the most similar candidates to skip.
        stop: where to end; None: at the last candidate. NV-Retriever draws 4 of the first 10.

    Raises:
        ValueError: if ``start`` is below 0, or ``stop`` is not above it.
    """

    def __init__(self, start: int = 0, stop: int | None = None) -> None:
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"start={start} must be at least 0, and stop={stop} above it")
        self.start = start
        self.stop = stop

    def log_weights(self, candidates: Candidates) -> Tensor:
        """See :class:`WeightedDraw`."""
        ranks = candidates.ranks
        outside = (ranks < self.start) if self.stop is None else (ranks < self.start) | (ranks >= self.stop)
        return torch.zeros_like(candidates.scores, dtype=torch.float64).masked_fill(outside, -torch.inf)


class SimANS(WeightedDraw):
    """Prefers ambiguous negatives, about as similar as the positive: p ∝ exp(−a (s⁻ − s⁺ − b)²).

    Source: Zhou et al., "SimANS: Simple Ambiguous Negatives Sampling for Dense Text Retrieval", EMNLP 2022
    industry track (arXiv 2210.11773). The sign of b is that of the paper: the peak lies at s⁺ + b. The
    released code (SimXNS) adds b inside the square instead. Its b = 1 for Natural Questions, *below* the
    positive, is −1 here. Anchors without positives draw uniformly.

    Args:
        a: sharpness, in units of 1 / score². The paper's 0.5 is for dot products that spread over tens.
            Cosines lie within tenths of each other, and need 10² to 10³ times as much.
        b: position of the peak relative to s⁺, in units of the score.
        positive_score: which positive s⁺ is, if there are several: ``"best"``, ``"worst"`` or ``"mean"``.

    Raises:
        ValueError: if ``a`` is negative, or ``positive_score`` is unknown.
    """

    def __init__(self, a: float = 100.0, b: float = 0.0, positive_score: PositiveScore = "mean") -> None:
        if a < 0:
            raise ValueError(f"a={a}: negative sharpness would prefer the least ambiguous candidates")
        check_positive_score(positive_score)
        self.a = a
        self.b = b
        self.positive_score: PositiveScore = positive_score

    def log_weights(self, candidates: Candidates) -> Tensor:
        """See :class:`WeightedDraw`."""
        positive = candidates.positives.of(self.positive_score).double()[:, None]
        weights = -self.a * (candidates.scores.double() - positive - self.b).square()
        return torch.where(positive.isnan(), torch.zeros_like(weights), weights)


class WithRandom(Draw):
    """Mixes random items with what another draw picks.

    Hard negatives alone teach little about the rest of the space. STAR (Zhan et al., SIGIR 2021, arXiv
    2104.08051) mixes static hard negatives with random ones. Random items obey the relations and are never
    picked twice.

    Args:
        draw: picks the rest; :class:`TopK` by default.
        share: of random items among an anchor's negatives, between 0 and 1. A fraction is rounded up or
            down at random, so that the mean is right.
        fill: whether random items also stand in where ``draw`` finds too few.

    Raises:
        ValueError: if ``share`` is out of range.
    """

    def __init__(self, draw: Draw | None = None, share: float = 0.5, fill: bool = False) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: the share of random negatives must lie in [0, 1]")
        self.draw = TopK() if draw is None else draw
        self.share = share
        self.fill = fill

    def pick(self, candidates: Candidates, count: int, context: DrawContext) -> Tensor:
        """See :class:`Draw`."""
        threshold = uniform(*context.stream(_SHARE), candidates.anchors.numpy())
        at_random = torch.from_numpy(np.floor(self.share * count + threshold)).long().clamp_(max=count)
        picked = self.draw.pick(candidates, count, context)
        picked.masked_fill_(torch.arange(count) >= (count - at_random)[:, None], -1)
        if self.fill:
            at_random = count - (picked >= 0).sum(1)
        extra = context.random_negatives(candidates.anchors, at_random, picked)
        both = torch.cat([picked, extra], dim=1)
        return first_kept(both >= 0, count, (both, -1))[0]
