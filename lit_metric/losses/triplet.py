"""Triplet loss: a negative must be less similar than a positive, by a margin or softly."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.pairs import PairBlock, any_in_row
from lit_metric.losses.parts import Part, Parts, masked_mean, over_positive_pairs, share
from lit_metric.losses.scores import Distance, softplus

Margin = float | Literal["soft"]
Mining = Literal["all", "semi_hard", "hard"]


class TripletLoss(MetricLoss):
    """Triplet loss: [m + s_n − s_p]₊, or softly log(1 + e^{s_n − s_p}), over triplets of one anchor.

    On cosines it is the similarity hinge. On squared Euclidean distances it is FaceNet's [d_p² − d_n² + m]₊
    (Schroff et al., CVPR 2015, whose section 3.2 is ``semi_hard``). With ``distance: euclidean``, ``margin:
    soft`` and ``mining: hard`` it is that of "In Defense of the Triplet Loss" (Hermans et al., arXiv
    1703.07737). On unit vectors d² = 2 − 2s, so that margin m on the cosine is margin 2m on squared
    distances, at half the loss.

    Batch-hard triplets may collapse the embeddings to a point, more easily in larger batches and smaller
    dimensions (arXiv 2210.11173). The loss then stays at m, or at log 2 = 0.693 with the soft margin, and the
    alarm on collapse goes off. A smaller learning rate, a longer warm-up or ``semi_hard`` helps.

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
        >>> loss = TripletLoss(margin=0.5)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, labels=torch.tensor([0, 0, 1]))  # triplets of 0 and 0.7
        tensor(0.3500)
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
        if mining not in get_args(Mining):
            raise ValueError(f"mining {mining!r} is none of {', '.join(get_args(Mining))}")
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

    @property
    def plateau(self) -> float:
        """See :attr:`Loss.plateau`; the margin, or log 2 for the soft one."""
        return math.log(2) if self.margin == "soft" else self.margin

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`."""
        find = {"all": self._all, "semi_hard": self._semi_hard, "hard": self._hard}[self.mining]
        loss, active = find(scores, pairs)
        if self.average == "active":
            loss = loss._replace(number=active.total)
        return {"triplet": loss, "active": active}

    def _terms(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of triplets with these scores, and which of them are active."""
        if self.margin == "soft":
            return softplus(negative - positive), negative > positive
        excess = self.margin + negative - positive
        return excess.relu(), excess > 0

    def _hard(self, scores: Tensor, pairs: PairBlock) -> tuple[Part, Part]:
        """One triplet of each anchor: its least similar positive and its most similar negative."""
        hardest_positive = torch.where(pairs.positive, scores, torch.inf).argmin(dim=1, keepdim=True)
        hardest_negative = torch.where(pairs.negative, scores, -torch.inf).argmax(dim=1, keepdim=True)
        terms, active = self._terms(scores.gather(1, hardest_positive), scores.gather(1, hardest_negative))
        weight = None
        if pairs.weight is not None:
            weight = pairs.weight.gather(1, hardest_positive) * pairs.weight.gather(1, hardest_negative)
            weight = weight[:, 0]
        return masked_mean(terms[:, 0], pairs.usable, weight), share(active[:, 0], pairs.usable)

    def _semi_hard(self, scores: Tensor, pairs: PairBlock) -> tuple[Part, Part]:
        """One triplet of each positive pair, with the most similar negative below the positive.

        Where there is none, the least similar negative: TensorFlow's rule, which keeps a collapse visible.
        """
        used = pairs.positive & any_in_row(pairs.negative)[:, None]
        keys, order = self._closest_first(scores, pairs.negative)
        place = torch.searchsorted(keys, -scores.detach(), right=True)
        further = place < pairs.negative.sum(dim=1, keepdim=True)
        easiest = torch.where(pairs.negative, scores, torch.inf).argmin(dim=1, keepdim=True)
        chosen = torch.where(further, order.gather(1, place.clamp(max=keys.shape[1] - 1)), easiest)
        terms, active = self._terms(scores, scores.gather(1, chosen))
        weight = None if pairs.weight is None else pairs.weight * pairs.weight.gather(1, chosen)
        return masked_mean(terms, used, weight), share(active, used)

    def _all(self, scores: Tensor, pairs: PairBlock) -> tuple[Part, Part]:
        """Every triplet of an anchor, one of its positives and one of its negatives.

        The hinge is linear while a triplet is active. So the negatives that are active with a positive are
        the first of the sorted ones, and cumulative sums give their total: memory is ``[r, C]``, not
        ``[r, P, C]``. The soft margin needs each triplet by itself.
        """
        if self.margin == "soft":

            def of_pairs(row: Tensor, column: Tensor) -> tuple[Part, Part]:
                of_anchor, negative = scores.index_select(0, row), pairs.negative[row]
                terms, active = self._terms(of_anchor.gather(1, column[:, None]), of_anchor)
                weights = None if pairs.weight is None else pairs.weight[row]
                weight = None if weights is None else weights * weights.gather(1, column[:, None])
                return masked_mean(terms, negative, weight), share(active, negative)

            loss, active = over_positive_pairs(pairs, of_pairs)
            return loss, active
        margin, negative = self.margin, pairs.negative
        keys, order = self._closest_first(scores, negative)
        weight = torch.ones_like(scores) if pairs.weight is None else pairs.weight.to(scores.dtype)
        # -s_n < m - s_p: how many of the negatives are active with each positive.
        count = torch.searchsorted(keys, margin - scores.detach())

        def over_active(values: Tensor) -> Tensor:
            sums = torch.where(negative, values, 0.0).gather(1, order).cumsum(dim=1)
            return torch.where(count > 0, sums.gather(1, (count - 1).clamp(min=0)), 0.0)

        terms = weight * ((margin - scores) * over_active(weight) + over_active(weight * scores))
        total = torch.where(pairs.positive, terms, 0.0).sum()
        number = (pairs.positive.sum(dim=1) * negative.sum(dim=1)).sum()
        of_active = torch.where(pairs.positive, count, 0).sum()
        return Part(total, number), Part(of_active, number, logged=True)

    @staticmethod
    def _closest_first(scores: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the scores of each row's negatives, rising, with infinity behind them, and their columns."""
        return torch.where(negative, -scores.detach(), torch.inf).sort(dim=1, stable=True)
