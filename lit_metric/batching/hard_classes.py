"""Batches of classes that are hard to tell apart: what planners of hard classes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.batching.classes import (
    ClassWeighting,
    FloatArray,
    IntArray,
    Members,
    check_arguments,
    class_rates,
    classes_to_take,
    members_of,
    members_to_take,
    round_counts,
)
from lit_metric.batching.plan import VectorPlanner, grid_vectors
from lit_metric.clusters import directions
from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings

_BLOCK = 65536
_POOL = 8

Hardness = Callable[[IntArray], FloatArray]
"""For classes ``[C]``, how hard any two are to tell apart: symmetric ``[C, C]``, the diagonal is not read."""


class HardClassPlanner(VectorPlanner):
    """Batches of so many members of each of several classes that are hard to tell apart.

    Args:
        classes: distinct classes per batch, at least 1. None: ``most``, or all if there are fewer.
        most: see ``classes``.
        per_class: items per class, at least 1. None: as of :class:`~lit_metric.batching.PKPlanner`.
        pool: how many classes a batch is chosen from, at least ``classes``; eight times as many if None.
        class_weighting: how often a class is drawn.
        batches: per epoch; by default as many as make the epoch about as large as the data.
        smallest_class: classes with fewer members than this are left out.

    Raises:
        ValueError: when an argument is out of range.
    """

    def __init__(
        self,
        classes: int | None,
        most: int,
        per_class: int | None,
        pool: int | None,
        class_weighting: ClassWeighting,
        batches: int | None,
        smallest_class: int,
    ) -> None:
        check_arguments(classes, class_weighting, batches, per_class=per_class, smallest_class=smallest_class)
        if pool is not None and pool < (classes or 2):
            raise ValueError(
                f"pool={pool} must be at least classes={classes or 2}: a batch is chosen from it"
            )
        self.classes = classes
        self.most = most if pool is None else min(most, pool)
        self.per_class = per_class
        self.pool = _POOL * (classes or most) if pool is None else pool
        self.class_weighting: ClassWeighting = class_weighting
        self.batches = batches
        self.smallest_class = smallest_class

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        return self._batches(self._members(ids, relations))

    def _members(self, ids: Tensor, relations: Relations) -> Members:
        return members_of(ids, relations, self.smallest_class, type(self).__name__)

    def _shape(self, members: Members) -> tuple[int, int]:
        """Classes of a batch, and members of each."""
        classes = classes_to_take(self, self.classes, self.most, members, self.smallest_class)
        return classes, members_to_take(self.per_class, classes, self.classes is not None)

    def _batches(self, members: Members) -> int:
        classes, per_class = self._shape(members)
        return self.batches or -(-members.items // (classes * per_class))

    def _table(self, members: Members, random: np.random.Generator, hardness: Hardness) -> IntArray:
        """Which classes make up each batch, ``[batches, classes]``."""
        return draw_hard_classes(
            members.sizes,
            self._batches(members),
            self._shape(members)[0],
            self.pool,
            self.class_weighting,
            random,
            hardness,
        )


def draw_hard_classes(
    sizes: IntArray,
    batches: int,
    slots: int,
    pool: int,
    weighting: ClassWeighting,
    random: np.random.Generator,
    hardness: Hardness,
) -> IntArray:
    """Which classes make up each batch, ``[batches, slots]``: distinct ones that are hard to tell apart.

    Each class appears as often as its rate says (:func:`~lit_metric.batching.classes.class_rates`), rounded
    up or down: only the company that it comes in is chosen. For each batch, ``pool`` of the classes that are
    still due are drawn, in proportion to how often they are, and :func:`hardest_together` chooses among
    them. What is left to the batches made last is less hard; so batches come in random order.

    Args:
        sizes: ``[L]`` members of each class.
        batches: of the epoch.
        slots: classes in a batch, at most ``L``.
        pool: at least ``slots``; the larger, the harder the batches, and the less they vary.
        weighting: see :class:`~lit_metric.batching.PKPlanner`.
        random: draws the pools.
        hardness: asked once for each batch.
    """
    due = round_counts(batches * class_rates(sizes, slots, weighting), batches, batches * slots, random)
    table = np.empty((batches, slots), dtype=np.int64)
    for batch in range(batches):
        # With exponential lots over weights, the smallest are a draw by weight without replacement.
        lots = np.divide(random.exponential(size=len(due)), due, out=np.full(len(due), np.inf), where=due > 0)
        # A class that must come in every batch that is left has no choice, or it would come too seldom.
        urgent = due == batches - batch
        lots[urgent] = -1
        size = min(pool, int(np.count_nonzero(due)))
        drawn = np.sort(np.argpartition(lots, size - 1)[:size])
        drawn = drawn[np.argsort(lots[drawn], kind="stable")]
        chosen = hardest_together(hardness(drawn), max(1, int(urgent.sum())), slots)
        table[batch] = drawn[chosen]
        due[table[batch]] -= 1
    return table[random.permutation(batches)]


def hardest_together(hardness: FloatArray, given: int, count: int) -> IntArray:
    """Classes that are hard for each other, chosen greedily: each next one is the hardest for those before.

    Args:
        hardness: ``[C, C]``, how hard two classes are to tell apart; what counts is the sum over those
            chosen. Of equals the first is taken, so put them into random order before.
        given: how many of the first classes are chosen beforehand, at least 1.
        count: how many to choose in all, ``given`` to ``C``.

    Returns:
        ``[count]`` places, in the order in which they were chosen.

    Example:
        >>> hardness = np.array([[0, 1, 7, 2], [1, 0, 3, 9], [7, 3, 0, 4], [2, 9, 4, 0]])
        >>> hardest_together(hardness, given=1, count=3).tolist()  # 2 is hardest for 0; then 3, by 2 + 4
        [0, 2, 3]
    """
    chosen = np.arange(count)
    total = hardness[:given].sum(axis=0, dtype=np.float64)
    total[:given] = -np.inf
    for place in range(given, count):
        chosen[place] = total.argmax()
        total += hardness[chosen[place]]
        total[chosen[place]] = -np.inf
    return chosen


def centroids(vectors: Embeddings, members: Members) -> NDArray[np.float32]:
    """``[L, d]`` the mean direction of each class's members, on the grid of the vectors.

    Members are read block by block; memory is that of the result, in double precision.
    """
    sums = np.zeros((len(members.sizes), vectors.dimension))
    classes = np.repeat(np.arange(len(members.sizes)), members.sizes)
    for start in range(0, len(classes), _BLOCK):
        own = classes[start : start + _BLOCK]
        first = np.flatnonzero(np.diff(own, prepend=-1))
        block = grid_vectors(vectors, members.ids[start : start + _BLOCK]).astype(np.float64)
        sums[own[first]] += np.add.reduceat(block, first, axis=0)
    return directions(sums)


def triplet_violations(
    anchors: NDArray[np.floating[Any]], positives: NDArray[np.floating[Any]], margin: float
) -> FloatArray:
    """How much two classes violate the triplet constraint when they meet, ``[C, C]`` and symmetric.

    With an anchor ``x`` and a positive ``y`` of each class, ``v[s, c] = max(0, margin + x_s · y_c − x_s ·
    y_s)``: what is meant to be nearer to ``x_s`` is its own positive. The result is ``v + vᵀ``.

    Args:
        anchors: ``[C, d]`` unit vectors.
        positives: ``[C, d]`` likewise.
        margin: at least 0.

    Example:
        >>> x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.6, 0.8], [0.0, 1.0]])
        >>> triplet_violations(x, y, margin=0.5).round(3).tolist()  # 0.5 + 0 − 0.6 < 0, and 0.5 + 0.8 − 1
        [[1.0, 0.3], [0.3, 1.0]]
    """
    scores = (anchors @ positives.T).astype(np.float64)
    violations = np.maximum(0, margin + scores - scores.diagonal()[:, None])
    return violations + violations.T
