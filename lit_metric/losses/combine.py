"""What losses made of losses share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lit_metric.losses.base import Loss, LossOutput
from lit_metric.losses.pairs import Pairs


class CombinedLoss(Loss):
    """Base of the losses made of losses: it wants classes if one of them does, and builds them all."""

    def combine(self, losses: Iterable[Loss]) -> None:
        """Say what it is made of, once they are sub-modules."""
        self._made_of = tuple(losses)
        self.needs_classes = any(loss.needs_classes for loss in self._made_of)

    def build(self, class_counts: Tensor, dimension: int) -> None:
        """See :meth:`Loss.build`."""
        for loss in self._made_of:
            loss.build(class_counts, dimension)


def evaluate(
    loss: Loss, anchors: Tensor, candidates: Tensor, pairs: Pairs, classes: Tensor | None
) -> LossOutput:
    """Call a loss, with classes if it wants them."""
    wanted = {"classes": classes} if loss.needs_classes else {}
    output: LossOutput = loss(anchors, candidates, pairs, **wanted)
    return output


def weighted_sum(outputs: dict[str, LossOutput], weights: dict[str, float]) -> LossOutput:
    """The sum of named losses; each is logged by its name, without its weight, its parts as ``NAME/PART``.

    Example:
        >>> outputs = {"far": {"loss": torch.tensor(3.0), "active": torch.tensor(0.5)}}
        >>> weighted_sum(outputs, {"far": 2.0})
        {'loss': tensor(6.), 'far': tensor(3.), 'far/active': tensor(0.5000)}
    """
    combined = {
        "loss": torch.stack([weights[name] * output["loss"] for name, output in outputs.items()]).sum()
    }
    for name, output in outputs.items():
        for part, value in output.items():
            combined[name if part == "loss" else f"{name}/{part}"] = value.detach()
    return combined
