"""Angular loss: the angle at the negative, seen from the middle of a positive pair, is to stay small."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.base import VectorLoss
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Part, Parts, masked_mean, over_positive_pairs
from lit_metric.losses.scores import log_one_plus_sum_exp


class AngularLoss(VectorLoss):
    """Angular loss: log(1 + Σ_n e^{4 tan²α (x_a + x_p)·x_n − 2(1 + tan²α) x_a·x_p}), the mean over positive
    pairs.

    It bounds the angle at the negative in the triangle of anchor, positive and negative. That angle doesn't
    depend on how far apart classes lie. The source adds it to the N-pair loss of the same batch: see
    ``SumLoss``.

    Cost: it compares each positive with all negatives, P × C × d per anchor, in slices: many positives in a
    batch make it slow.

    A positive's weight multiplies its term, a negative's weight multiplies its exponential.

    Logs ``angular``.

    Source: Wang, Zhou, Wen, Liu and Lin, "Deep Metric Learning with Angular Loss", ICCV 2017.

    Args:
        angle: α in degrees, above 0 and below 90: the bound on the angle at the negative. Try 30 to 55; the
            smaller, the tighter.
        distance: ``cosine`` scales embeddings to unit length, as the source does, ``dot`` leaves them raw.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = AngularLoss(45.0)
        >>> loss(torch.eye(2), torch.eye(2))  # anchors and positives: log(1 + e^-4)
        tensor(0.0181)
    """

    def __init__(
        self, angle: float = 40.0, distance: Literal["cosine", "dot"] = "cosine", block_rows: int = 1024
    ) -> None:
        if distance not in ("cosine", "dot"):
            raise ValueError(f"distance {distance!r} is none of cosine, dot")
        super().__init__(distance, block_rows=block_rows)
        if not 0 < angle < 90:
            raise ValueError(f"angle must be above 0 and below 90 degrees, not {angle}")
        self.angle = angle

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`VectorLoss.rows`; the negatives of an anchor are also those of its positives."""
        square = math.tan(math.radians(self.angle)) ** 2

        def of_pairs(row: Tensor, column: Tensor) -> tuple[Part]:
            first, second = anchors.index_select(0, row), candidates.index_select(0, column)
            together = (first * second).sum(dim=1, keepdim=True)
            exponents = 4 * square * (first + second) @ candidates.T - 2 * (1 + square) * together
            weights = None if pairs.weight is None else pairs.weight[row]
            terms = log_one_plus_sum_exp(exponents, pairs.negative[row], weights)
            weight = None if weights is None else weights.gather(1, column[:, None])[:, 0]
            return (masked_mean(terms, torch.ones_like(row, dtype=torch.bool), weight),)

        [loss] = over_positive_pairs(pairs, of_pairs)
        return {"angular": loss}
