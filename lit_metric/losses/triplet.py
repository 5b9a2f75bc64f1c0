"""Triplet loss: a negative must be less similar than a positive, by a margin or softly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss, Part, Parts, masked_mean, share
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.scores import Distance, softplus
from lit_metric.losses.slices import over_positive_pairs

Margin = float | Literal["soft"]
Mining = Literal["all", "semi_hard", "hard"]


def violation(positive: Tensor, negative: Tensor, margin: Margin) -> tuple[Tensor, Tensor]:
    """The loss of triplets whose scores are ``positive`` and ``negative``, and which of them are active.

    Args:
        positive: similarity of anchor and positive.
        negative: similarity of anchor and negative, of a shape that goes with ``positive``.
        margin: m gives ``[m + s_n − s_p]₊``, ``"soft"`` gives ``log(1 + exp(s_n − s_p))``.

    Returns:
        The losses, and which triplets break the margin; with the soft margin, whose loss is never 0, those
        whose negative is the closer.

    Example:
        >>> violation(torch.tensor(0.75), torch.tensor([0.0, 0.5]), margin=0.5)
        (tensor([0.0000, 0.2500]), tensor([False,  True]))
    """
    if margin == "soft":
        return softplus(negative - positive), negative > positive
    excess = margin + negative - positive
    return excess.relu(), excess > 0


def batch_hard(scores: Tensor, pairs: PairBlock, margin: Margin) -> tuple[Part, Part]:
    """One triplet per anchor: its least similar positive and its most similar negative.

    Source: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
    arXiv 1703.07737, eq. 5, there with the (non-squared) Euclidean distance and the soft margin.

    Args:
        scores: ``[r, C]`` similarities.
        pairs: masks ``[r, C]``; the triplet's term is multiplied by its two pairs' weights, which don't
            influence the choice.
        margin: see :func:`violation`.

    Returns:
        The loss and the share of active triplets, over anchors that have a positive and a negative.

    Example:
        >>> positive = torch.tensor([[True, True, False, False]])
        >>> pairs = PairBlock(positive, ~positive)
        >>> loss, active = batch_hard(torch.tensor([[0.75, 0.5, 0.25, 0.0]]), pairs, margin=0.5)
        >>> loss.total.item(), loss.number.item(), active.total.item()
        (0.25, 1, 1)
    """
    used = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    hardest_positive = torch.where(pairs.positive, scores, torch.inf).argmin(dim=1, keepdim=True)
    hardest_negative = torch.where(pairs.negative, scores, -torch.inf).argmax(dim=1, keepdim=True)
    terms, active = violation(scores.gather(1, hardest_positive), scores.gather(1, hardest_negative), margin)
    weight = None
    if pairs.weight is not None:
        weight = (pairs.weight.gather(1, hardest_positive) * pairs.weight.gather(1, hardest_negative))[:, 0]
    return masked_mean(terms[:, 0], used, weight), share(active[:, 0], used)


def batch_semi_hard(scores: Tensor, pairs: PairBlock, margin: Margin) -> tuple[Part, Part]:
    """One triplet per positive pair: the most similar negative among those less similar than the positive.

    Where there is none, the least similar negative: TensorFlow's rule, which keeps a collapsed batch visible.

    Source: Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, section 3.2.

    Args and returns are those of :func:`batch_hard`, over positive pairs whose anchor has a negative.

    Example:
        >>> positive = torch.tensor([[True, False, False, False]])
        >>> pairs = PairBlock(positive, ~positive)
        >>> loss, _ = batch_semi_hard(torch.tensor([[0.5, 0.75, 0.25, 0.0]]), pairs, margin=0.5)
        >>> loss.total.item()  # 0.75 is too hard
        0.25
    """

    used = pairs.positive & pairs.negative.any(dim=1, keepdim=True)
    keys, order = _closest_first(scores, pairs.negative)
    place = torch.searchsorted(keys, -scores.detach(), right=True)
    further = place < pairs.negative.sum(dim=1, keepdim=True)
    easiest = torch.where(pairs.negative, scores, torch.inf).argmin(dim=1, keepdim=True)
    chosen = torch.where(further, order.gather(1, place.clamp(max=keys.shape[1] - 1)), easiest)
    terms, active = violation(scores, scores.gather(1, chosen), margin)
    weight = None if pairs.weight is None else pairs.weight * pairs.weight.gather(1, chosen)
    return masked_mean(terms, used, weight), share(active, used)


def batch_all(scores: Tensor, pairs: PairBlock, margin: Margin) -> tuple[Part, Part]:
    """Every triplet of an anchor, one of its positives and one of its negatives.

    Memory is ``[r, C]`` and not ``[r, P, C]``. The hinge is a straight line as long as a triplet is active,
    so the negatives that are active with a positive are a prefix of the sorted ones, and sums over prefixes
    say what they come to, without a look at each triplet; with the soft margin each is looked at.

    Args and returns are those of :func:`batch_hard`, over triplets.

    Example:
        >>> positive = torch.tensor([[True, True, False, False]])
        >>> pairs = PairBlock(positive, ~positive)
        >>> loss, active = batch_all(torch.tensor([[0.75, 0.5, 0.25, 0.0]]), pairs, margin=0.5)
        >>> loss.total.item(), loss.number.item(), active.total.item()
        (0.25, 4, 1)
    """

    if margin == "soft":
        return _all_softly(scores, pairs)
    negative = pairs.negative
    keys, order = _closest_first(scores, negative)
    weight = torch.ones_like(scores) if pairs.weight is None else pairs.weight.to(scores.dtype)
    # -s_n < m - s_p: how many of the negatives are active with each positive.
    count = torch.searchsorted(keys, margin - scores.detach())

    def over_active(values: Tensor) -> Tensor:
        sums = torch.where(negative, values, 0.0).gather(1, order).cumsum(dim=1)
        return torch.where(count > 0, sums.gather(1, (count - 1).clamp(min=0)), 0.0)

    terms = weight * ((margin - scores) * over_active(weight) + over_active(weight * scores))
    total = torch.where(pairs.positive, terms, 0.0).sum()
    number = (pairs.positive.sum(dim=1) * negative.sum(dim=1)).sum()
    active = torch.where(pairs.positive, count, 0).sum()
    return Part(total, number), Part(active, number, logged=True)


def _closest_first(scores: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the scores of each row's negatives, rising, with infinity behind them, and their columns."""
    return torch.where(negative, -scores.detach(), torch.inf).sort(dim=1, stable=True)


