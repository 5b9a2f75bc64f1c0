"""Circle loss: each pair is pulled or pushed the more, the further it is from where it should be."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss, Parts, masked_mean
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.scores import softplus
from lit_metric.losses.tuplet import log_sum_exp


def circle(scores: Tensor, pairs: PairBlock, margin: float, scale: float) -> tuple[Tensor, Tensor]:
    """``log(1 + Σ_n e^{γ α_n (s_n − m)} · Σ_p e^{−γ α_p (s_p − 1 + m)})`` with ``α_p = [1 + m − s_p]₊`` and
    ``α_n = [s_n + m]₊``, through which no gradient passes.

    Source: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020.

    Args:
        scores: ``[r, C]`` cosines.
        pairs: masks ``[r, C]``. A weight multiplies its pair's exponential.
        margin: m.
        scale: γ.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a positive and a negative; the loss of the others is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, False]]), torch.tensor([[False, True]]))
        >>> losses, _ = circle(torch.tensor([[0.75, 0.25]]), pairs, margin=0.25, scale=80.0)
        >>> losses.exp()  # both pairs are where they should be
        tensor([2.])
    """
    used = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    with torch.no_grad():
        pull, push = (1 + margin - scores).clamp_min(0), (scores + margin).clamp_min(0)
    positives = log_sum_exp(-scale * pull * (scores - 1 + margin), pairs.positive, pairs.weight)
    negatives = log_sum_exp(scale * push * (scores - margin), pairs.negative, pairs.weight)
    return torch.where(used, softplus(negatives + positives), 0.0), used


class CircleLoss(MetricLoss):
    """Circle loss: log(1 + Σ_n e^{γ α_n (s_n − m)} · Σ_p e^{−γ α_p (s_p − 1 + m)}) on cosines, the mean over
    anchors, with the weights α_p = [1 + m − s_p]₊ and α_n = [s_n + m]₊ held fixed.

    Positives are to be above 1 − m and negatives below m. Every pair is moved in proportion to how wrong it
    is, and those that are right enough rest.

    Logs ``circle``.

    Source: Sun et al., CVPR 2020.

    Args:
        margin: m, in (0, 1). The source takes 0.25 for faces and 0.4 for images of fine-grained classes; try
            0.2 to 0.5.
        scale: γ, above 0. The source takes 256 for faces and 80 for images of fine-grained classes; try 32 to
            256.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.eye(2, dtype=torch.bool)
        >>> CircleLoss(margin=0.25, scale=1.0)(torch.eye(2), torch.eye(2), DensePairs(same, ~same))["loss"]
        tensor(0.6326)
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
        """See :func:`circle`."""
        return {"circle": masked_mean(*circle(scores, pairs, self.margin, self.scale))}

    def extra_repr(self) -> str:
        """The settings."""
        return f"margin={self.margin}, scale={self.scale}"
