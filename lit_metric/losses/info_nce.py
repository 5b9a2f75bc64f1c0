"""InfoNCE with any number of positives, and SupCon."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.n_pair import tuplet
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Parts, masked_mean
from lit_metric.losses.scores import (
    Distance,
    beside_largest,
    hard_log_sum_exp,
    log_sum_exp,
    mean_over_positives,
)
from lit_metric.losses.temperature import TemperatureLoss


class InfoNCELoss(TemperatureLoss):
    """InfoNCE: −log e^{s_p/τ} / (e^{s_p/τ} + Σ_n e^{s_n/τ}), the mean over positives, then over anchors.

    With ``positives: sum`` an anchor's positives are added up instead, so an anchor with many of them counts
    more. Where all have the same number, that is another learning rate and nothing else.

    An anchor's other positives are not in the denominator, so they don't compete ("Rethinking the Role of
    Pre-ranking in Large-scale E-Commerce Search", KDD 2023, reconstructed). With
    ``positives_in_denominator: true`` they are, which is SupCon (Khosla et al., "Supervised Contrastive
    Learning", NeurIPS 2020, eq. 2). With one positive for each anchor both are van den Oord's InfoNCE.

    A positive's weight multiplies its term, a negative's weight multiplies its exponential; positives in the
    denominator have weight 1.

    Logs ``info_nce`` and, if it is learned, the ``temperature``.

    Args:
        temperature: τ, above 0, and between 0.01 and 100 if it is learned. SimCSE (arXiv 2104.08821) takes
            0.05; try 0.02 to 0.2 with ``cosine``. The smaller, the more only the hardest negatives count.
        learnable: learn the temperature from that start, as its logarithm, within those bounds.
        positives_in_denominator: keep an anchor's other positives there, where they are pushed apart like
            negatives.
        hardness: β, at least 0: negatives weigh e^{β s_n/τ}, with a mean of 1 over an anchor's negatives, so
            that the more similar ones weigh more (Robinson et al., "Contrastive Learning with Hard Negative
            Samples", ICLR 2021, without its debiasing). With 0 all weigh the same; try 0.1 to 1.
        positives: ``mean`` or ``sum`` over an anchor's positives.
        distance: any of the four; Euclidean distances enter with a minus sign.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> loss = InfoNCELoss(temperature=0.5)
        >>> loss(torch.eye(2), torch.eye(2))  # anchors and positives: log(1 + e^-2)
        tensor(0.1269)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, labels=torch.tensor([0, 0, 1]))
        tensor(0.5881)
    """

    def __init__(
        self,
        temperature: float = 0.05,
        learnable: bool = False,
        positives_in_denominator: bool = False,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
        hardness: float = 0.0,
        positives: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__(temperature, learnable, distance, normalize, block_rows)
        if not 0 <= hardness < math.inf:
            raise ValueError(f"hardness must be at least 0 and finite, not {hardness}")
        if positives not in ("mean", "sum"):
            raise ValueError(f"positives {positives!r} is none of mean, sum")
        self.positives_in_denominator = positives_in_denominator
        self.positives = positives
        self.hardness = hardness

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`."""
        logits = scores / self.temperature
        if not self.positives_in_denominator:
            losses, used = tuplet(logits, pairs, self.hardness)
            return {"info_nce": masked_mean(losses * self._factor(pairs), used)}
        logits = beside_largest(logits, pairs.positive | pairs.negative)
        if self.hardness == 0 and pairs.weight is None:
            everything = log_sum_exp(logits, pairs.positive | pairs.negative)
        else:
            negatives = hard_log_sum_exp(logits, pairs.negative, pairs.weight, self.hardness)
            everything = torch.logaddexp(log_sum_exp(logits, pairs.positive), negatives)
        losses = mean_over_positives(everything[:, None] - logits, pairs, pairs.usable)
        return {"info_nce": masked_mean(losses * self._factor(pairs), pairs.usable)}

    def _factor(self, pairs: PairBlock) -> Tensor | float:
        """What makes the mean over an anchor's positives a sum, ``[r]`` or one number."""
        return pairs.positive.sum(dim=1) if self.positives == "sum" else 1.0
