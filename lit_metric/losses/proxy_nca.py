"""Proxy-NCA: an anchor's own proxy against those of the other classes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.base import Parts, masked_mean
from lit_metric.losses.nca import nca
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.proxies import ProxyLoss
from lit_metric.losses.scores import Distance
from lit_metric.losses.temperature import check_temperature
from lit_metric.losses.tuplet import beside_largest, log_sum_exp

Denominator = Literal["all", "others"]


def proxy_nca(logits: Tensor, pairs: PairBlock, denominator: Denominator = "all") -> tuple[Tensor, Tensor]:
    """``−log( e^{l_own} / Σ e^l )``, the sum over ``all`` proxies or those of the ``others`` only.

    Source: ``others`` is Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", ICCV
    2017; ``all`` is Teh, DeVries and Taylor, "ProxyNCA++", ECCV 2020.

    Args:
        logits: ``[r, P]`` scores of anchors and proxies, divided by the temperature.
        pairs: masks ``[r, P]``, a positive being an anchor's own proxy.
        denominator: with ``others`` the loss may fall below 0.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a proxy and others to tell it from; the loss of the
        rest is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, False, False]]), torch.tensor([[False, True, True]]))
        >>> [proxy_nca(torch.zeros(1, 3), pairs, which)[0].exp() for which in ("all", "others")]
        [tensor([3.]), tensor([2.])]
    """
    if denominator == "all":
        return nca(logits, pairs)
    used = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    logits = beside_largest(logits, pairs.positive | pairs.negative)
    own, others = log_sum_exp(logits, pairs.positive), log_sum_exp(logits, pairs.negative)
    return torch.where(used, others - own, 0.0), used


class ProxyNCALoss(ProxyLoss):
    """Proxy-NCA: −log e^{s_own/τ} / Σ e^{s/τ} between an anchor and one learned *proxy* for each class, the
    mean over anchors.

    There is no pair to find: every anchor meets its proxy and all others in every batch, which may be small
    and need not hold two of a class. A class becomes one cluster around its proxy. It needs one label for
    each item.

    Proxies are parameters of the loss, ``loss.proxies``, one for each class that occurs in training, made
    when training starts and kept in its checkpoints. They start at random and want a larger learning rate
    than the encoder::

        model:
          loss:
            class_path: lit_metric.losses.ProxyAnchorLoss
          lr_scale: {loss.proxies: 100}

    Over several processes every process holds all proxies, and their gradient is that of the union batch.
    Candidates, and so mined negatives, are not looked at.

    Cost: A × classes scores in place of A × C.

    Logs ``proxy_nca``.

    Source: Movshovitz-Attias et al., ICCV 2017; ProxyNCA++, Teh et al., ECCV 2020.

    Args:
        temperature: τ, above 0; the default is ProxyNCA++'s 1/9, the first source has none, that is 1. Try
            0.05 to 0.3.
        denominator: over ``all`` proxies (ProxyNCA++), or those of the ``others`` (Proxy-NCA).
        distance: any of the four; the sources take ``squared_euclidean`` on unit vectors. Try ``cosine``, at
            half the temperature.
        normalize: scale embeddings and proxies to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all proxies at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> loss = ProxyNCALoss(temperature=2.0)
        >>> loss.build(class_counts=torch.tensor([3, 5]), dimension=2)
        >>> with torch.no_grad():
        ...     _ = loss.proxies.copy_(torch.eye(2))
        >>> nothing = DensePairs(torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0, dtype=torch.bool))
        >>> loss(torch.tensor([[3.0, 0.0]]), torch.zeros(0, 2), nothing, classes=torch.tensor([0]))["loss"]
        tensor(0.3133, grad_fn=<AddBackward0>)
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
        check_temperature(temperature)
        if denominator not in ("all", "others"):
            raise ValueError(f"denominator {denominator!r} is none of all, others")
        self.temperature = temperature
        self.denominator: Denominator = denominator

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`proxy_nca`."""
        return {"proxy_nca": masked_mean(*proxy_nca(scores / self.temperature, pairs, self.denominator))}

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"temperature={self.temperature}, denominator={self.denominator}, distance={self.distance}, "
            f"normalize={self.normalize}"
        )
