"""Contrastive loss: positives at distance 0, negatives beyond a margin."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lit_metric.losses.base import MetricLoss, Part, Parts, masked_mean, share
from lit_metric.losses.pairs import PairBlock


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
        minus_distances = scores - 1 if self.distance == "cosine" else scores
        missing = (self.margin + minus_distances).relu_()
        parts = {
            "positive": masked_mean(minus_distances.square(), pairs.positive, pairs.weight),
            "negative": masked_mean(missing.square(), pairs.negative, pairs.weight),
            "active": share(missing > 0, pairs.negative),
        }
        if self.average == "pairs":
            both = parts["positive"].number + parts["negative"].number
            for name in ("positive", "negative"):
                parts[name] = Part(parts[name].total, both)
        return parts
