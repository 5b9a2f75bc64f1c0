"""The (N+1)-tuplet loss, one positive against N negatives at once, and the N-pair loss made of it."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Part, Parts, masked_mean
from lit_metric.losses.scores import (
    Distance,
    beside_largest,
    hard_log_sum_exp,
    mean_over_positives,
    softplus,
)


def tuplet(scores: Tensor, pairs: PairBlock, hardness: float = 0.0) -> tuple[Tensor, Tensor]:
    """``log(1 + Σ_n exp(s_n − s_p))`` for each positive p of an anchor, averaged over its positives.

    It equals ``−log e^{s_p} / (e^{s_p} + Σ_n e^{s_n})``: the other positives are no part of the denominator.

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016, eq. 5.

    Args:
        scores: ``[r, C]``.
        pairs: masks ``[r, C]``. A positive's weight multiplies its term, a negative's weight multiplies its
            exponential.
        hardness: see :func:`~lit_metric.losses.scores.hard_log_sum_exp`.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a positive and a negative; the loss of the others is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, False, False]]), torch.tensor([[False, True, True]]))
        >>> losses, used = tuplet(torch.tensor([[1.0, 0.0, -1.0]]), pairs)
        >>> losses, torch.log(1 + torch.exp(torch.tensor(-1.0)) + torch.exp(torch.tensor(-2.0)))
        (tensor([0.4076]), tensor(0.4076))
    """
    used = pairs.usable
    scores = beside_largest(scores, pairs.negative)
    negatives = hard_log_sum_exp(scores, pairs.negative, pairs.weight, hardness)
    return mean_over_positives(softplus(negatives[:, None] - scores), pairs, used), used


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
        >>> loss = TupletLoss()
        >>> anchors, positives = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> loss(anchors, positives, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))  # log(1 + e^-1 + e^-2)
        tensor(0.4076)
    """

    def __init__(self, distance: Distance = "dot", normalize: bool = False, block_rows: int = 1024) -> None:
        super().__init__(distance, normalize, block_rows)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`tuplet`."""
        return {"tuplet": masked_mean(*tuplet(scores, pairs))}


class NPairLoss(MetricLoss):
    """Multi-class N-pair loss: log(1 + Σ_n e^{z·z_n − z·z_p}) + ``l2`` · (‖z‖² + ‖z_p‖²), means over anchors,
    of inner products of raw embeddings.

    Norms can grow, which acts like a temperature. The regulariser bounds them; a normalisation would bound
    the logit, too, and slow the fit. Embeddings are raw even if the encoder says ``normalize``, which only
    concerns what ``encode`` returns. The source's batch is two items each of N classes,
    ``NPairPlanner(classes=N)``. With ``PKPlanner`` batches each positive has its own term, without the other
    positives in its denominator.

    Logs ``n_pair``, ``l2`` (with its coefficient) and ``squared_norm``, the mean of ‖z‖² + ‖z_p‖².

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016, eq. 7 and
    section 3.2.2.

    Args:
        l2: coefficient of the regulariser, at least 0. The default is TensorFlow's 0.002, which it multiplies
            by 0.25; try 0 to 0.01, and watch ``train/squared_norm``.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> loss = NPairLoss(l2=0.1)
        >>> loss(torch.eye(2), torch.eye(2))  # anchors and positives: log(1 + e^-1) + 0.1 · 2
        tensor(0.5133)
    """

    def __init__(self, l2: float = 0.0005, block_rows: int = 1024) -> None:
        super().__init__("dot", block_rows=block_rows)
        if not 0 <= l2 < float("inf"):
            raise ValueError(f"l2 must be at least 0, not {l2}")
        self.l2 = l2

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """The part that needs only scores, see :func:`tuplet`."""
        return {"n_pair": masked_mean(*tuplet(scores, pairs))}

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """Adds the regulariser, which needs the vectors; weights don't matter for it."""
        used = pairs.usable
        squares = candidates.square().sum(dim=1).expand(pairs.positive.shape)
        of_positives = mean_over_positives(squares, pairs._replace(weight=None), used)
        norms = masked_mean(torch.where(used, anchors.square().sum(dim=1), 0.0) + of_positives, used)
        return {
            **super().rows(anchors, candidates, pairs),
            "l2": Part(self.l2 * norms.total, norms.number),
            "squared_norm": norms._replace(logged=True),
        }
