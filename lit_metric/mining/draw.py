"""Which of an anchor's candidates it meets in a batch.

Every draw is without replacement, and a pure function of (seed, epoch, step, anchor, its candidates): the
same on any rank, in any worker, in any company.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lit_metric.mining.candidates import Candidates, Reference, check_reference, first_kept
from lit_metric.mining.filters import allowed, ranks
from lit_metric.mining.hashing import gumbel, hashed, permuted, uniform

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations

# One stream of random numbers for each purpose, so that none echoes another.
_WEIGHTED, _SHARE, _RANDOM = 1, 2, 3


@dataclass(frozen=True)
class Moment:
    """When a draw takes place: together with the anchor's id, all that randomness depends on."""

    seed: int
    epoch: int
    step: int

    def stream(self, purpose: int) -> tuple[int, int, int, int]:
        """The leading parts of the hashes for one ``purpose``."""
        return self.seed, self.epoch, self.step, purpose


@dataclass(frozen=True, eq=False)
class Pool:
    """What random negatives are drawn from.

    Args:
        ids: ``[M]`` int64 distinct global item ids.
        relations: which of them an anchor may meet.
    """

    ids: Tensor
    relations: Relations


class Draw(ABC):
    """Chooses negatives among candidates."""

    @abstractmethod
    def pick(self, candidates: Candidates, count: int, moment: Moment, pool: Pool) -> Tensor:
        """``[A, count]`` int64 distinct ids for every anchor, -1 at the end where there are not enough."""


class WeightedDraw(Draw):
    """A draw without replacement with probabilities in proportion to weights (by Gumbel top-k)."""

    @abstractmethod
    def log_weights(self, candidates: Candidates) -> Tensor:
        """``[A, K]`` float64 log weights, up to a constant per row; -inf: never drawn."""

    def pick(self, candidates: Candidates, count: int, moment: Moment, pool: Pool) -> Tensor:
        """See :class:`Draw`."""
        anchors = candidates.anchors.numpy()[:, None]
        noise = torch.from_numpy(gumbel(*moment.stream(_WEIGHTED), anchors, candidates.ids.numpy()))
        return _largest(candidates, self.log_weights(candidates) + noise, count)


class TopK(Draw):
    """The most similar candidates, the same ones at every step."""

    def pick(self, candidates: Candidates, count: int, moment: Moment, pool: Pool) -> Tensor:
        """See :class:`Draw`."""
        return _largest(candidates, candidates.scores.double(), count)


class UniformWindow(WeightedDraw):
    """Any of the candidates ranked ``start`` to ``stop`` − 1, counted from 0, with equal probability.

    Args:
        start: how many of the most similar to skip.
        stop: where to end; None: at the last. NV-Retriever draws 4 of the first 10.
    """

    def __init__(self, start: int = 0, stop: int | None = None) -> None:
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"ranks {start} to {stop}: start must be at least 0 and stop beyond it")
        self.start = start
        self.stop = stop

    def log_weights(self, candidates: Candidates) -> Tensor:
        """See :class:`WeightedDraw`."""
        rank = ranks(candidates)
        outside = (rank < self.start) if self.stop is None else (rank < self.start) | (rank >= self.stop)
        return torch.zeros_like(candidates.scores, dtype=torch.float64).masked_fill(outside, -torch.inf)


class SimANS(WeightedDraw):
    """Prefers ambiguous negatives, about as similar as the positive: p ∝ exp(−a (s⁻ − s⁺ − b)²).

    Zhou et al., "SimANS: Simple Ambiguous Negatives Sampling for Dense Text Retrieval", EMNLP 2022 industry
    track (arXiv 2210.11773). The sign of b is that of the paper: the peak lies at s⁺ + b. The released code
    (SimXNS) adds b inside the square instead, so its b = 1 for Natural Questions, *below* the positive,
    is −1 here. Anchors without positives draw uniformly.

    Args:
        a: how sharply; in units of 1 / score². The paper's 0.5 is for dot products that spread over tens;
            cosines lie within tenths of each other, which takes 10²–10³ times as much.
        b: where the peak lies, in units of the score, relative to s⁺.
        reference: which positive s⁺ is, where there are several.
    """

    def __init__(self, a: float = 100.0, b: float = 0.0, reference: Reference = "mean") -> None:
        if a < 0:
            raise ValueError(f"a={a}: negative sharpness would prefer the least ambiguous candidates")
        check_reference(reference)
        self.a = a
        self.b = b
        self.reference: Reference = reference

    def log_weights(self, candidates: Candidates) -> Tensor:
        """See :class:`WeightedDraw`."""
        positive = candidates.positives.of(self.reference).double()[:, None]
        weights = -self.a * (candidates.scores.double() - positive - self.b).square()
        return torch.where(positive.isnan(), torch.zeros_like(weights), weights)


