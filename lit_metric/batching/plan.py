"""An epoch's batches as lists of item ids, and what makes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.clusters import on_grid
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings

VectorSource = Callable[[int], Embeddings]
"""Gives the vectors of a version; must be picklable where workers are spawned."""


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
    """Decides which items share a batch.

    A plan is a pure function of its arguments and depends neither on the order of the ids
    nor on repeats among them. The number of batches is the same in every epoch.

    Attributes:
        uses_vectors: whether :meth:`plan` also takes ``vectors``, the items' embeddings; see
            :class:`VectorPlanner`.
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

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        """The number of batches of every epoch."""
        return len(self.plan(ids, relations, seed, 0))


class VectorPlanner(BatchPlanner):
    """A planner that looks at the items' vectors.

    The miner of a run publishes the vectors of each version with its table of negatives. The version in
    use at an epoch's first batch plans the whole epoch.
    """

    uses_vectors = True

    def plan(
        self, ids: Tensor, relations: Relations, seed: int, epoch: int, vectors: Embeddings | None = None
    ) -> Plan:
        """The batches of one epoch; see :class:`BatchPlanner`.

        Args:
            ids, relations, seed, epoch: see there.
            vectors: of the items, with unit length; required.

        Raises:
            ValueError: without vectors.
        """
        if vectors is None:
            raise ValueError(
                f"{type(self).__name__} plans by the items' vectors and got none: configure a miner, which "
                "publishes them, or call plan with vectors=Embeddings(...)"
            )
        return self._plan(vectors, ids, relations, seed, epoch)

    @abstractmethod
    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        """See :class:`BatchPlanner`; known without vectors."""

    @abstractmethod
    def _plan(
        self, vectors: Embeddings, ids: Tensor, relations: Relations, seed: int, epoch: int
    ) -> Plan: ...


def grid_vectors(vectors: Embeddings, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """``[n, d]`` unit vectors of the items ``ids [n]``, rounded to a grid.

    Sums and products of numbers on the grid are exact (:func:`~lit_metric.clusters.on_grid`). All ranks and
    loader workers therefore make the same plan, with any processors and threads.
    """
    return on_grid(vectors.of(ids).numpy())


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
