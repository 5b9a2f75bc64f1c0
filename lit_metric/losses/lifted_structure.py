"""Lifted structure loss in its general form: all positives and all negatives of an anchor in one triplet."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Parts, masked_mean, share
from lit_metric.losses.scores import Distance, log_sum_exp


class LiftedStructureLoss(MetricLoss):
    """Lifted structure loss in its general form: [m + τ log Σ_p e^{−s_p/τ} + τ log Σ_n e^{s_n/τ}]₊, the mean
    over anchors.

    It is a triplet of a smooth maximum over all positives and one over all negatives, between ``TripletLoss``
    with ``mining: hard`` (τ near 0) and a mean over all pairs (τ large). A pair's weight multiplies its
    exponential.

    Logs ``lifted_structure`` and ``active``, the share of anchors whose loss is above 0.

    Source: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", arXiv
    1703.07737, the generalised lifted embedding loss; after Oh Song et al., "Deep Metric Learning via Lifted
    Structured Feature Embedding", CVPR 2016. The temperature is ours.

    Args:
        margin: m, above 0, in units of the distance. Try 0.5 to 2 for raw vectors, less than 2 on unit
            vectors.
        temperature: τ, above 0; smaller uses the hardest pairs only. The source has none, that is 1,
            which is close to a mean on unit vectors, no two of which are further apart than 2; try 0.05 to
            0.5 there.
        distance: any of the four; the source takes ``euclidean`` on raw embeddings.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = LiftedStructureLoss(margin=2.0)
        >>> loss(torch.eye(2), torch.eye(2))  # anchors and positives: 2 - √2
        tensor(0.5858)
    """

    def __init__(
        self,
        margin: float = 1.0,
        temperature: float = 1.0,
        distance: Distance = "euclidean",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        if not (0 < margin < float("inf") and 0 < temperature < float("inf")):
            raise ValueError(
                f"margin and temperature must be above 0 and finite, not {margin} and {temperature}"
            )
        self.margin = margin
        self.temperature = temperature

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`."""
        positives = log_sum_exp(-scores / self.temperature, pairs.positive, pairs.weight)
        negatives = log_sum_exp(scores / self.temperature, pairs.negative, pairs.weight)
        hinge = (self.margin + self.temperature * (positives + negatives)).relu()
        losses = torch.where(pairs.usable, hinge, 0.0)
        return {
            "lifted_structure": masked_mean(losses, pairs.usable),
            "active": share(losses > 0, pairs.usable),
        }
