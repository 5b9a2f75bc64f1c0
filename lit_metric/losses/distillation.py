"""Distillation: a softmax over an anchor's candidates follows that of a teacher."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_metric.losses.pairs import PairBlock, any_in_row
from lit_metric.losses.parts import Parts, masked_mean
from lit_metric.losses.scores import Distance, beside_largest, log_sum_exp
from lit_metric.losses.temperature import TemperatureLoss


class DistillationKLLoss(TemperatureLoss):
    """Distillation: τ² Σ p log(p / q), p the softmax of an anchor's teacher scores and q that of its s/τ,
    over the candidates that have a teacher's score, the mean over anchors.

    A batch must hold several of them, as with ``MarginMSELoss``. Without scores, a positive counts as 1 and a
    negative as 0. A score of −inf gives a candidate no probability, so it is pushed away. A weight multiplies
    its candidate's exponential on both sides. The factor τ² keeps the gradient from fading as the temperature
    rises.

    Logs ``distillation_kl``.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531; over
    an anchor's candidates, Lin, Yang and Lin, "Distilling Dense Representations for Ranking using
    Tightly-Coupled Teachers", arXiv 2010.11386.

    Args:
        temperature: τ, above 0. Try 1 to 4 for inner products, 0.02 to 0.2 with ``cosine``.
        teacher_temperature: the teacher's scores are divided by it, above 0; that of the student if None.
            Take the spread of the scores; too small makes one candidate everything.
        distance: any of the four; sentence-transformers takes the inner product. Try ``cosine``, too.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> loss = DistillationKLLoss()
        >>> positives, negatives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> loss(torch.ones(1, 2), positives, negatives, scores=torch.tensor([[0.75, 0.25]]).log())
        tensor(0.1308)
    """

    requires_scores = True

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        distance: Distance = "dot",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(temperature, False, distance, normalize, block_rows)
        self.teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
        if not 0 < self.teacher_temperature < math.inf:
            raise ValueError(f"teacher_temperature must be above 0 and finite, not {teacher_temperature}")

    def usable(self, pairs: PairBlock) -> Tensor:
        """Anchors with two scored candidates, at least one of them with a probability."""
        return (pairs.known.sum(dim=1) >= 2) & any_in_row(pairs.targets > -torch.inf)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`."""
        used = self.usable(pairs)
        known = pairs.known & used[:, None]
        teacher = torch.where(known, pairs.targets / self.teacher_temperature, 0.0).to(scores.dtype)
        log_p, log_q = (
            logits - log_sum_exp(logits, known, pairs.weight)[:, None]
            for logits in (
                beside_largest(teacher, known),
                beside_largest(scores / self.temperature, known),
            )
        )
        shares = torch.where(known, log_p, -torch.inf).exp()
        log_p = torch.where(shares > 0, log_p, 0.0)  # 0 · log 0 is 0 here, not NaN
        if pairs.weight is not None:
            shares = shares * pairs.weight.to(shares.dtype)
        losses = torch.where(known, shares * (log_p - log_q), 0.0).sum(dim=1)
        return {"distillation_kl": masked_mean(losses * self.temperature**2, used)}
