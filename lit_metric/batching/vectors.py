"""The items' vectors that a plan may look at, and the planners that do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.batching.plan import BatchPlanner, Plan
from lit_metric.clusters import on_grid
from lit_metric.data.relations import Relations

FloatArray = NDArray[np.float32]


class ItemVectors:
    """Directions of items, by global id.

    What is read is rounded to a grid (:func:`~lit_metric.clusters.on_grid`), on which sums and products come
    out exactly. So all ranks and loader workers find the same neighbours, whatever their processors and
    threads, and make the same plan.

    Args:
        ids: ``[N]`` int64 global ids, rising.
        values: ``[N, d]`` of unit length, float16 or better, maybe memory-mapped: rows are read as they are
            asked for.

    Raises:
        ValueError: if there is not one vector for each id, or ids do not rise.

    Example:
        >>> vectors = ItemVectors(torch.tensor([3, 5]), np.eye(2, dtype=np.float16))
        >>> vectors.of(torch.tensor([5, 3, 5])).tolist()
        [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, ids: Tensor, values: NDArray[Any]) -> None:
        if values.ndim != 2 or len(values) != len(ids):
            raise ValueError(f"vectors of shape {values.shape} for {len(ids)} ids: give one for each")
        if bool((ids.diff() <= 0).any()):
            raise ValueError("ids must rise strictly: sort the vectors by item id, and name no item twice")
        self.ids = ids
        self.values = values

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        """``d``."""
        return int(self.values.shape[1])

    def of(self, ids: Tensor | NDArray[np.int64]) -> FloatArray:
        """``[n, d]`` float32 vectors of the items ``ids [n]``, in their order.

        Raises:
            KeyError: names an item that has no vector.
        """
        wanted = torch.as_tensor(ids)
        rows = torch.searchsorted(self.ids, wanted).clamp_(max=len(self) - 1)
        if len(missing := wanted[self.ids[rows] != wanted]):
            raise KeyError(
                f"item {int(missing[0])} has no vector ({len(missing)} of {len(wanted)} asked for have "
                "none): vectors are those of the training items"
            )
        # torch converts half precision several times faster than numpy.
        return on_grid(torch.from_numpy(self.values[rows.numpy()]).float().numpy())

    def part(self, start: int, stop: int) -> ItemVectors:
        """Those of the ids from ``start`` to ``stop - 1``, which are numbered from 0 then. Nothing is
        copied."""
        first, last = torch.searchsorted(self.ids, torch.tensor([start, stop])).tolist()
        return ItemVectors(self.ids[first:last] - start, self.values[first:last])


VectorSource = Callable[[int], ItemVectors]
"""Gives the vectors of a version; must be picklable where workers are spawned."""


class VectorPlanner(BatchPlanner):
    """A planner that looks at the items' vectors.

    A run takes them from its miner, which publishes those of each version beside the table of negatives. All
    batches of an epoch are planned by the version in force at the epoch's first batch.
    """

    uses_vectors = True

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        """Refused: a plan without vectors would be another one.

        Raises:
            ValueError: always.
        """
        return self.plan_by(None, ids, relations, seed, epoch)

    def plan_by(
        self, vectors: ItemVectors | None, ids: Tensor, relations: Relations, seed: int, epoch: int
    ) -> Plan:
        """The batches of one epoch, a pure function of the arguments."""
        if vectors is None:
            raise ValueError(
                f"{type(self).__name__} plans by the items' vectors and was given none: configure a miner, "
                "which publishes them, or call plan_by with ItemVectors"
            )
        return self._plan(vectors, ids, relations, seed, epoch)

    @abstractmethod
    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        """See :class:`BatchPlanner`; known without vectors."""

    @abstractmethod
    def _plan(
        self, vectors: ItemVectors, ids: Tensor, relations: Relations, seed: int, epoch: int
    ) -> Plan: ...
