"""(N+1)-tuplet loss: one positive against N negatives at once; the softmax losses build on it."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss, Parts, masked_mean
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.scores import Distance, softplus


def tuplet(scores: Tensor, pairs: PairBlock, hardness: float = 0.0) -> tuple[Tensor, Tensor]:
    """``log(1 + Σ_n exp(s_n − s_p))`` for each positive p of an anchor, averaged over its positives.

    It equals ``−log e^{s_p} / (e^{s_p} + Σ_n e^{s_n})``: the other positives are no part of the denominator.

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016, eq. 5.

    Args:
        scores: ``[r, C]``.
        pairs: masks ``[r, C]``. A positive's weight multiplies its term, a negative's weight multiplies its
            exponential.
        hardness: see :func:`hard_log_sum_exp`.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a positive and a negative; the loss of the others is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, False, False]]), torch.tensor([[False, True, True]]))
        >>> losses, used = tuplet(torch.tensor([[1.0, 0.0, -1.0]]), pairs)
        >>> losses, torch.log(1 + torch.exp(torch.tensor(-1.0)) + torch.exp(torch.tensor(-2.0)))
        (tensor([0.4076]), tensor(0.4076))
    """
    used = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    scores = beside_largest(scores, pairs.negative)
    negatives = hard_log_sum_exp(scores, pairs.negative, pairs.weight, hardness)
    return mean_over_positives(softplus(negatives[:, None] - scores), pairs, used), used


def beside_largest(scores: Tensor, mask: Tensor) -> Tensor:
    """``scores [r, C]`` less the largest that ``mask`` holds in their row, through which no gradient passes.

    For losses that only differences matter to: those of scores in the thousands would be rounded, were the
    logarithm of a sum of exponentials taken first.

    Example:
        >>> beside_largest(torch.tensor([[8.0, 5.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([[ 0., -3.,  1.]])
    """
    largest = torch.where(mask, scores.detach(), -torch.inf).amax(dim=1, keepdim=True)
    return scores - torch.where(largest.isfinite(), largest, 0.0)


def log_sum_exp(scores: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """``[r]``: ``log Σ weight · eˢ`` over the ``mask [r, C]``; 0 for rows in which it holds nothing."""
    if weight is not None:
        # The logarithm of a weight of 0 is kept out even of the branch that is not taken.
        scores = scores + torch.where(weight > 0, weight, 1.0).to(scores.dtype).log()
    some = mask.any(dim=1, keepdim=True)
    held = torch.where(mask, scores, torch.where(some, -torch.inf, 0.0))
    # The gradient is exp(s − result): of large scores the result is rounded, and shares wouldn't add up to 1.
    largest = held.detach().amax(dim=1, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, 0.0)
    return ((held - largest).logsumexp(dim=1) + largest[:, 0]) * some[:, 0]


def hard_log_sum_exp(scores: Tensor, mask: Tensor, weight: Tensor | None, hardness: float) -> Tensor:
    """:func:`log_sum_exp` in which each term is multiplied by ``e^{β s}`` besides, scaled to a mean of 1.

    Source: Robinson, Chuang, Sra and Jegelka, "Contrastive Learning with Hard Negative Samples", ICLR 2021.

    Args:
        scores: ``[r, C]``.
        mask: ``[r, C]`` bool.
        weight: ``[r, C]`` or None; the mean is taken under it.
        hardness: β; 0 leaves the sum as it is.

    Example:
        >>> mask = torch.tensor([[True, True]])
        >>> scores = torch.tensor([[2.0, 1.0]]).log()
        >>> hard_log_sum_exp(scores, mask, None, 1.0).exp()  # 4/3 · 2 + 2/3 · 1
        tensor([3.3333])
    """
    if hardness == 0:
        return log_sum_exp(scores, mask, weight)
    harder, shares, number = (
        log_sum_exp(power * scores, mask, weight) for power in (1 + hardness, hardness, 0.0)
    )
    return harder - shares + number


def log_one_plus_sum_exp(scores: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """``[r]``: ``log(1 + Σ weight · eˢ)`` over the ``mask [r, C]``; 0 for rows in which it holds nothing."""
    return torch.where(mask.any(dim=1), softplus(log_sum_exp(scores, mask, weight)), 0.0)


def mean_over_positives(terms: Tensor, pairs: PairBlock, used: Tensor) -> Tensor:
    """``[r]``: the weighted mean of ``terms [r, C]`` over each row's positives; 0 for rows not ``used``."""
    if pairs.weight is not None:
        terms = terms * pairs.weight.to(terms.dtype)
    sums = torch.where(pairs.positive & used[:, None], terms, 0.0).sum(dim=1)
    return sums / pairs.positive.sum(dim=1).clamp_min(1)


class TupletLoss(MetricLoss):
    """(N+1)-tuplet loss: log(1 + Σ_n e^{s_n − s_p}), the mean over positives, then over anchors.

    It is the N-pair loss without the regulariser, for any ``distance``. On cosines, which differ by 2 at
    most, it is flat: that is InfoNCE with τ = 1.

    Logs ``tuplet``.

    Source: Sohn, NIPS 2016, eq. 5.

    Args:
        distance: any of the four; the source takes the inner product of raw embeddings.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.tensor([[True, False, False]])
        >>> candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> TupletLoss()(torch.tensor([[1.0, 0.0]]), candidates, DensePairs(same, ~same))["loss"]
        tensor(0.4076)
    """

    def __init__(self, distance: Distance = "dot", normalize: bool = False, block_rows: int = 1024) -> None:
        super().__init__(distance, normalize, block_rows)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`tuplet`."""
        return {"tuplet": masked_mean(*tuplet(scores, pairs))}

    def extra_repr(self) -> str:
        """The settings."""
        return f"distance={self.distance}, normalize={self.normalize}"
