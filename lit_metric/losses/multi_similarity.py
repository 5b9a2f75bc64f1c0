"""Multi-similarity loss: positives and negatives weighted by their similarity, after a mining step."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Parts, masked_mean, share
from lit_metric.losses.scores import Distance, log_one_plus_sum_exp


class MultiSimilarityLoss(MetricLoss):
    """Multi-similarity loss: 1/α log(1 + Σ_p e^{−α(s_p − λ)}) + 1/β log(1 + Σ_n e^{β(s_n − λ)}), the mean
    over anchors.

    First, a mining step keeps the negatives above the least similar positive minus ε, and the positives below
    the most similar negative plus ε. A pair's pull depends on its distance from λ and on the anchor's other
    pairs of its kind. Choose it where classes are many and fine, and batches hold several members of
    each.

    An anchor whose pairs the mining step has all dropped counts as 0, so the gradient fades as pairs are
    settled. The mining step sees the candidates of all ranks. A pair's weight multiplies its exponential.

    Logs ``positive`` and ``negative``, whose sum is the loss, and ``mined``, the share of pairs that are
    kept.

    Source: Wang, Han, Huang, Dong and Scott, "Multi-Similarity Loss with General Pair Weighting for Deep
    Metric Learning", CVPR 2019.

    Args:
        alpha: α, above 0: how much the least similar positives dominate. The source takes 2; try 1 to
            10.
        beta: β, above 0: how much the most similar negatives dominate. The source takes 40 to 50; try
            10 to 50, smaller for noisy labels.
        base: λ, the similarity that separates your classes. The source takes 0.5 to 1.
        epsilon: ε, the margin of the mining step; None leaves it out. The source takes 0.1; try 0 to 0.3.
        distance: any of the four; Euclidean distances enter with a minus sign. The source takes the cosine.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = MultiSimilarityLoss(epsilon=None)
        >>> loss(torch.eye(2), torch.eye(2))  # log(1 + e^(-2 (1 - 0.5))) / 2, and nearly 0 of the negatives
        tensor(0.1566)
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = 0.1,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        if not (0 < alpha < float("inf") and 0 < beta < float("inf")):
            raise ValueError(f"alpha and beta must be above 0 and finite, not {alpha} and {beta}")
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.epsilon = epsilon

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; no gradient passes through the mining step."""
        used, kept = pairs.usable, pairs
        if self.epsilon is not None:
            weakest = torch.where(pairs.positive, scores, torch.inf).amin(dim=1, keepdim=True)
            strongest = torch.where(pairs.negative, scores, -torch.inf).amax(dim=1, keepdim=True)
            kept = pairs._replace(
                positive=pairs.positive & (scores - self.epsilon < strongest),
                negative=pairs.negative & (scores + self.epsilon > weakest),
            )
        beyond = scores - self.base
        positive = log_one_plus_sum_exp(-self.alpha * beyond, kept.positive, kept.weight) / self.alpha
        negative = log_one_plus_sum_exp(self.beta * beyond, kept.negative, kept.weight) / self.beta
        given = (pairs.positive | pairs.negative) & used[:, None]
        return {
            "positive": masked_mean(positive, used),
            "negative": masked_mean(negative, used),
            "mined": share(kept.positive | kept.negative, given),
        }
