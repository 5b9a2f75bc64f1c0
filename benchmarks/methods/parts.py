"""Arms that are measured for comparison only."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses import PairBlock, Part, TripletLoss
from lit_metric.losses.parts import masked_mean, share


class RandomTripletLoss(TripletLoss):
    """Triplet loss over one random positive and one random negative of each anchor.

    What hard triplets are compared with. The draw follows the random numbers of the training step, which a
    learner seeds.

    Args:
        margin: see :class:`~lit_metric.losses.TripletLoss`.
        distance: see there.
    """

    def __init__(self, margin: float | str = "soft", distance: str = "euclidean") -> None:
        super().__init__(margin, "hard", distance=distance)  # type: ignore[arg-type]

    def _hard(self, scores: Tensor, pairs: PairBlock) -> tuple[Part, Part]:
        drawn = torch.rand_like(scores)
        chosen = [
            torch.where(mask, drawn, -1.0).argmax(dim=1, keepdim=True)
            for mask in (pairs.positive, pairs.negative)
        ]
        terms, active = self._terms(scores.gather(1, chosen[0]), scores.gather(1, chosen[1]))
        return masked_mean(terms[:, 0], pairs.usable), share(active[:, 0], pairs.usable)
