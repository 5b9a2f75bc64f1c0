"""Hinge loss against an anchor's hardest negatives of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Part, Parts, masked_mean, over_positive_pairs, share
from lit_metric.losses.scores import Distance


class HardestHingeLoss(MetricLoss):
    """Hinge loss of hard negatives, as in NGAME: Σ_n w_n [m + s_n − s_p]₊ over an anchor's k hardest
    negatives, with w_n the softmax of s_n/τ over those of them that violate the margin; a mean over positive
    pairs.

    Between ``TripletLoss(mining="all")``, which thins the gradient out over easy negatives, and
    ``mining="hard"``, in which one wrong label decides. For many labels, with
    :class:`~lit_metric.batching.NGAMEPlanner`. The weights are held fixed. A positive's weight multiplies its
    term, and a negative's multiplies its exponential in the softmax.

    Logs ``hardest_hinge`` and ``active``, the share of the k hardest negatives that violate the margin.

    Source: NGAME (Dahiya et al., WSDM 2023, arXiv 2207.04452) and its code, in which negatives that satisfy
    the margin keep e⁰ each in the softmax; so the fewer violate it, the less the others count there. Here
    they are out.

    Args:
        margin: m, above 0. The source takes 0.3 on cosines.
        hardest: k, at least 1; all negatives where an anchor has fewer. The source takes 10.
        temperature: τ, above 0; the smaller, the more the hardest one counts. The source takes 0.1.
        distance: any of the four; Euclidean distances enter with a minus sign.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = HardestHingeLoss(margin=0.3)
        >>> anchors, positives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
        >>> loss(anchors, positives, torch.tensor([[0.8, 0.6], [0.0, 1.0]]))  # 0.3 + 0.8 − 0.6, and −0.3
        tensor(0.5000)
    """

    def __init__(
        self,
        margin: float = 0.3,
        hardest: int = 10,
        temperature: float = 0.1,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        if not 0 < margin < float("inf"):
            raise ValueError(f"margin must be above 0 and finite, not {margin}")
        if hardest < 1:
            raise ValueError(f"hardest must be at least 1 negative, not {hardest}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be above 0 and finite, not {temperature}")
        self.margin, self.hardest, self.temperature = margin, hardest, temperature

    @property
    def plateau(self) -> float:
        """See :attr:`Loss.plateau`; the margin."""
        return self.margin

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; no gradient passes through the choice of negatives and their
        weights."""
        lowest = torch.finfo(scores.dtype).min
        masked = torch.where(pairs.negative, scores.detach(), lowest)
        places = masked.topk(min(self.hardest, scores.shape[1]), dim=1).indices  # [r, k]
        hard, there = scores.gather(1, places), pairs.negative.gather(1, places)
        logits = hard.detach() / self.temperature
        if pairs.weight is not None:
            of_hard = pairs.weight.gather(1, places).to(scores.dtype)
            logits = logits + torch.where(there, of_hard, 1.0).log()

        def of_pairs(row: Tensor, column: Tensor) -> tuple[Part, Part]:
            positive = scores.index_select(0, row).gather(1, column[:, None])
            beyond = self.margin + hard.index_select(0, row) - positive  # [p, k]
            violates = (beyond.detach() > 0) & there[row]
            shares = torch.where(violates, logits[row], lowest).softmax(dim=1)
            terms = torch.where(violates, shares * beyond, 0.0).sum(dim=1)
            weight = None if pairs.weight is None else pairs.weight[row, column]
            return masked_mean(terms, torch.ones_like(row, dtype=torch.bool), weight), share(
                violates, there[row]
            )

        loss, active = over_positive_pairs(pairs, of_pairs)
        return {"hardest_hinge": loss, "active": active}
