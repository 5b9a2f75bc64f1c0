"""Batches from several data sets in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_metric.batching.members import IntArray
from lit_metric.batching.plan import BatchPlanner, Plan, random_stream
from lit_metric.data.errors import DataError
from lit_metric.data.formats import Supervision
from lit_metric.data.ragged import Ragged
from lit_metric.data.readers import Source
from lit_metric.data.relations import Relations, UnionRelations
from lit_metric.index import Embeddings

Strategy = Literal["proportional", "round_robin", "weighted"]


@dataclass
class MixturePart:
    """A data set of a mixture; see :class:`~lit_metric.MetricDataModule`.

    Args:
        train: a file, pattern, hub id, DataFrame, or another source of rows; see
            :func:`~lit_metric.data.read_table`.
        validation: as ``train``; split off ``train`` if None.
        test: as ``train``, or None.
        predict: items to encode by ``lit-metric predict``, or None. Needs no labels.
        supervision: what its rows say; guessed from the names of the columns if None.
        planner: of its batches; None: one that suits the supervision.
        weight: its share of the batches, relative to the others', above 0; with ``strategy: weighted``.
    """

    train: Source | None = None
    validation: Source | None = None
    test: Source | None = None
    predict: Source | None = None
    supervision: Supervision | None = None
    planner: BatchPlanner | None = None
    weight: float = 1.0


class MixturePlanner(BatchPlanner):
    """Batches of several data sets in turns. Each batch is of one data set and is planned by its planner.

    Args:
        planners: one for each part of the :class:`~lit_metric.data.UnionRelations`, in their order.
        strategy: ``"proportional"``: all batches of all parts, in random order. ``"round_robin"``: one of
            each part in turn, until the part with the fewest batches has none left. ``"weighted"``: batches
            in proportion to ``weights``, as exactly as whole numbers can be, in random order.
        weights: one positive number for each part, with ``"weighted"``.
        batches: batches per epoch; by default all of all parts, or all rounds of a round robin. A part that
            needs more batches than one of its epochs has continues with its next epoch. A part that needs
            fewer continues from there in the mixture's next epoch.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError` when
            there are not as many parts as planners, or a part has no items to train on, and ``TypeError``
            when the relations are not those of several data sets.

    Example:
        >>> from lit_metric.batching import ShufflePlanner
        >>> from lit_metric.data import LabelRelations
        >>> part = LabelRelations(torch.zeros(6, dtype=torch.int64), ["one"], torch.arange(6))
        >>> planner = MixturePlanner([ShufflePlanner(2), ShufflePlanner(3)], "round_robin")
        >>> plan = planner.plan(torch.arange(12), UnionRelations([part, part]), seed=0, epoch=0)
        >>> plan.tasks.tolist(), plan.anchors.lengths.tolist()
        ([0, 1, 0, 1], [2, 3, 2, 3])
        >>> bool((plan.anchors[1] >= 6).all())
        True
    """

    def __init__(
        self,
        planners: list[BatchPlanner],
        strategy: Strategy = "proportional",
        weights: list[float] | None = None,
        batches: int | None = None,
    ) -> None:
        if not planners:
            raise ValueError("a mixture needs at least one planner")
        if strategy not in ("proportional", "round_robin", "weighted"):
            raise ValueError(
                f"strategy must be 'proportional', 'round_robin' or 'weighted', not {strategy!r}"
            )
        if (weights is not None) != (strategy == "weighted"):
            raise ValueError(
                f"weights={weights} with strategy={strategy!r}: give both weights and 'weighted'"
            )
        if weights is not None and (len(weights) != len(planners) or not min(weights) > 0):
            raise ValueError(
                f"weights={weights} must be {len(planners)} positive numbers, one for each planner"
            )
        if batches is not None and batches < 1:
            raise ValueError(f"batches must be at least 1, not {batches}")
        self.planners = planners
        self.strategy: Strategy = strategy
        self.weights = weights
        self.batches = batches
        self.uses_vectors = any(planner.uses_vectors for planner in planners)

    def plan(
        self, ids: Tensor, relations: Relations, seed: int, epoch: int, vectors: Embeddings | None = None
    ) -> Plan:
        parts = self._parts(vectors, ids, relations, seed)
        tasks = self._tasks([part.length(epoch) for part in parts], random_stream(seed, epoch))
        counts = np.bincount(tasks, minlength=len(parts)).tolist()
        plans = [part.stretch(count * epoch, count) for part, count in zip(parts, counts, strict=True)]
        # The plans stand part after part. At the j-th turn of a part, its j-th batch is due.
        rows = torch.from_numpy(np.argsort(np.argsort(tasks, kind="stable")))
        return Plan(
            joined([plan.anchors for plan in plans]).select(rows),
            joined([plan.candidates for plan in plans]).select(rows),
            torch.from_numpy(tasks),
        )

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        lengths = [part.length(0) for part in self._parts(None, ids, relations, seed)]
        return len(self._tasks(lengths, random_stream(seed, 0)))

    def _parts(self, vectors: Embeddings | None, ids: Tensor, relations: Relations, seed: int) -> list[_Part]:
        if not isinstance(relations, UnionRelations):
            raise TypeError(
                f"MixturePlanner plans for several data sets, and {type(relations).__name__} is one; use its "
                "own planner, or UnionRelations"
            )
        if len(relations.parts) != len(self.planners):
            raise DataError(
                f"{len(self.planners)} planners for {len(relations.parts)} data sets: give the mixture one "
                "for each"
            )
        parts = []
        for number, (planner, own) in enumerate(zip(self.planners, relations.parts, strict=True)):
            mine = relations.own(number, ids.cpu())
            if not len(mine):
                raise DataError(f"data set {number} of the mixture, counted from 0, has no items to train on")
            entropy = np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, number])
            part_seed = int(entropy.generate_state(1, np.uint64)[0])
            start, stop = relations.offsets[number : number + 2].tolist()
            part = vectors.part(start, stop) if vectors is not None and planner.uses_vectors else None
            parts.append(_Part(planner, mine, own, part_seed, start, part))
        return parts

    def _tasks(self, lengths: list[int], random: np.random.Generator) -> IntArray:
        """``[batches]`` int64, the data set of each batch."""
        if self.strategy == "round_robin":
            return np.arange(self.batches or len(lengths) * min(lengths), dtype=np.int64) % len(lengths)
        counts = self.apportioned(self.batches or sum(lengths), self.weights or lengths)
        return random.permutation(np.arange(len(lengths), dtype=np.int64).repeat(counts))

    @staticmethod
    def apportioned(total: int, weights: Sequence[float]) -> list[int]:
        """Whole numbers in proportion to ``weights`` that sum to ``total``, by largest remainders.

        Example:
            >>> MixturePlanner.apportioned(10, [3, 3, 1])
            [4, 4, 2]
        """
        exact = total * np.asarray(weights, dtype=np.float64) / sum(weights)
        counts = np.floor(exact).astype(np.int64)
        largest = np.argsort(counts - exact, kind="stable")
        counts[largest[: total - int(counts.sum())]] += 1
        return counts.tolist()


class _Part:
    """The batches of one data set, epoch after epoch without end."""

    def __init__(
        self,
        planner: BatchPlanner,
        ids: Tensor,
        relations: Relations,
        seed: int,
        start: int,
        vectors: Embeddings | None,
    ) -> None:
        self.planner = planner
        self.ids = ids
        self.relations = relations
        self.seed = seed
        self.start = start
        self.vectors = vectors
        self._plans: dict[int, Plan] = {}

    def _plan(self, epoch: int) -> Plan:
        if epoch not in self._plans:
            given: dict[str, Any] = {} if self.vectors is None else {"vectors": self.vectors}
            self._plans[epoch] = self.planner.plan(self.ids, self.relations, self.seed, epoch, **given)
        return self._plans[epoch]

    def length(self, epoch: int) -> int:
        """Batches of an epoch, the same in each. It plans ``epoch``, whose plan is likely to be needed."""
        if self.planner.uses_vectors:
            self._length = self.planner.length(self.ids, self.relations, self.seed)
        else:
            self._length = len(self._plan(epoch))
        return self._length

    def stretch(self, first: int, count: int) -> Plan:
        """The ``count`` batches from number ``first`` on, counted over all epochs."""
        anchors, candidates = [], []
        while count:
            epoch, step = divmod(first, self._length)
            rows = torch.arange(step, min(step + count, self._length))
            plan = self._plan(epoch)
            anchors.append(plan.anchors.select(rows))
            candidates.append(plan.candidates.select(rows))
            first, count = first + len(rows), count - len(rows)
        return Plan(joined(anchors, self.start), joined(candidates, self.start))


def joined(parts: list[Ragged], shift: int = 0) -> Ragged:
    """The rows of all ``parts``, one after the other, with ``shift`` added to their values."""
    return Ragged.from_lengths(
        torch.cat([torch.empty(0, dtype=torch.int64), *(part.values for part in parts)]) + shift,
        torch.cat([torch.empty(0, dtype=torch.int64), *(part.lengths for part in parts)]),
    )
