"""Lifted structure loss in its general form: all positives and all negatives of an anchor in one triplet."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss, Parts, masked_mean, share
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.scores import Distance
from lit_metric.losses.tuplet import log_sum_exp


def lifted_structure(
    scores: Tensor, pairs: PairBlock, margin: float, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``[m + τ log Σ_p e^{−s_p/τ} + τ log Σ_n e^{s_n/τ}]₊``; with ``s = −d`` and τ = 1 it is
    ``[log Σ_p e^{d_p} + log Σ_n e^{m − d_n}]₊``.

    Source: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
    arXiv 1703.07737, the generalised lifted embedding loss; after Oh Song et al., "Deep Metric
    Learning via Lifted Structured Feature Embedding", CVPR 2016. The temperature is ours: towards 0 the sums
    become the hardest pair each, and the loss that of batch-hard triplets.

    Args:
        scores: ``[r, C]`` similarities.
        pairs: masks ``[r, C]``. A weight multiplies its pair's exponential.
        margin: m.
        temperature: τ.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a positive and a negative; the loss of the others is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
        >>> losses, _ = lifted_structure(-torch.tensor([[1.0, 1.0, 1.0]]), pairs, margin=1.0)
        >>> losses, 1 + torch.tensor(2.0).log()
        (tensor([1.6931]), tensor(1.6931))
    """
    used = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    positives = log_sum_exp(-scores / temperature, pairs.positive, pairs.weight)
    negatives = log_sum_exp(scores / temperature, pairs.negative, pairs.weight)
    return torch.where(used, (margin + temperature * (positives + negatives)).relu(), 0.0), used


class LiftedStructureLoss(MetricLoss):
    """Lifted structure loss in its general form: [m + τ log Σ_p e^{−s_p/τ} + τ log Σ_n e^{s_n/τ}]₊, the mean
    over anchors.

    It is a triplet of a smooth maximum over all positives and one over all negatives, between ``TripletLoss``
    with ``mining: hard`` (τ near 0) and a mean over all pairs (τ large).

    Logs ``lifted_structure`` and ``active``, the share of anchors whose loss is above 0.

    Source: Hermans et al., arXiv 1703.07737, after Oh Song et al., CVPR 2016.

    Args:
        margin: m, above 0, in units of the distance. Try 0.5 to 2 for raw vectors, less than 2 on unit
            vectors.
        temperature: τ, above 0; smaller looks at the hardest pairs only. The source has none, that is 1,
            which is close to a mean on unit vectors, no two of which are further apart than 2; try 0.05 to
            0.5 there.
        distance: any of the four; the source takes ``euclidean`` on raw embeddings.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.eye(2, dtype=torch.bool)
        >>> LiftedStructureLoss(margin=2.0)(torch.eye(2), torch.eye(2), DensePairs(same, ~same))["loss"]
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
        """See :func:`lifted_structure`."""
        losses, used = lifted_structure(scores, pairs, self.margin, self.temperature)
        return {"lifted_structure": masked_mean(losses, used), "active": share(losses > 0, used)}

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"margin={self.margin}, temperature={self.temperature}, distance={self.distance}, "
            f"normalize={self.normalize}"
        )
