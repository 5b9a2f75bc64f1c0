"""Circle loss: each pair is pulled or pushed the more, the further it is from where it should be."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Parts, masked_mean
from lit_metric.losses.scores import log_sum_exp, softplus


class CircleLoss(MetricLoss):
    """Circle loss: log(1 + Σ_n e^{γ α_n (s_n − m)} · Σ_p e^{−γ α_p (s_p − 1 + m)}) on cosines, the mean over
    anchors, with the weights α_p = [1 + m − s_p]₊ and α_n = [s_n + m]₊ held fixed.

    Positives are to be above 1 − m and negatives below m. Every pair is moved in proportion to its error, and
    pairs that are right rest. A pair's weight multiplies its exponential.

    Logs ``circle``.

    Source: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020.

    Args:
        margin: m, in (0, 1). The source takes 0.25 for faces and 0.4 for images of fine-grained classes; try
            0.2 to 0.5.
        scale: γ, above 0. The source takes 256 for faces and 80 for images of fine-grained classes; try 32 to
            256.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = CircleLoss(margin=0.25, scale=1.0)
        >>> loss(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), labels=torch.tensor([0, 0, 1]))
        tensor(0.8987)
    """

    def __init__(self, margin: float = 0.4, scale: float = 80.0, block_rows: int = 1024) -> None:
        super().__init__("cosine", block_rows=block_rows)
        if not 0 < margin < 1:
            raise ValueError(f"margin must be between 0 and 1, not {margin}")
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be above 0 and finite, not {scale}")
        self.margin = margin
        self.scale = scale

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`."""
        with torch.no_grad():
            pull, push = (1 + self.margin - scores).clamp_min(0), (scores + self.margin).clamp_min(0)
        positives = -self.scale * pull * (scores - 1 + self.margin)
        positives = log_sum_exp(positives, pairs.positive, pairs.weight)
        negatives = log_sum_exp(self.scale * push * (scores - self.margin), pairs.negative, pairs.weight)
        losses = torch.where(pairs.usable, softplus(negatives + positives), 0.0)
        return {"circle": masked_mean(losses, pairs.usable)}
