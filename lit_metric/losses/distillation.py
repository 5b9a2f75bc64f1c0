"""Distillation: an anchor's candidates get the shares that a teacher's scores give them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss, Parts, masked_mean
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.scores import Distance
from lit_metric.losses.tuplet import beside_largest, log_sum_exp


def distillation_kl(logits: Tensor, teacher: Tensor, pairs: PairBlock) -> tuple[Tensor, Tensor]:
    """``Σ p (log p − log q)`` with p the softmax of ``teacher`` and q that of ``logits``, over the candidates
    of an anchor whose target is known.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531; over
    an anchor's candidates, Lin, Yang and Lin, "Distilling Dense Representations for Ranking using
    Tightly-Coupled Teachers", arXiv 2010.11386.

    Args:
        logits: ``[r, C]`` scores divided by the student's temperature.
        teacher: ``[r, C]`` targets divided by the teacher's temperature; NaN where there is none.
        pairs: which targets are known. A weight multiplies its candidate's exponential on both sides. A
            target of −inf gives its candidate no share, and it is pushed away like others of a small share.

    Returns:
        ``[r]`` divergences, at least 0, and ``[r]`` which anchors have two candidates to divide between; the
        divergence of the others is 0.

    Example:
        >>> neither = torch.zeros(1, 2, dtype=torch.bool)
        >>> teacher = torch.tensor([[0.75, 0.25]]).log()
        >>> distillation_kl(torch.zeros(1, 2), teacher, PairBlock(neither, neither, target=teacher))[0]
        tensor([0.1308])
    """
    used = _divided(pairs)
    known = pairs.known & used[:, None]
    wanted, logits = (
        beside_largest(values, known)
        for values in (torch.where(known, teacher, 0.0).to(logits.dtype), logits)
    )
    log_p = wanted - log_sum_exp(wanted, known, pairs.weight)[:, None]
    log_q = logits - log_sum_exp(logits, known, pairs.weight)[:, None]
    shares = torch.where(known, log_p, -torch.inf).exp()
    log_p = torch.where(shares > 0, log_p, 0.0)  # no share of an infinite logarithm is none, and not NaN
    if pairs.weight is not None:
        shares = shares * pairs.weight.to(shares.dtype)
    return torch.where(known, shares * (log_p - log_q), 0.0).sum(dim=1), used


def _divided(pairs: PairBlock) -> Tensor:
    """``[r]`` bool, which anchors have two known targets, of which the teacher gives one a share."""
    return (pairs.known.sum(dim=1) >= 2) & (pairs.targets > -torch.inf).any(dim=1)


class DistillationKLLoss(MetricLoss):
    """Distillation: τ² Σ p log(p / q), p the softmax of an anchor's teacher scores and q that of its s/τ,
    over the candidates that have a teacher's score, the mean over anchors.

    A batch must hold several of them, as with ``MarginMSELoss``. Of bare masks, a positive counts as 1 and a
    negative as 0. A score of −inf gives a candidate no share. The factor τ² keeps the gradient from fading as
    the temperature rises.

    Logs ``distillation_kl``.

    Source: Hinton et al., arXiv 1503.02531; Lin et al., arXiv 2010.11386.

    Args:
        temperature: τ, above 0. Try 1 to 4 for inner products, 0.02 to 0.2 with ``cosine``.
        teacher_temperature: the teacher's scores are divided by it, above 0; that of the student if None.
            Take the spread of the scores; too small makes one candidate everything.
        distance: any of the four; sentence-transformers takes the inner product. Try ``cosine``, too.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> neither = torch.zeros(1, 2, dtype=torch.bool)
        >>> pairs = DensePairs(neither, neither, target=torch.tensor([[0.75, 0.25]]).log())
        >>> DistillationKLLoss()(torch.ones(1, 2), torch.eye(2), pairs)["loss"]
        tensor(0.1308)
    """

    uses_targets = True

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        distance: Distance = "dot",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        of_teacher = temperature if teacher_temperature is None else teacher_temperature
        for name, value in (("temperature", temperature), ("teacher_temperature", of_teacher)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {value}")
        self.temperature = temperature
        self.teacher_temperature = of_teacher

    def usable(self, pairs: PairBlock) -> Tensor:
        """Anchors with two known targets, of which the teacher gives one a share."""
        return _divided(pairs)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`distillation_kl`."""
        teacher = pairs.targets / self.teacher_temperature
        terms, used = distillation_kl(scores / self.temperature, teacher, pairs)
        return {"distillation_kl": masked_mean(terms * self.temperature**2, used)}

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"temperature={self.temperature:.4g}, teacher_temperature={self.teacher_temperature:.4g}, "
            f"distance={self.distance}, normalize={self.normalize}"
        )
