"""Proxy-anchor loss: each proxy is compared with the items of the batch, and the hardest weigh most."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.gather import gather_ids, gather_with_grad, own_share
from lit_metric.losses.pairs import LabelPairs, PairBlock, Pairs, any_in_row
from lit_metric.losses.parts import Parts, masked_mean
from lit_metric.losses.proxies import ProxyLoss
from lit_metric.losses.scores import log_one_plus_sum_exp


class ProxyAnchorLoss(ProxyLoss):
    """Proxy-anchor loss: log(1 + Σ_p e^{−α(s_p − δ)}), the mean over proxies whose class is in the batch,
    plus log(1 + Σ_n e^{α(s_n + δ)}), the mean over all proxies, on cosines.

    Here the proxy is the anchor and the batch's items are its positives p and negatives n. The hardest weigh
    most, so it depends on how items lie to each other, unlike proxy-NCA. Proxies are those of
    ``ProxyNCALoss``. The batch is that of all processes, and each process has its share of the proxies.

    Logs ``positive`` and ``negative``, whose sum is the loss, and, instead of ``anchors_used``,
    ``proxies_used``, the share of proxies that have items of their class and of others.

    Source: Kim, Kim, Cho and Kwak, "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020.

    Args:
        margin: δ, at least 0. The source takes 0.1; try 0 to 0.3.
        scale: α, above 0. The source takes 32; try 16 to 64.
        block_rows: proxies compared with all anchors at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import LossContext
        >>> loss = ProxyAnchorLoss(margin=0.0, scale=1.0)
        >>> loss.setup(LossContext(dimension=2, class_counts=torch.tensor([3, 5])))  # before the optimizer
        >>> _ = loss.proxies.data.copy_(torch.eye(2))
        >>> loss(torch.tensor([[3.0, 0.0]]), labels=torch.tensor([0])).item()  # log(1 + e^-1) + log(2) / 2
        0.6598...
    """

    def __init__(self, margin: float = 0.1, scale: float = 32.0, block_rows: int = 1024) -> None:
        super().__init__("cosine", False, block_rows)
        if not 0 <= margin < 1:
            raise ValueError(f"margin must be at least 0 and below 1, not {margin}")
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be above 0 and finite, not {scale}")
        self.margin = margin
        self.scale = scale

    def sides(self, anchors: Tensor, proxies: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        """This rank's share of the proxies with the anchors of all ranks."""
        pairs = LabelPairs(self.numbers_of(proxies)[own_share()], gather_ids(numbers))
        return proxies[own_share()], gather_with_grad(anchors), pairs

    def sum_blocks(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> Parts:
        """See :meth:`VectorLoss.sum_blocks`; the rows are proxies."""
        parts = super().sum_blocks(anchors, candidates, pairs)
        parts["proxies_used"] = parts.pop("anchors_used")
        return parts

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; the rows are proxies."""
        positive = log_one_plus_sum_exp(-self.scale * (scores - self.margin), pairs.positive)
        negative = log_one_plus_sum_exp(self.scale * (scores + self.margin), pairs.negative)
        return {
            "positive": masked_mean(positive, any_in_row(pairs.positive)),
            "negative": masked_mean(negative, torch.ones_like(negative, dtype=torch.bool)),
        }
