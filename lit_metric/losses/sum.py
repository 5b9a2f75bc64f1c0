"""A weighted sum of losses."""

from __future__ import annotations

import math

from torch import Tensor, nn

from lit_metric.losses.base import Loss, LossOutput
from lit_metric.losses.combine import CombinedLoss, evaluate, weighted_sum
from lit_metric.losses.pairs import Pairs


class SumLoss(CombinedLoss):
    """A weighted sum of losses between the same anchors and candidates, each with its own ``distance``.

    An example is the angular loss beside N-pair of its source::

        model:
          loss:
            class_path: lit_metric.losses.SumLoss
            init_args:
              losses:
                n_pair: {class_path: lit_metric.losses.NPairLoss}
                angular:
                  class_path: lit_metric.losses.AngularLoss
                  init_args: {angle: 45}
              weights: {angular: 2}

    Cost: each costs what it costs alone, the encoder aside.

    Logs each loss by its name, without its weight, and what it logs as ``NAME/PART``.

    Args:
        losses: by the names under which they are logged.
        weights: by the same names, above 0; 1 for those that are left out. Take what makes their gradients of
            one size.

    Raises:
        ValueError: if there are no losses, or a name or weight is impossible.

    Example:
        >>> import torch
        >>> from lit_metric.losses import AngularLoss, DensePairs, NPairLoss
        >>> loss = SumLoss({"n_pair": NPairLoss(), "angular": AngularLoss(45.0)}, weights={"angular": 2.0})
        >>> same = torch.eye(2, dtype=torch.bool)
        >>> out = loss(torch.eye(2), torch.eye(2), DensePairs(same, ~same))
        >>> out["n_pair"], out["angular"], out["loss"], out["n_pair/l2"]
        (tensor(0.3143), tensor(0.0181), tensor(0.3506), tensor(0.0010))
    """

    def __init__(self, losses: dict[str, Loss], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        if not losses:
            raise ValueError("a sum needs at least one loss")
        for name in losses:
            if not name.isidentifier() or name == "loss" or hasattr(nn.ModuleDict, name):
                raise ValueError(
                    f"{name!r} can't be the name of a loss: take letters, digits and _, as in far_1"
                )
        if unknown := sorted(weights.keys() - losses.keys()):
            raise ValueError(f"weights name {', '.join(unknown)}, but the losses are {', '.join(losses)}")
        for name, weight in weights.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} must be above 0 and finite, not {weight}")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: weights.get(name, 1.0) for name in losses}
        self.combine(losses.values())

    def forward(
        self, anchors: Tensor, candidates: Tensor, pairs: Pairs, classes: Tensor | None = None
    ) -> LossOutput:
        """See :meth:`VectorLoss.forward`; ``classes`` are for those of the losses that need them."""
        outputs = {
            name: evaluate(loss, anchors, candidates, pairs, classes)
            for name, loss in zip(self.losses, self._made_of, strict=True)
        }
        return weighted_sum(outputs, self.weights)

    def extra_repr(self) -> str:
        """The settings."""
        return f"weights={self.weights}"