class WithRandom(Draw):
    """A share of random items among what another draw picks.

    Hard negatives alone leave the rest of the space untended (STAR: Zhan et al., SIGIR 2021, arXiv
    2104.08051, mixes static hard with random ones). Random items obey the relations and are never picked
    twice.

    Args:
        draw: what picks the rest; :class:`TopK` by default.
        share: of the negatives of an anchor, between 0 and 1. What is no whole number is rounded up or down
            at random so that the mean is right.
        fill: whether random items also stand in where ``draw`` finds too few.
    """

    def __init__(self, draw: Draw | None = None, share: float = 0.5, fill: bool = False) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: the share of random negatives must lie in [0, 1]")
        self.draw = TopK() if draw is None else draw
        self.share = share
        self.fill = fill

    def pick(self, candidates: Candidates, count: int, moment: Moment, pool: Pool) -> Tensor:
        """See :class:`Draw`."""
        threshold = uniform(*moment.stream(_SHARE), candidates.anchors.numpy())
        at_random = torch.from_numpy(np.floor(self.share * count + threshold)).long().clamp_(max=count)
        picked = self.draw.pick(candidates, count, moment, pool)
        picked.masked_fill_(torch.arange(count) >= (count - at_random)[:, None], -1)
        if self.fill:
            at_random = count - (picked >= 0).sum(1)
        extra = random_negatives(candidates.anchors, at_random, picked, moment, pool)
        both = torch.cat([picked, extra], dim=1)
        return first_kept(both >= 0, count, (both, -1))[0]


def random_negatives(anchors: Tensor, counts: Tensor, taken: Tensor, moment: Moment, pool: Pool) -> Tensor:
    """Uniformly drawn negatives that the relations allow.

    Args:
        anchors: ``[A]`` int64.
        counts: ``[A]`` how many for each.
        taken: ``[A, t]`` ids that must not come again; -1 is ignored.
        moment: when.
        pool: what to draw from.

    Returns:
        ``[A, max(counts)]`` int64 distinct ids, -1 at the end; fewer than ``counts`` only where the pool has
        no more that are allowed.
    """
    width, size = int(counts.max()) if len(counts) else 0, len(pool.ids)
    found = torch.full((len(anchors), width), -1)
    pending = (counts > 0).nonzero()[:, 0]
    start, length = 0, 2 * width + 8
    keys = hashed(*moment.stream(_RANDOM), anchors.numpy())[:, None]
    while len(pending) and start < size:
        # Slot after slot of the anchor's own permutation: nothing comes twice, and everything comes.
        slots = np.arange(start, min(size, start + length))[None]
        ids = pool.ids[torch.from_numpy(permuted(keys[pending.numpy()], slots, size))]
        ok = allowed(pool.relations, anchors[pending], ids)
        ok &= ~(ids[:, :, None] == taken[pending][:, None, :]).any(-1)
        ids = torch.cat([found[pending], ids.masked_fill(~ok, -1)], dim=1)
        needed = torch.arange(width) < counts[pending][:, None]
        found[pending] = first_kept(ids >= 0, width, (ids, -1))[0].masked_fill(~needed, -1)
        pending = pending[(found[pending] >= 0).sum(1) < counts[pending]]
        start, length = start + length, 2 * length
    return found


def _largest(candidates: Candidates, keys: Tensor, count: int) -> Tensor:
    # -inf keys and empty places are never taken; stable, so that equal keys go by rank.
    keys = keys.masked_fill(~candidates.present, -torch.inf)
    order = keys.sort(dim=1, descending=True, stable=True).indices[:, :count]
    ids = candidates.ids.gather(1, order).masked_fill(keys.gather(1, order).isneginf(), -1)
    missing = count - ids.shape[1]
    return torch.nn.functional.pad(ids, (0, missing), value=-1) if missing > 0 else ids
