"""Pair logistic loss: each positive above each negative, weighed by what their exchange would cost."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.base import Part, Parts, masked_mean, share
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.scores import Distance, softplus
from lit_metric.losses.slices import over_positive_pairs
from lit_metric.losses.temperature import TemperatureLoss

Weighting = Literal["none", "reciprocal_rank"]


def places(scores: Tensor, mask: Tensor) -> Tensor:
    """The place of each candidate among those of ``mask [r, C]``, 1 for the highest of ``scores [r, C]``.

    Of equal scores the former stands first; what the mask doesn't hold comes last.

    Example:
        >>> places(torch.tensor([[0.2, 0.9, 0.5]]), torch.tensor([[True, False, True]]))
        tensor([[2., 3., 1.]])
    """
    order = torch.where(mask, scores.detach(), -torch.inf).argsort(dim=1, descending=True, stable=True)
    numbers = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    return torch.zeros_like(scores).scatter(1, order, numbers.expand_as(order))


def pair_logistic(logits: Tensor, pairs: PairBlock, weighting: Weighting = "none") -> tuple[Part, Part]:
    """``w · log(1 + e^{l_n − l_p})`` of every positive p and negative n of an anchor.

    Memory is ``[r, C]`` and not ``[r, P, C]``.

    Source: Zhan et al., "Optimizing Dense Retrieval Model Training with Hard Negatives", SIGIR 2021: ``none``
    as in STAR, one mean over all pairs of a positive and a negative; ``reciprocal_rank`` as in ADORE, whose
    weight is what the exchange of the two would change in 1/rank, ``|1/rank_p − 1/rank_n|`` (LambdaRank), and
    which adds up the pairs of an anchor.

    Args:
        logits: ``[r, C]`` scores divided by the temperature.
        pairs: masks ``[r, C]``; the term of a pair is multiplied by the weights of both. Ranks are those
            among an anchor's positives and negatives.
        weighting: w, through which no gradient passes.

    Returns:
        The loss, over pairs for ``none`` and over anchors for ``reciprocal_rank``, and the share of pairs
        whose negative is the closer.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, False, False]]), torch.tensor([[False, True, True]]))
        >>> logits = torch.tensor([[0.0, 0.0, -100.0]])
        >>> loss, _ = pair_logistic(logits, pairs)
        >>> loss.total.exp(), loss.number
        (tensor(2.), tensor(2))
        >>> loss, _ = pair_logistic(logits, pairs, "reciprocal_rank")
        >>> (2 * loss.total).exp(), loss.number  # 1 − 1/2
        (tensor(2.), tensor(1))
    """
    inverse = None
    if weighting == "reciprocal_rank":
        inverse = places(logits, pairs.positive | pairs.negative).reciprocal()

    def some(row: Tensor, column: Tensor) -> tuple[Part, Part]:
        of_anchor, place = logits.index_select(0, row), column[:, None]
        positive, negatives = of_anchor.gather(1, place), pairs.negative[row]
        weight = None if pairs.weight is None else pairs.weight[row] * pairs.weight[row].gather(1, place)
        if inverse is not None:
            exchange = (inverse[row].gather(1, place) - inverse[row]).abs()
            weight = exchange if weight is None else exchange * weight
        terms = masked_mean(softplus(of_anchor - positive), negatives, weight)
        return terms, share(of_anchor > positive, negatives)

    loss, active = over_positive_pairs(pairs, some)
    if weighting == "reciprocal_rank":
        loss = loss._replace(number=(pairs.positive.any(dim=1) & pairs.negative.any(dim=1)).sum())
    return loss, active


class PairLogisticLoss(TemperatureLoss):
    """Pair logistic loss: log(1 + e^{(s_n − s_p)/τ}) over pairs of a positive and a negative.

    It is the mean over pairs, as in STAR, or, as in ADORE, each pair times |1/rank_p − 1/rank_n|, the change
    that its exchange would make in the reciprocal rank, added up by anchor (Zhan et al., SIGIR 2021). For
    retrieval, after or beside mined negatives, where the first places matter. At τ = 1 without weights it is
    ``TripletLoss`` with ``margin: soft, mining: all``.

    Cost: it compares each positive with all negatives, P × C per anchor, in slices.

    Logs ``pair_logistic``, ``active``, the share of pairs whose negative is the closer, and, if it is
    learned, the ``temperature``.

    Args:
        weighting: ``none``, a mean over pairs; ``reciprocal_rank``, the sum of an anchor's weighted pairs, a
            mean over anchors, once the model retrieves well.
        temperature: τ, above 0, and between 0.01 and 100 if it is learned. The source has none, that is 1, on
            inner products; try 0.02 to 0.2 with ``cosine``.
        learnable: learn the temperature from there, as its logarithm, within those bounds.
        distance: any of the four; Euclidean distances enter with a minus sign.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.eye(2, dtype=torch.bool)
        >>> PairLogisticLoss(temperature=1.0)(torch.eye(2), torch.eye(2), DensePairs(same, ~same))["loss"]
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
    ) -> None:
        super().__init__(temperature, learnable, distance, normalize, block_rows)
        if weighting not in ("none", "reciprocal_rank"):
            raise ValueError(f"weighting {weighting!r} is none of none, reciprocal_rank")
        self.weighting: Weighting = weighting

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`pair_logistic`."""
        loss, active = pair_logistic(scores / self.temperature, pairs, self.weighting)
        return {"pair_logistic": loss, "active": active}

    def extra_repr(self) -> str:
        """The settings."""
        return f"weighting={self.weighting}, {super().extra_repr()}"
