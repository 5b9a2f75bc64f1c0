"""An epoch's batches as lists of item ids, and what makes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations

if TYPE_CHECKING:
    from lit_metric.batching.vectors import ItemVectors


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of one epoch, all ranks together.

    Args:
        anchors: row ``b`` holds the global item ids that batch ``b`` compares.
        candidates: row ``b`` holds the global item ids that they are compared with.
        tasks: ``[batches]`` int64, which data set of a mixture a batch comes from; None where there is one.
    """

    anchors: Ragged
    candidates: Ragged
    tasks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.anchors)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """Anchor and candidate ids of batch ``step``: the contiguous share of ``rank`` of ``world_size``."""
        return (
            share(self.anchors[step], rank, world_size),
            share(self.candidates[step], rank, world_size),
        )


class BatchPlanner(ABC):
    """Decides who meets whom.

    A plan is a pure function of its arguments and depends neither on the order of the ids
    nor on repeats among them. The number of batches is the same in every epoch.

    Attributes:
        uses_vectors: whether plans depend on the items' vectors; see
            :class:`~lit_metric.batching.VectorPlanner`.
    """

    uses_vectors: bool = False

    @abstractmethod
    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        """The batches of one epoch.

        Args:
            ids: int64 global ids of the items to train on.
            relations: what belongs together.
            seed: any integer, the same for the whole run.
            epoch: from 0.
        """

    def plan_by(
        self, vectors: ItemVectors | None, ids: Tensor, relations: Relations, seed: int, epoch: int
    ) -> Plan:
        """:meth:`plan`, by the items' ``vectors`` if it depends on them."""
        return self.plan(ids, relations, seed, epoch)

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        """The number of batches of every epoch."""
        return len(self.plan(ids, relations, seed, 0))


def even_lengths(total: int, batches: int) -> Tensor:
    """``[batches]`` int64 sizes that differ by at most one and sum to ``total``, larger ones first.

    Example:
        >>> even_lengths(7, 3).tolist()
        [3, 2, 2]
    """
    return total // batches + (torch.arange(batches) < total % batches)


def share(ids: Tensor, rank: int, world_size: int) -> Tensor:
    """The contiguous part of ``ids`` that falls to ``rank``; the parts differ by at most one in length.

    Example:
        >>> [share(torch.arange(5), rank, 2).tolist() for rank in (0, 1)]
        [[0, 1], [2, 3, 4]]
    """
    total = len(ids)
    return ids[rank * total // world_size : (rank + 1) * total // world_size]


def random_stream(seed: int, epoch: int) -> np.random.Generator:
    """Random numbers that depend on ``seed`` and ``epoch`` only, and are unrelated between any two epochs."""
    entropy = [seed & 0xFFFFFFFFFFFFFFFF, epoch]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
