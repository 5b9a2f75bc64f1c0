"""SoftTriple loss: several learned centres for each class, softly the nearest of which counts."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.nca import nca
from lit_metric.losses.pairs import LabelPairs, PairBlock, Pairs
from lit_metric.losses.parts import Part, Parts, masked_mean
from lit_metric.losses.proxies import ProxyLoss
from lit_metric.losses.scores import restore_near, safe_sqrt


def spread(centres: Tensor) -> Tensor:
    """``Σ_{s<t} ‖w_s − w_t‖ / (C K (K − 1))`` of unit vectors ``[C, K, d]``; merged centres make it small.

    Source: Qian et al. (see :class:`SoftTripleLoss`), the regulariser.

    Example:
        >>> spread(torch.eye(2)[None]), 2 ** 0.5 / 2
        (tensor(0.7071), 0.7071067811865476)
    """
    classes, each, _ = centres.shape
    above = torch.ones(each, each, dtype=torch.bool, device=centres.device).triu(1)
    squares = torch.where(above, 2 - 2 * centres @ centres.mT, 2.0)
    vectors = centres.flatten(0, 1)
    restore_near(
        squares,
        2 * (squares.new_ones(each),),
        lambda at: vectors[at // each] - vectors[at // each**2 * each + at % each],
    )
    return safe_sqrt(torch.where(above, squares, 0.0)).sum() / (classes * each * max(each - 1, 1))


class SoftTripleLoss(ProxyLoss):
    """SoftTriple loss: a softmax over classes with several learned centres each, of which mostly the nearest
    counts: −log e^{λ(S_own − δ)} / (e^{λ(S_own − δ)} + Σ e^{λ S_other}), S = Σ_k softmax(s_k/γ) s_k on
    cosines, the mean over anchors.

    For classes of several clusters. A second term merges centres that a class doesn't need. Centres are
    proxies as in ``ProxyNCALoss``.

    Logs ``soft_triple`` and ``spread``, that term with its coefficient.

    Source: Qian, Shang, Sun, Hu, Li and Jin, "SoftTriple Loss: Deep Metric Learning Without Triplet
    Sampling", ICCV 2019.

    Args:
        centres: for each class, at least 1. The source takes 10, or 2 where classes have few members.
        scale: λ, above 0. The source takes 20; try 10 to 40.
        gamma: γ, above 0; smaller uses the nearest centre only. The source takes 0.1; try 0.05 to 0.5.
        margin: δ, at least 0. The source takes 0.01; try 0 to 0.1.
        tau: τ, the coefficient of the term that merges, at least 0. The source takes 0.2; 0 for no merging.
        block_rows: anchors compared with all centres at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import LossContext
        >>> loss = SoftTripleLoss(centres=1, scale=0.5, margin=0.0)
        >>> loss.setup(LossContext(dimension=2, class_counts=torch.tensor([3, 5])))  # before the optimizer
        >>> _ = loss.proxies.data.copy_(torch.eye(2))
        >>> loss(torch.tensor([[3.0, 0.0]]), labels=torch.tensor([0])).item()  # log(1 + e^-0.5)
        0.4740...
    """

    def __init__(
        self,
        centres: int = 10,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.2,
        block_rows: int = 1024,
    ) -> None:
        super().__init__("cosine", False, block_rows, per_class=centres)
        if not (0 < scale < float("inf") and 0 < gamma < float("inf")):
            raise ValueError(f"scale and gamma must be above 0 and finite, not {scale} and {gamma}")
        if not (0 <= margin < 2 and 0 <= tau < float("inf")):
            raise ValueError(f"margin must be in [0, 2) and tau at least 0, not {margin} and {tau}")
        self.scale = scale
        self.gamma = gamma
        self.margin = margin
        self.tau = tau

    def sides(self, anchors: Tensor, proxies: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        """Puts the first centres of all classes before all second ones: a softmax over a short last dimension
        is slow."""
        order = torch.arange(len(proxies), device=proxies.device).view(-1, self.per_class).T.flatten()
        return anchors, proxies[order], LabelPairs(numbers, self.numbers_of(proxies)[order])

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """The part that needs only scores, in the order of :meth:`sides`."""
        by_class = scores.unflatten(1, (self.per_class, -1))
        similarity = ((by_class / self.gamma).softmax(dim=1) * by_class).sum(dim=1)
        own, others = (mask[:, : similarity.shape[1]] for mask in (pairs.positive, pairs.negative))
        logits = self.scale * (similarity - self.margin * own)
        return {"soft_triple": masked_mean(*nca(logits, PairBlock(own, others)))}

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """Adds the regulariser, which needs the centres."""
        parts = super().rows(anchors, candidates, pairs)
        # Once for each anchor: a batch without a usable anchor leaves the centres where they are.
        times = parts["soft_triple"].number
        regulariser = self.tau * spread(candidates.unflatten(0, (self.per_class, -1)).transpose(0, 1))
        return {**parts, "spread": Part(regulariser * times, times)}
