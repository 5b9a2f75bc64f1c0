"""Proxy-NCA: an anchor's own proxy against those of the other classes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.nca import nca
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Parts, masked_mean
from lit_metric.losses.proxies import ProxyLoss
from lit_metric.losses.scores import Distance, log_sum_beside

Denominator = Literal["all", "others"]


class ProxyNCALoss(ProxyLoss):
    """Proxy-NCA: −log e^{s_own/τ} / Σ e^{s/τ} between an anchor and one learned *proxy* for each class, the
    mean over anchors.

    There is no pair to find: every anchor meets its proxy and all others in every batch. Batches may be small
    and need not hold two of a class. A class becomes one cluster around its proxy. It needs one label for
    each item.

    Proxies are parameters of the loss, ``loss.proxies``, one for each class that occurs in training. They are
    created when training starts and saved in its checkpoints. They start at random and want a larger learning
    rate than the encoder::

        model:
          loss:
            class_path: lit_metric.losses.ProxyAnchorLoss
          lr_scale: {loss.proxies: 100}

    Over several processes every process holds all proxies, and their gradient is that of the union batch.
    Candidates, and so mined negatives, are ignored.

    Cost: A × classes scores in place of A × C.

    Logs ``proxy_nca``.

    Source: Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", ICCV 2017; Teh,
    DeVries and Taylor, "ProxyNCA++", ECCV 2020.

    Args:
        temperature: τ, above 0; the default is ProxyNCA++'s 1/9, the first source has none, that is 1. Try
            0.05 to 0.3.
        denominator: over ``all`` proxies (ProxyNCA++), or those of the ``others`` (Proxy-NCA,
            whose loss may fall below 0).
        distance: any of the four; the sources take ``squared_euclidean`` on unit vectors. Try ``cosine``, at
            half the temperature.
        normalize: scale embeddings and proxies to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all proxies at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import LossContext
        >>> loss = ProxyNCALoss(temperature=2.0)
        >>> loss.setup(LossContext(dimension=2, class_counts=torch.tensor([3, 5])))  # before the optimizer
        >>> _ = loss.proxies.data.copy_(torch.eye(2))
        >>> loss(torch.tensor([[3.0, 0.0]]), labels=torch.tensor([0])).item()  # log(1 + e^-1)
        0.3132...
    """

    def __init__(
        self,
        temperature: float = 0.11,
        denominator: Denominator = "all",
        distance: Distance = "squared_euclidean",
        normalize: bool = True,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, not {temperature}")
        if denominator not in ("all", "others"):
            raise ValueError(f"denominator {denominator!r} is none of all, others")
        self.temperature = temperature
        self.denominator: Denominator = denominator

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; a positive is an anchor's own proxy."""
        if self.denominator == "all":
            return {"proxy_nca": masked_mean(*nca(scores, pairs, 1 / self.temperature))}
        logits = scores / self.temperature
        own, nearest_own = log_sum_beside(logits, pairs.positive)
        others, nearest_other = log_sum_beside(logits, pairs.negative)
        losses = torch.where(pairs.usable, others - own + (nearest_other - nearest_own), 0.0)
        return {"proxy_nca": masked_mean(losses, pairs.usable)}
