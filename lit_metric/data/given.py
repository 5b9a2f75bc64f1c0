"""Pairs and triplets that the data set itself gives, to be measured as they stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_metric.data.errors import DataError


@dataclass(frozen=True, eq=False)
class GivenPairs:
    """Judged pairs of a split.

    Args:
        anchors: ``[P]`` int64 global ids.
        candidates: ``[P]`` int64 global ids.
        targets: ``[P]`` float32, how well each pair belongs together: a score, a grade, or 0 and 1.

    Raises:
        DataError: when the lengths differ, or a target is NaN or infinite.

    Example:
        >>> pairs = GivenPairs(torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4.5, 0.0]))
        >>> len(pairs), pairs.ids.tolist()
        (2, [0, 1, 2, 3])
    """

    anchors: Tensor
    candidates: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        _check_lengths("pairs", anchors=self.anchors, candidates=self.candidates, targets=self.targets)
        if len(self.targets) and not bool((finite := self.targets.isfinite()).all()):
            raise DataError(f"the target of pair {int((~finite).nonzero()[0])} is not a finite number")

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def ids(self) -> Tensor:
        """The distinct ids of all pairs, ascending: what has to be encoded."""
        return torch.cat([self.anchors, self.candidates]).unique()


@dataclass(frozen=True, eq=False)
class GivenTriplets:
    """Triplets of a split: an anchor, what belongs to it, and what doesn't.

    Args:
        anchors: ``[T]`` int64 global ids.
        positives: ``[T]`` int64 global ids.
        negatives: ``[T]`` int64 global ids.
        groups: ``[T]`` names of the groups that are measured apart, or None.

    Raises:
        DataError: when the lengths differ.
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    groups: list[str] | None = None

    def __post_init__(self) -> None:
        _check_lengths("triplets", anchors=self.anchors, positives=self.positives, negatives=self.negatives)
        if self.groups is not None and len(self.groups) != len(self.anchors):
            raise DataError(f"{len(self.groups)} groups were given for {len(self.anchors)} triplets")

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def ids(self) -> Tensor:
        """The distinct ids of all triplets, ascending: what has to be encoded."""
        return torch.cat([self.anchors, self.positives, self.negatives]).unique()


def _check_lengths(what: str, **columns: Tensor) -> None:
    shapes = {name: list(column.shape) for name, column in columns.items()}
    length = len(next(iter(columns.values())))
    if any(shape != [length] for shape in shapes.values()):
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"the columns of {what} must be vectors of one length, got {told}")
