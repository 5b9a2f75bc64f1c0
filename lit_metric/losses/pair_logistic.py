"""Pair logistic loss: each positive above each negative, weighted by the cost of their exchange."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Part, Parts, masked_mean, over_positive_pairs, share
from lit_metric.losses.scores import Distance, softplus
from lit_metric.losses.temperature import TemperatureLoss

Weighting = Literal["none", "reciprocal_rank"]


class PairLogisticLoss(TemperatureLoss):
    """Pair logistic loss: log(1 + e^{(s_n − s_p)/τ}) over pairs of a positive and a negative.

    As in STAR, it is the mean over pairs. As in ADORE, each pair is multiplied by |1/rank_p − 1/rank_n|, the
    change that its exchange would make in the reciprocal rank (LambdaRank), and the pairs of an anchor are
    added up, or averaged with ``average: pairs``. For retrieval with mined negatives, where the first places
    matter. At τ = 1 without weighting it is ``TripletLoss`` with ``margin: soft, mining: all``. A pair's term
    is multiplied by the weights of its positive and its negative.

    Cost: it compares each positive with all negatives, P × C per anchor, in slices.

    Logs ``pair_logistic``, ``active``, the share of pairs whose negative is the closer, and, if it is
    learned, the ``temperature``.

    Source: Zhan et al., "Optimizing Dense Retrieval Model Training with Hard Negatives", SIGIR 2021.

    Args:
        weighting: ``none``, a mean over pairs; ``reciprocal_rank``, the sum of an anchor's weighted pairs, a
            mean over anchors, once the model retrieves well.
        temperature: τ, above 0, and between 0.01 and 100 if it is learned. The source has none, that is 1, on
            inner products; try 0.02 to 0.2 with ``cosine``.
        learnable: learn the temperature from that start, as its logarithm, within those bounds.
        distance: any of the four; Euclidean distances enter with a minus sign.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.
        average: with ``reciprocal_rank``, what becomes of an anchor's pairs: ``anchors`` adds them up;
            ``pairs`` divides their sum by their number, as ADORE's code does. Then the mean over anchors is
            taken.
        cut: with ``reciprocal_rank``, 1/rank is 0 beyond this rank, and negatives beyond it are left out; at
            least 1, None for no limit. ADORE takes 200, the number of documents that it retrieves.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = PairLogisticLoss(temperature=1.0)
        >>> loss(torch.eye(2), torch.eye(2))  # anchors and positives: log(1 + e^-1)
        tensor(0.3133)
    """

    def __init__(
        self,
        weighting: Weighting = "none",
        temperature: float = 0.05,
        learnable: bool = False,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
        average: Literal["anchors", "pairs"] = "anchors",
        cut: int | None = None,
    ) -> None:
        super().__init__(temperature, learnable, distance, normalize, block_rows)
        if weighting not in ("none", "reciprocal_rank"):
            raise ValueError(f"weighting {weighting!r} is none of none, reciprocal_rank")
        if average not in ("anchors", "pairs"):
            raise ValueError(f"average {average!r} is none of anchors, pairs")
        if weighting == "none" and (average == "pairs" or cut is not None):
            raise ValueError("average: pairs and cut go with weighting: reciprocal_rank")
        if cut is not None and cut < 1:
            raise ValueError(f"cut must be at least 1, the first rank, not {cut}")
        self.weighting: Weighting = weighting
        self.average, self.cut = average, cut

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; no gradient passes through the ranks."""
        logits, inverse, usable = scores / self.temperature, None, pairs.usable
        if self.weighting == "reciprocal_rank":
            # 1/rank among an anchor's positives and negatives; of equal scores the first ranks higher.
            given = torch.where(pairs.positive | pairs.negative, logits.detach(), -torch.inf)
            order = given.argsort(dim=1, descending=True, stable=True)
            ranks = torch.arange(1, logits.shape[1] + 1, device=logits.device, dtype=logits.dtype)
            ranks = torch.zeros_like(logits).scatter(1, order, ranks.expand_as(order))
            inverse = ranks.reciprocal()
            if self.cut is not None:
                within = ranks <= self.cut
                inverse = torch.where(within, inverse, 0.0)
                pairs = pairs._replace(negative=pairs.negative & within)
            if self.average == "pairs":
                number = pairs.positive.sum(1) * pairs.negative.sum(1)
                share_of = number.clamp_min(1).to(logits.dtype).reciprocal()[:, None]

        def of_pairs(row: Tensor, column: Tensor) -> tuple[Part, Part]:
            of_anchor, place = logits.index_select(0, row), column[:, None]
            positive, negatives = of_anchor.gather(1, place), pairs.negative[row]
            weight = None if pairs.weight is None else pairs.weight[row] * pairs.weight[row].gather(1, place)
            if inverse is not None:
                exchange = (inverse[row].gather(1, place) - inverse[row]).abs()
                if self.average == "pairs":
                    exchange = exchange * share_of[row]
                weight = exchange if weight is None else exchange * weight
            terms = masked_mean(softplus(of_anchor - positive), negatives, weight)
            return terms, share(of_anchor > positive, negatives)

        loss, active = over_positive_pairs(pairs, of_pairs)
        if inverse is not None:
            loss = loss._replace(number=usable.sum())
        return {"pair_logistic": loss, "active": active}
