"""Losses against prototypes: the mean vector of the candidates of each class, as few-shot learning has
them."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import LossOutput, MetricLoss
from lit_metric.losses.pairs import LabelPairs, PairBlock, Pairs
from lit_metric.losses.parts import Parts, masked_mean, share
from lit_metric.losses.scores import Distance, log_sum_exp
from lit_metric.losses.temperature import TemperatureLoss


def prototypes(candidates: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the vectors of each class.

    Args:
        candidates: ``[C, d]``.
        labels: ``[C]`` int64; those below 0 are left out.

    Returns:
        ``[K, d]``, in float32 at least, and ``[K]`` their classes, rising.

    Example:
        >>> prototypes(torch.tensor([[1.0], [5.0], [3.0], [9.0]]), torch.tensor([7, 2, 7, -1]))
        (tensor([[5.],
                [2.]]), tensor([2, 7]))
    """
    known = (labels >= 0).nonzero()[:, 0]
    classes, number = labels[known].unique(return_inverse=True)
    vectors = candidates[known].to(torch.promote_types(candidates.dtype, torch.float32))
    sums = vectors.new_zeros(len(classes), vectors.shape[1]).index_add(0, number, vectors)
    return sums / number.bincount(minlength=len(classes))[:, None], classes


class PrototypeLoss(MetricLoss):
    """Base of the losses between anchors and the prototypes of the classes among their candidates.

    Candidates are those of all ranks, so prototypes are, too, and the gradient reaches the candidates. An
    anchor that is among the candidates is a part of its own prototype, which makes its task easier;
    :class:`~lit_metric.batching.EpisodePlanner` keeps them apart."""

    requires_labels = True

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`; of the pairs only the labels count, -1 for no class.

        Raises:
            ValueError: if anchors or candidates have no labels.
        """
        own, others = pairs.anchor_labels, pairs.candidate_labels
        if own is None or others is None or len(own) != len(anchors) or len(others) != len(candidates):
            raise ValueError(
                f"{type(self).__name__} needs the classes of {len(anchors)} anchors and {len(candidates)} "
                "candidates; call loss(embeddings, labels=labels)"
            )
        centres, classes = prototypes(candidates, others)
        return super().on_pairs(anchors, centres, LabelPairs(own, classes))


class PrototypicalLoss(TemperatureLoss, PrototypeLoss):
    """Prototypical cross-entropy: −log e^{s_y/τ} / Σ_k e^{s_k/τ}, with s_k the similarity to the prototype of
    class k, the mean of its candidates, and y the anchor's class; a mean over anchors.

    For few examples of each class, with :class:`~lit_metric.batching.EpisodePlanner`. New classes are then
    told apart by the means of their few examples.

    Logs ``prototypical``, ``active``, the share of anchors whose nearest prototype is another class's, and,
    if it is learned, the ``temperature``.

    Source: Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", NIPS 2017, eq. 2.

    Args:
        temperature: τ, above 0, and between 0.01 and 100 if it is learned. The source has none, that is 1, on
            squared Euclidean distances; try 0.02 to 0.2 with ``cosine``.
        distance: any of the four; Euclidean distances enter with a minus sign.
        normalize: scale anchors and prototypes to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all prototypes at a time.
        learnable: learn the temperature from that start, as its logarithm, within those bounds.

    Example:
        >>> loss = PrototypicalLoss(temperature=1.0, distance="squared_euclidean")
        >>> embeddings = torch.tensor([[0.0], [2.0], [4.0]])  # prototypes 1 and 4
        >>> loss(embeddings, labels=torch.tensor([0, 0, 1])).item()
        0.016...
    """

    def __init__(
        self,
        temperature: float = 0.1,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
        learnable: bool = False,
    ) -> None:
        super().__init__(temperature, learnable, distance, normalize, block_rows)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; the candidates are prototypes."""
        logits, used = scores / self.temperature, pairs.usable
        own = torch.where(pairs.positive, logits, 0.0).sum(dim=1)
        losses = log_sum_exp(logits, pairs.positive | pairs.negative) - own
        best = torch.where(pairs.negative, scores.detach(), -torch.inf).amax(dim=1)
        wrong = best > torch.where(pairs.positive, scores.detach(), torch.inf).amin(dim=1)
        return {
            "prototypical": masked_mean(torch.where(used, losses, 0.0), used),
            "active": share(wrong, used),
        }


class PrototypeTripletLoss(PrototypeLoss):
    """Proto-triplet: [m + d(q, c_y) − min_{k≠y} d(q, c_k)]₊ of an anchor q, the prototype c_y of its class
    and the nearest other prototype; a mean over anchors.

    As :class:`PrototypicalLoss`, but only the nearest wrong class counts, and an anchor rests once the margin
    holds.

    Logs ``prototype_triplet`` and ``active``, the share of anchors that break the margin.

    Source: SuSana Distancia (Muñoz et al., arXiv 2305.09062), the proto-triplet loss.

    Args:
        margin: m, above 0. The source takes 0.5.
        distance: any of the four, as a distance.
        normalize: scale anchors and prototypes to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all prototypes at a time.

    Raises:
        ValueError: if the margin is out of its range.

    Example:
        >>> loss = PrototypeTripletLoss(margin=0.5)
        >>> embeddings = torch.tensor([[0.0], [2.0], [2.2]])  # prototypes 1 and 2.2; item 1 breaks the margin
        >>> loss(embeddings, labels=torch.tensor([0, 0, 1]))
        tensor(0.4333)
    """

    def __init__(
        self,
        margin: float = 0.5,
        distance: Distance = "euclidean",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        if not 0 < margin < float("inf"):
            raise ValueError(f"margin must be above 0 and finite, not {margin}")
        self.margin = margin

    @property
    def plateau(self) -> float:
        """See :attr:`Loss.plateau`; the margin."""
        return self.margin

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; the candidates are prototypes."""
        used, least = pairs.usable, torch.finfo(scores.dtype).min / 4
        own = torch.where(pairs.positive, scores, 0.0).sum(dim=1)
        nearest = torch.where(pairs.negative, scores, least).amax(dim=1)
        losses = torch.where(used, (self.margin + nearest - own).relu(), 0.0)
        return {"prototype_triplet": masked_mean(losses, used), "active": share(losses > 0, used)}
