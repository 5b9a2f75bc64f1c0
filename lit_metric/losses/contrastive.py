"""Contrastive loss: positives at distance 0, negatives beyond a margin."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Part, Parts
from lit_metric.losses.scores import few_others


class ContrastiveLoss(MetricLoss):
    """Contrastive loss: d² for positive pairs, [m − d]₊² for negative pairs, each pair by itself: an absolute
    threshold.

    Anchors without a positive, or without a negative, count here. A pair's weight multiplies its term.

    Logs ``positive``, ``negative`` and ``active``, the share of negative pairs within the margin.

    Source: Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006,
    eq. 4, without its factor ½.

    Args:
        margin: m, above 0; at most 2 where vectors have unit length (``normalize``, or distance ``cosine``),
            since no two are further apart. Try 0.5 to 1.5.
        distance: ``euclidean``, or ``cosine`` for d = 1 − cos.
        normalize: scale embeddings to unit length before the Euclidean distance is taken.
        average: ``balanced`` adds the mean over positive pairs to the mean over negative pairs, of which a
            batch has many more; ``pairs`` takes one mean over all of them, which the many negatives dominate.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> import torch
        >>> loss = ContrastiveLoss(margin=2.0)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, labels=torch.tensor([0, 0, 1]))  # 0.8 + ((2 - √2)² + (2 - √0.4)²) / 2
        tensor(1.9067)
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        normalize: bool = True,
        average: Literal["balanced", "pairs"] = "balanced",
        block_rows: int = 1024,
    ) -> None:
        if distance not in ("euclidean", "cosine"):
            raise ValueError(f"distance {distance!r} is none of euclidean, cosine")
        super().__init__(distance, normalize, block_rows)
        if average not in ("balanced", "pairs"):
            raise ValueError(f"average {average!r} is none of balanced, pairs")
        on_sphere = normalize or distance == "cosine"
        if not 0 < margin <= (2 if on_sphere else float("inf")):
            bound = "above 0 and at most 2 for vectors of unit length" if on_sphere else "above 0"
            raise ValueError(f"margin must be {bound}, not {margin}")
        self.margin = margin
        self.average = average

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`."""
        nearest = 1.0 if self.distance == "cosine" else 0.0  # the score at a distance of 0
        masks = pairs.positive, pairs.negative
        of_positives, of_negatives, active = _Squares.apply(
            scores, *masks, pairs.weight, nearest, self.margin
        )
        positives, negatives = (mask.count_nonzero() for mask in masks)
        each = (positives, negatives) if self.average == "balanced" else 2 * (positives + negatives,)
        return {
            "positive": Part(of_positives, each[0]),
            "negative": Part(of_negatives, each[1]),
            "active": Part(active, negatives, logged=True),
        }


class _Squares(torch.autograd.Function):
    """The sum of d² over positive pairs, that of [margin − d]₊² over negative pairs, and how many of these
    are not 0. Where positives are few, keeps both terms before they are squared in one matrix, else in two,
    and nothing else of the shape ``[r, C]``."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        positive: Tensor,
        negative: Tensor,
        weight: Tensor | None,
        nearest: float,
        margin: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        others, places = few_others(negative), []
        if others is not None:
            # One pass for the negatives, and the positives one by one.
            push = (scores + (margin - nearest)).contiguous().relu_()
            push.view(-1)[others] = 0.0
            places.append(others[positive.reshape(-1)[others]])
            pull = scores.reshape(-1)[places[0]] - nearest
        else:
            push = torch.where(negative, scores, nearest - margin).add_(margin - nearest).relu_()
            pull = torch.where(positive, scores, nearest).sub_(nearest)
        active = push.sign().sum().long()  # exact, and on a CPU faster than a comparison
        if weight is None:
            sums = [torch.linalg.vector_norm(each, dim=-1).square().sum() for each in (pull, push)]
        else:
            weights = weight.to(push.dtype)
            of_pull = weights.reshape(-1)[places[0]] if places else weights
            kept = pull * of_pull, push * weights
            sums = [(a * b).sum() for a, b in zip(kept, (pull, push), strict=True)]
            pull, push = kept
        ctx.save_for_backward(pull, push, *places)
        ctx.mark_non_differentiable(active)
        return sums[0], sums[1], active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_positives: Tensor, of_negatives: Tensor, _: Tensor) -> tuple[Any, ...]:
        pull, push, *places = ctx.saved_tensors
        gradient, pull = push * (2 * of_negatives), pull * (2 * of_positives)
        if places:
            gradient.view(-1)[places[0]] = pull
        else:
            gradient += pull
        return gradient, *[None] * 5
