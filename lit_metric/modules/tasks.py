"""A loss for each data set of a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from torch import Tensor, nn

from lit_metric.losses import Loss


class TaskLosses(nn.Module):
    """Losses by the name of the data set whose batches they are for.

    Args:
        losses: at least one.

    Raises:
        ValueError: when there is none.
    """

    def __init__(self, losses: Mapping[str, Loss]) -> None:
        super().__init__()
        if not losses:
            raise ValueError("loss: an empty mapping; name a loss for each data set of data.mixture")
        self.losses = nn.ModuleDict(losses)

    def __getitem__(self, name: str) -> Loss:
        return cast(Loss, self.losses[name])

    def check(self, names: Iterable[str]) -> None:
        """Refuse to go on unless there is one loss for each of the data sets ``names``.

        Raises:
            ValueError: says which are too few or too many.
        """
        names = list(names)
        if sorted(names) != sorted(self.losses):
            raise ValueError(
                f"model.loss has losses for {', '.join(map(repr, self.losses))}, but data.mixture has "
                f"{', '.join(map(repr, names)) or 'no data sets'}: name one for each"
            )

    def untouched(self, name: str) -> Tensor | None:
        """0, by way of all parameters of the losses other than that of ``name``; None if they have none.

        Every process must give every parameter a gradient at every step, or distributed training stops.
        """
        others = [
            parameter.sum()
            for other, loss in self.losses.items()
            if other != name
            for parameter in loss.parameters()
            if parameter.requires_grad
        ]
        return 0.0 * sum(others[1:], others[0]) if others else None
