"""Episodes of few-shot learning: a few items of each class to learn from, and others to tell apart by
them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lit_metric.batching.classes import ClassPlanner
from lit_metric.batching.members import ClassWeighting, first_in_batch
from lit_metric.batching.plan import Plan, random_stream
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations


class EpisodePlanner(ClassPlanner):
    """Batches as n-way k-shot episodes: of each of ``ways`` random classes, ``shots`` items are candidates,
    the support set, and ``queries`` others are anchors.

    No item is on both sides, so that a class's prototype, the mean of its candidates, holds none of the
    anchors that are compared with it (:class:`~lit_metric.losses.PrototypicalLoss`). Within an epoch a class
    goes through its members in random order, without repeats until all have come. An item with several labels
    is in an episode once.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NIPS 2016; Snell, Swersky and Zemel,
    "Prototypical Networks for Few-shot Learning", NIPS 2017, who train with more ways than they test with.

    Args:
        ways: n, classes in an episode, at least 2.
        shots: k, candidates of each class, at least 1.
        queries: anchors of each class, at least 1.
        class_weighting: how often a class is drawn, as in :class:`PKPlanner`.
        batches: episodes per epoch; by default as many as make the epoch about as large as the data.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError` when
            fewer classes than ``ways`` have ``shots + queries`` members.

    Example:
        >>> from lit_metric.data import LabelRelations
        >>> relations = LabelRelations(torch.arange(12) % 3, list("abc"), torch.arange(12))
        >>> planner = EpisodePlanner(ways=2, shots=1, queries=3)
        >>> plan = planner.plan(torch.arange(12), relations, seed=0, epoch=0)
        >>> [len(row) for row in plan.candidates.tolist()], [len(row) for row in plan.anchors.tolist()]
        ([2, 2], [6, 6])
    """

    def __init__(
        self,
        ways: int = 5,
        shots: int = 5,
        queries: int = 5,
        class_weighting: ClassWeighting = "uniform",
        batches: int | None = None,
    ) -> None:
        for name, value, least in (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        super().__init__(
            ways, ways, shots + queries, class_weighting, batches, smallest_class=shots + queries
        )
        self.ways, self.shots, self.queries = ways, shots, queries

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members, random = self._members(ids, relations), random_stream(seed, epoch)
        table = self._random_classes(members, random)
        batches, slots = table.shape
        each = self.shots + self.queries
        dealt = members.shuffled(random).deal(table.reshape(-1), np.full(table.size, each)).values.numpy()
        batch_of = np.arange(batches).repeat(slots * each)
        first = first_in_batch(batch_of, dealt)
        support = np.arange(len(dealt)) % each < self.shots

        def rows(kept: np.ndarray) -> Ragged:
            lengths = torch.from_numpy(np.bincount(batch_of[kept], minlength=batches))
            return Ragged.from_lengths(torch.from_numpy(dealt[kept]), lengths)

        return Plan(anchors=rows(first & ~support), candidates=rows(first & support))
