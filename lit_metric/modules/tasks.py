"""What each data set of a mixture has for itself in training: its loss, and the figures of that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lit_metric.losses import Loss, sum_over_ranks


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
        self.losses = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        for name, loss in losses.items():
            key = name.replace(".", "_")  # torch takes no dots, and none of its own methods' names
            while hasattr(self.losses, key) or (key != name and key in losses):
                key += "_"
            self._keys[name] = key
            self.losses[key] = loss

    def __getitem__(self, name: str) -> Loss:
        return cast(Loss, self.losses[self._keys[name]])

    def check(self, names: Iterable[str]) -> None:
        """Refuse to go on unless there is one loss for each of the data sets ``names``.

        Raises:
            ValueError: says which are too few or too many.
        """
        names = list(names)
        if sorted(names) != sorted(self._keys):
            raise ValueError(
                f"model.loss has losses for {', '.join(map(repr, self._keys))}, but data.mixture has "
                f"{', '.join(map(repr, names)) or 'no data sets'}: name one for each"
            )

    def untouched(self, name: str) -> Tensor | None:
        """0, by way of all parameters of the losses other than that of ``name``; None if they have none.

        Every process must give every parameter a gradient at every step, or distributed training stops.
        """
        others = [
            parameter.sum()
            for other in self._keys
            if other != name
            for parameter in self[other].parameters()
            if parameter.requires_grad
        ]
        return 0.0 * sum(others[1:], others[0]) if others else None


class TaskMeans:
    """Means of what was logged of each data set since they were last asked for.

    Lightning logs the values of every n-th step, which may always be of the same data set, and repeats them
    until there are newer ones.

    Example:
        >>> logged = TaskMeans()
        >>> for value in (1.0, 3.0):
        ...     logged.add({"train/cards/loss": torch.tensor(value)})
        >>> logged.means(torch.device("cpu")), bool(logged)
        ({'train/cards/loss': 2.0}, False)
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._values)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Note the scalars of a batch, whose names say of which data set they are."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach().float())

    def means(self, device: torch.device) -> dict[str, float]:
        """The mean of each value over the batches and all ranks, by name; then start anew.

        All ranks have batches of the same data sets, and must ask together.
        """
        sums = torch.stack([torch.stack(values).mean().to(device) for values in self._values.values()])
        means = sum_over_ranks(sums) / sum_over_ranks(torch.ones_like(sums))
        names = [*self._values]
        self._values = {}
        return dict(zip(names, means.tolist(), strict=True))
