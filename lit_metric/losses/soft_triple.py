"""SoftTriple loss: several learned centres for each class, softly the nearest of which counts."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import Part, Parts, masked_mean
from lit_metric.losses.nca import nca
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.proxies import ProxyLoss
from lit_metric.losses.scores import restore_near, safe_sqrt


def soft_triple(
    scores: Tensor, pairs: PairBlock, centres: int, scale: float, gamma: float, margin: float
) -> tuple[Tensor, Tensor]:
    """``−log e^{λ(S_own − δ)} / (e^{λ(S_own − δ)} + Σ e^{λ S_other})`` with the mean ``S = Σ_k q_k s_k`` of a
    class's centres, weighed by ``q = softmax(s / γ)``.

    Source: Qian, Shang, Sun, Hu, Li and Jin, "SoftTriple Loss: Deep Metric Learning Without Triplet
    Sampling", ICCV 2019.

    Args:
        scores: ``[r, P]`` cosines of anchors and centres; those of a class follow each other.
        pairs: masks ``[r, P]``, positives being the centres of an anchor's class.
        centres: how many each class has.
        scale: λ.
        gamma: γ.
        margin: δ.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have centres and others to tell them from; the loss of the
        rest is 0.

    Example:
        >>> own = torch.tensor([[True, True, False, False]])
        >>> scores = torch.full((1, 4), 0.5)
        >>> losses, _ = soft_triple(scores, PairBlock(own, ~own), 2, scale=20.0, gamma=0.1, margin=0.0)
        >>> losses.exp()
        tensor([2.])
    """
    by_class = scores.unflatten(1, (-1, centres))
    similarity = ((by_class / gamma).softmax(dim=2) * by_class).sum(dim=2)
    of_classes = PairBlock(pairs.positive[:, ::centres], pairs.negative[:, ::centres])
    return nca(scale * (similarity - margin * of_classes.positive), of_classes)


def spread(centres: Tensor) -> Tensor:
    """``Σ_{s<t} ‖w_s − w_t‖ / (C K (K − 1))`` of unit vectors ``[C, K, d]``; merged centres make it small.

    Source: Qian et al. (see :func:`soft_triple`), the regulariser.

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
        torch.full_like(squares, 2.0),
        lambda at: vectors[at // each] - vectors[at // each**2 * each + at % each],
    )
    return safe_sqrt(torch.where(above, squares, 0.0)).sum() / (classes * each * max(each - 1, 1))


class SoftTripleLoss(ProxyLoss):
    """SoftTriple loss: a softmax over classes that have several learned centres each, of which softly the
    nearest counts: −log of e^{λ(S_own − δ)} against Σ e^{λ S}, S = Σ_k softmax(s_k/γ) s_k on cosines, the
    mean over anchors.

    A term is added that merges centres which a class doesn't need. For classes of several clusters. Centres
    are the proxies of ``ProxyNCALoss``.

    Logs ``soft_triple`` and ``spread``, that term with its coefficient.

    Source: Qian et al., ICCV 2019.

    Args:
        centres: for each class, at least 1. The source takes 10, or 2 where classes have few members.
        scale: λ, above 0. The source takes 20; try 10 to 40.
        gamma: γ, above 0; smaller looks at the nearest centre only. The source takes 0.1; try 0.05 to 0.5.
        margin: δ, at least 0. The source takes 0.01; try 0 to 0.1.
        tau: τ, the coefficient of the term that merges, at least 0. The source takes 0.2; 0 for no merging.
        block_rows: anchors compared with all centres at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> loss = SoftTripleLoss(centres=1, scale=0.5, margin=0.0)
        >>> loss.build(class_counts=torch.tensor([3, 5]), dimension=2)
        >>> with torch.no_grad():
        ...     _ = loss.proxies.copy_(torch.eye(2))
        >>> nothing = DensePairs(torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0, dtype=torch.bool))
        >>> out = loss(torch.tensor([[3.0, 0.0]]), torch.zeros(0, 2), nothing, classes=torch.tensor([0]))
        >>> out["soft_triple"]  # log(1 + e^-0.5)
        tensor(0.4741)
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

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """The part that needs only scores, see :func:`soft_triple`."""
        settings = (self.per_class, self.scale, self.gamma, self.margin)
        return {"soft_triple": masked_mean(*soft_triple(scores, pairs, *settings))}

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """Adds the regulariser, which needs the centres."""
        parts = super().rows(anchors, candidates, pairs)
        # As many times as there are anchors: a batch that teaches nothing leaves the centres where they are.
        times = parts["soft_triple"].number
        regulariser = self.tau * spread(candidates.unflatten(0, (-1, self.per_class)))
        return {**parts, "spread": Part(regulariser * times, times)}

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"centres={self.per_class}, scale={self.scale}, gamma={self.gamma}, margin={self.margin}, "
            f"tau={self.tau}"
        )
