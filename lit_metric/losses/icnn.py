"""The ICNN loss: how many of an item's nearest neighbours are of its class, and how near these are."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.gather import gather_with_grad
from lit_metric.losses.pairs import PairBlock, Pairs
from lit_metric.losses.parts import Part, Parts


class ICNNLoss(MetricLoss):
    """−log ½(λ + γ) of the k nearest neighbours of all anchors: γ is the share of positives among them, and
    λ = ½[(1 − near) + far], with near the mean relative distance of those positives, and far the mean
    distance of the negatives among them, divided by the largest of those.

    The relative distance is d_p / min_n d_n, divided by the largest of the anchor's k neighbours where that
    is above 1. γ counts, so it has no gradient. "Far" is 1 where all neighbours are positives. It is one
    score of the whole batch, that of all processes, and no mean over anchors.

    A positive beyond the k nearest neighbours has no gradient, so a class that isn't near together already
    stays apart. Put it beside another loss in a ``SumLoss``, as the source does with the cross-entropy of
    prototypes (:class:`PrototypicalLoss`). Pairs of weight 0 are left out; other weights change nothing.

    Cost: a sort of each anchor's candidates.

    Logs ``icnn``; e to the power of minus that is the ICNN score, in (0, 1].

    Source: SuSana Distancia (Muñoz et al., arXiv 2305.09062), in the form of its code, which leaves the
    variances of the paper's score out. There the nearest negative is looked for among few neighbours, here
    among all candidates.

    Args:
        neighbours: k, at least 1; the source takes 4.
        normalize: scale embeddings to unit length before the Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if ``neighbours`` is below 1.

    Example:
        >>> loss = ICNNLoss(neighbours=1)
        >>> loss(torch.tensor([[0.0], [1.0], [3.0], [4.0]]), labels=torch.tensor([0, 0, 1, 1]))
        tensor(0.1100)
    """

    def __init__(self, neighbours: int = 4, normalize: bool = False, block_rows: int = 1024) -> None:
        super().__init__("euclidean", normalize, block_rows)
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, not {neighbours}")
        self.neighbours = neighbours

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; of the anchors of one block, and so not a sum over blocks."""
        return {"icnn": _loss(self._figures(scores, pairs))}

    def sum_blocks(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> Parts:
        """The loss of all ranks' anchors, the same on every rank, as if they were one block."""

        def work(rows: Tensor, others: Tensor, masks: PairBlock) -> tuple[Tensor, Part]:
            return self._figures(self.scores(rows, others, masks), masks), self.share_used(masks)

        figures, used = zip(*self.in_blocks(anchors, candidates, pairs, work), strict=True)
        # Every rank takes the gradient of the whole: the average over ranks is then that of one process.
        loss = _loss(gather_with_grad(torch.cat(figures)))
        return {"icnn": loss, "anchors_used": reduce(Part.plus, used)}

    def _figures(self, scores: Tensor, pairs: PairBlock) -> Tensor:
        """``[u, 6]`` of the usable anchors of a block: the mean relative distance of positives among the
        neighbours, whether there are any, the mean distance of negatives among them, whether there are any,
        the largest of these distances, and the share of positives."""
        used = pairs.usable.nonzero()[:, 0]
        distances, positive, negative = -scores[used], pairs.positive[used], pairs.negative[used]
        nearest = torch.where(negative, distances, torch.inf).amin(dim=1, keepdim=True)
        keys = torch.where(positive | negative, distances.detach(), torch.inf)
        order = keys.sort(dim=1, stable=True).indices[:, : self.neighbours]
        near, same, other = (each.gather(1, order) for each in (distances, positive, negative))
        relative = torch.where(same | other, near, 0.0) / nearest.clamp(min=torch.finfo(near.dtype).tiny)
        relative = relative / relative.amax(dim=1, keepdim=True).clamp(min=1)
        away = torch.where(other, near, 0.0)
        of_same, of_other = same.sum(dim=1), other.sum(dim=1)
        columns = (
            torch.where(same, relative, 0.0).sum(dim=1) / of_same.clamp(min=1),
            (of_same > 0).to(near.dtype),
            away.sum(dim=1) / of_other.clamp(min=1),
            (of_other > 0).to(near.dtype),
            away.amax(dim=1),
            of_same.to(near.dtype) / (of_same + of_other),
        )
        return torch.stack(columns, dim=1)


def _loss(figures: Tensor) -> Part:
    """The loss of the figures ``[u, 6]`` of all anchors, as a mean of one term; of none if u is 0."""
    if not len(figures):
        return Part(figures.sum(), torch.zeros((), dtype=torch.int64, device=figures.device))
    near, with_same, away, with_other, largest, shares = figures.unbind(dim=1)
    close = 1 - near.sum() / with_same.sum().clamp(min=1)
    far = away.sum() / with_other.sum().clamp(min=1) / largest.max().clamp(min=torch.finfo(near.dtype).tiny)
    far = torch.where(with_other.any(), far, 1.0)
    score = ((close + far) / 2 + shares.detach().mean()) / 2
    return Part(
        -score.clamp(min=torch.finfo(near.dtype).eps).log(),
        torch.ones((), dtype=torch.int64, device=figures.device),
    )
