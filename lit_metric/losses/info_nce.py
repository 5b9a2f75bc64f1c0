"""InfoNCE with any number of positives, and SupCon."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lit_metric.losses.base import LossOutput, MetricLoss, Parts, masked_mean
from lit_metric.losses.pairs import PairBlock, Pairs
from lit_metric.losses.scores import Distance
from lit_metric.losses.tuplet import log_sum_exp, mean_over_positives, tuplet

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0


def info_nce(
    logits: Tensor, pairs: PairBlock, other_positives: Literal["out", "in"] = "out"
) -> tuple[Tensor, Tensor]:
    """``−log e^{l_p} / Σ e^l``, averaged over the positives p of an anchor.

    With ``out`` the denominator runs over p and the negatives, so that an anchor's positives don't compete
    ("Rethinking the Role of Pre-ranking in Large-scale E-Commerce Search", KDD 2023, reconstructed). With
    ``in`` it runs over all positives and negatives (Khosla et al., "Supervised Contrastive Learning", NeurIPS
    2020, eq. 2). With one positive per anchor both are van den Oord's InfoNCE.

    Args:
        logits: ``[r, C]`` scores divided by the temperature.
        pairs: masks ``[r, C]``. A positive's weight multiplies its term, a negative's weight multiplies its
            exponential; in the denominator of ``in``, positives have weight 1.
        other_positives: whether an anchor's other positives stay in the denominator.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a positive and a negative; the loss of the others is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
        >>> logits = torch.zeros(1, 3)
        >>> [info_nce(logits, pairs, others)[0].exp() for others in ("out", "in")]
        [tensor([2.]), tensor([3.])]
    """
    if other_positives == "out":
        return tuplet(logits, pairs)
    used = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    weight = None if pairs.weight is None else torch.where(pairs.positive, 1.0, pairs.weight)
    everything = log_sum_exp(logits, pairs.positive | pairs.negative, weight)
    return mean_over_positives(everything[:, None] - logits, pairs, used), used


class InfoNCELoss(MetricLoss):
    """InfoNCE, a mean over anchors of the mean over their positives; ``other_positives="in"`` makes it
    SupCon.

    Anchors without a positive or without a negative don't count. Logs ``info_nce`` and, if it is learned, the
    ``temperature``.

    Args:
        temperature: scores are divided by it; between 0.01 and 100 if it is learned, otherwise above 0.
        learnable: learn the temperature from there, as its logarithm, within those bounds.
        other_positives: ``out`` takes an anchor's other positives out of the denominator, ``in`` leaves them
            there, where they are pushed apart like negatives.
        distance: of the four; Euclidean distances enter with a minus sign.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.eye(2, dtype=torch.bool)
        >>> InfoNCELoss(temperature=0.5)(torch.eye(2), torch.eye(2), DensePairs(same, ~same))["loss"]
        tensor(0.1269)
    """

    def __init__(
        self,
        temperature: float = 0.05,
        learnable: bool = False,
        other_positives: Literal["out", "in"] = "out",
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        low, high = (MIN_TEMPERATURE, MAX_TEMPERATURE) if learnable else (0.0, math.inf)
        if not (low <= temperature <= high and 0 < temperature < math.inf):
            bound = f"between {low} and {high} to be learned" if learnable else "above 0 and finite"
            raise ValueError(f"temperature must be {bound}, not {temperature}")
        if other_positives not in ("out", "in"):
            raise ValueError(f"other_positives {other_positives!r} is none of out, in")
        self.other_positives: Literal["out", "in"] = other_positives
        self.fixed_temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learnable else None

    @property
    def temperature(self) -> Tensor | float:
        """The temperature now; a scalar tensor with gradient if it is learned."""
        return self.fixed_temperature if self.log_temperature is None else self.log_temperature.exp()

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`info_nce`."""
        return {"info_nce": masked_mean(*info_nce(scores / self.temperature, pairs, self.other_positives))}

    def forward(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`MetricLoss.forward`."""
        if self.log_temperature is None:
            return super().forward(anchors, candidates, pairs)
        # The parameter itself is held, not its use: beyond the bound a clamp in the graph would stop its
        # gradient and it could never come back.
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
        output = super().forward(anchors, candidates, pairs)
        output["temperature"] = self.log_temperature.detach().exp()
        return output

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"temperature={float(self.temperature):.4g}, learnable={self.log_temperature is not None}, "
            f"other_positives={self.other_positives}, distance={self.distance}, normalize={self.normalize}"
        )
