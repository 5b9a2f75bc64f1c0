"""Asymmetric loss: each pair is classified by itself, and easy negatives count for little or nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_metric.losses.base import LossOutput
from lit_metric.losses.pairs import PairBlock, Pairs, any_in_row
from lit_metric.losses.parts import Part, Parts, share
from lit_metric.losses.scores import Distance, softplus
from lit_metric.losses.temperature import TemperatureLoss


class AsymmetricLoss(TemperatureLoss):
    """Asymmetric loss: −(1 − q)^{γ₊} log q for positive pairs and −q_m^{γ₋} log(1 − q_m) for negative pairs,
    with the probability q = σ(s/τ + b) that a pair belongs together and q_m = [q − m]₊, the sum over an
    anchor's pairs and the mean over anchors. The focal weights, (1 − q)^{γ₊} and q_m^{γ₋}, are held fixed.

    For items with several labels, whose texts are compared with the texts of all labels
    (:class:`~lit_metric.batching.LabelPlanner`). A negative whose probability is below m counts nothing, and
    other easy ones count little. So many true negatives don't drown few positives. With γ₊ = γ₋ = m = 0 it is
    the binary cross-entropy. The bias b is learned: most pairs are negative, and without it the
    probabilities of all pairs would start at one half or more. A pair's weight multiplies its term. Anchors
    without a positive, or without a negative, count here::

        model:
          loss: {class_path: AsymmetricLoss}

    Logs ``asymmetric``, ``active``, the share of negative pairs with a probability above m, the ``bias`` and,
    if it is learned, the ``temperature``.

    Source: Ridnik et al., "Asymmetric Loss for Multi-Label Classification", ICCV 2021 (arXiv 2009.14119), eq.
    7. The bias and the learned temperature are those of Zhai et al., "Sigmoid Loss for Language Image
    Pre-Training", ICCV 2023, which starts at b = −10 and τ = 0.1.

    Args:
        positive_focus: γ₊, at least 0. The source trains with 0.
        negative_focus: γ₋, at least 0. The source trains with 4; try 1 to 4.
        margin: m, at least 0 and below 1. The source takes 0.05.
        temperature: τ at the start, between 0.01 and 100 if it is learned, otherwise above 0.
        bias: b at the start. Take one that gives most pairs a small probability: −10 suits unrelated texts
            with cosines near 0, and a larger one suits backbones whose cosines are low also for positives.
        learnable: learn the temperature, too, within those bounds.
        distance: any of the four; Euclidean distances enter with a minus sign.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = AsymmetricLoss(negative_focus=0.0, margin=0.0, temperature=1.0, bias=0.0)
        >>> loss(torch.eye(2), torch.eye(2)).item()  # log(1 + e^-1) + log 2, cosines of 1 and 0
        1.006408...
    """

    def __init__(
        self,
        positive_focus: float = 0.0,
        negative_focus: float = 4.0,
        margin: float = 0.05,
        temperature: float = 0.1,
        bias: float = -5.0,
        learnable: bool = True,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(temperature, learnable, distance, normalize, block_rows)
        for name, value in (("positive_focus", positive_focus), ("negative_focus", negative_focus)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, not {value}")
        if not 0 <= margin < 1:
            raise ValueError(f"margin must be at least 0 and below 1, as a probability is, not {margin}")
        if not abs(bias) < float("inf"):
            raise ValueError(f"bias must be finite, not {bias}")
        self.positive_focus, self.negative_focus, self.margin = positive_focus, negative_focus, margin
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`."""
        return {**super().on_pairs(anchors, candidates, pairs), "bias": self.bias.detach().clone()}

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`."""
        logits = scores / self.temperature + self.bias
        positives = softplus(-logits)
        if self.margin:  # 1 − q_m, which is 1 without gradient where q < m
            beside = (torch.sigmoid(-logits) + self.margin).clamp(max=1.0)
            negatives = -beside.log()
        else:
            beside, negatives = torch.sigmoid(-logits), softplus(logits)
        with torch.no_grad():  # with a gradient, the focus itself would push probabilities
            if self.positive_focus:
                pull = torch.sigmoid(-logits).pow(self.positive_focus)
            if self.negative_focus:
                push = (1 - beside).pow(self.negative_focus)
        positives = pull * positives if self.positive_focus else positives
        negatives = push * negatives if self.negative_focus else negatives
        terms = torch.where(pairs.positive, positives, torch.where(pairs.negative, negatives, 0.0))
        if pairs.weight is not None:
            terms = terms * pairs.weight.to(terms.dtype)
        given = any_in_row(pairs.positive | pairs.negative)
        return {
            "asymmetric": Part(terms.sum(), given.sum()),
            "active": share(beside < 1, pairs.negative),
        }