def _all_softly(scores: Tensor, pairs: PairBlock) -> tuple[Part, Part]:
    """All triplets with the soft margin, some positive pairs at a time."""

    def some(row: Tensor, column: Tensor) -> tuple[Part, Part]:
        of_anchor, negative = scores.index_select(0, row), pairs.negative[row]
        terms, active = violation(of_anchor.gather(1, column[:, None]), of_anchor, "soft")
        weight = None
        if pairs.weight is not None:
            weights = pairs.weight[row]
            weight = weights * weights.gather(1, column[:, None])
        return masked_mean(terms, negative, weight), share(active, negative)

    loss, active = over_positive_pairs(pairs, some)
    return loss, active


class TripletLoss(MetricLoss):
    """Triplet loss: [m + s_n − s_p]₊, or softly log(1 + e^{s_n − s_p}), over triplets of one anchor.

    On cosines it is the similarity hinge, on squared Euclidean distances FaceNet's [d_p² − d_n² + m]₊
    (Schroff et al., CVPR 2015), and with ``distance: euclidean``, ``margin: soft`` and ``mining: hard`` that
    of "In Defense of the Triplet Loss" (Hermans et al., arXiv 1703.07737). On unit vectors d² = 2 − 2s, so
    that margin m on the cosine is margin 2m on squared distances, at half the loss.

    Batch-hard triplets may collapse the embeddings to a point, the more easily the larger the batch and the
    smaller the dimension (arXiv 2210.11173): the loss then stays at m, or at log 2 = 0.693 with the soft
    margin, and the alarm on collapse goes off. A smaller learning rate, a longer warm-up or ``semi_hard``
    helps.

    Cost: ``all`` and ``semi_hard`` sort each anchor's negatives, C log C; ``all`` with the soft margin
    compares each positive with all negatives, P × C per anchor, in slices whose memory is ``[r, C]``;
    ``hard`` adds nothing to the scores.

    Logs ``triplet`` and ``active``, the share of triplets that break the margin; with the soft margin those
    whose negative is the closer. A triplet's term is multiplied by the weights of its two pairs.

    Args:
        margin: m, above 0, in units of the similarity, and below its range where that is bounded (2 for the
            cosine and for Euclidean distances on unit vectors, 4 for their squares); or ``soft``. Try 0.1 to
            0.3 for ``cosine``.
        mining: ``all`` triplets; ``semi_hard``, for each positive the closest negative beyond it; ``hard``,
            for each anchor the furthest positive and the closest negative.
        average: over ``all`` triplets that were mined, or over the ``active`` ones only, which keeps the
            gradient from fading as triplets are satisfied; the latter not with the soft margin.
        distance: any of the four.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.tensor([[True, False, False]])
        >>> loss = TripletLoss(margin=0.5)
        >>> candidates = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(torch.tensor([[1.0, 0.0]]), candidates, DensePairs(same, ~same))["loss"]
        tensor(0.0500)
    """

    def __init__(
        self,
        margin: Margin = 0.2,
        mining: Mining = "all",
        average: Literal["all", "active"] = "all",
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        if mining not in MINING:
            raise ValueError(f"mining {mining!r} is none of {', '.join(MINING)}")
        if average not in ("all", "active"):
            raise ValueError(f"average {average!r} is none of all, active")
        if margin == "soft":
            if average == "active":
                raise ValueError("with the soft margin every triplet has a loss; use average 'all'")
        else:
            limit = {"cosine": 2.0, "euclidean": 2.0, "squared_euclidean": 4.0, "dot": math.inf}[distance]
            limit = limit if normalize or distance == "cosine" else math.inf
            if isinstance(margin, str) or not 0 < margin < limit:
                raise ValueError(f"margin must be 'soft' or above 0 and below {limit} here, not {margin!r}")
        self.margin: Margin = margin
        self.mining: Mining = mining
        self.average = average

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`batch_all`, :func:`batch_semi_hard` and :func:`batch_hard`."""
        loss, active = MINING[self.mining](scores, pairs, self.margin)
        if self.average == "active":
            loss = loss._replace(number=active.total)
        return {"triplet": loss, "active": active}

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"margin={self.margin}, mining={self.mining}, average={self.average}, "
            f"distance={self.distance}, normalize={self.normalize}"
        )


MINING: dict[Mining, Callable[[Tensor, PairBlock, Margin], tuple[Part, Part]]] = {
    "all": batch_all,
    "semi_hard": batch_semi_hard,
    "hard": batch_hard,
}
