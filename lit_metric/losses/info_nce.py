"""InfoNCE with any number of positives, and SupCon."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.base import Parts, masked_mean
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.scores import Distance
from lit_metric.losses.temperature import TemperatureLoss
from lit_metric.losses.tuplet import (
    beside_largest,
    hard_log_sum_exp,
    log_sum_exp,
    mean_over_positives,
    tuplet,
)


def info_nce(
    logits: Tensor,
    pairs: PairBlock,
    other_positives: Literal["out", "in"] = "out",
    hardness: float = 0.0,
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
        hardness: see :func:`~lit_metric.losses.tuplet.hard_log_sum_exp`.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a positive and a negative; the loss of the others is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
        >>> logits = torch.zeros(1, 3)
        >>> [info_nce(logits, pairs, others)[0].exp() for others in ("out", "in")]
        [tensor([2.]), tensor([3.])]
    """
    if other_positives == "out":
        return tuplet(logits, pairs, hardness)
    used = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    logits = beside_largest(logits, pairs.positive | pairs.negative)
    negatives = hard_log_sum_exp(logits, pairs.negative, pairs.weight, hardness)
    everything = torch.logaddexp(log_sum_exp(logits, pairs.positive), negatives)
    return mean_over_positives(everything[:, None] - logits, pairs, used), used


class InfoNCELoss(TemperatureLoss):
    """InfoNCE: −log e^{s_p/τ} / (e^{s_p/τ} + Σ_n e^{s_n/τ}), the mean over positives, then over anchors.

    An anchor's other positives are not in the denominator, so they don't compete; ``other_positives: in``
    puts them there, which is SupCon (Khosla et al., NeurIPS 2020).

    Logs ``info_nce`` and, if it is learned, the ``temperature``.

    Args:
        temperature: τ, above 0, and between 0.01 and 100 if it is learned. SimCSE (arXiv 2104.08821) takes
            0.05; try 0.02 to 0.2 with ``cosine``. The smaller, the more only the hardest negatives count.
        learnable: learn the temperature from there, as its logarithm, within those bounds.
        other_positives: ``out`` of the denominator, or ``in`` it, where they are pushed apart like negatives.
        hardness: β, at least 0: negatives weigh e^{β s_n/τ}, with a mean of 1 over an anchor's negatives, so
            that the more similar ones weigh more (Robinson et al., "Contrastive Learning with Hard Negative
            Samples", ICLR 2021, without its debiasing). 0 weighs all alike; try 0.1 to 1.
        distance: any of the four; Euclidean distances enter with a minus sign.
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
        hardness: float = 0.0,
    ) -> None:
        super().__init__(temperature, learnable, distance, normalize, block_rows)
        if other_positives not in ("out", "in"):
            raise ValueError(f"other_positives {other_positives!r} is none of out, in")
        if not 0 <= hardness < math.inf:
            raise ValueError(f"hardness must be at least 0 and finite, not {hardness}")
        self.other_positives: Literal["out", "in"] = other_positives
        self.hardness = hardness

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`info_nce`."""
        losses = info_nce(scores / self.temperature, pairs, self.other_positives, self.hardness)
        return {"info_nce": masked_mean(*losses)}

    def extra_repr(self) -> str:
        """The settings."""
        return f"{super().extra_repr()}, other_positives={self.other_positives}, hardness={self.hardness}"
