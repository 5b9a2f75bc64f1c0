"""P×K batches whose classes are hard to tell apart."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lit_metric.batching.classes import CLASSES, ClassWeighting, FloatArray, IntArray
from lit_metric.batching.hard_classes import HardClassPlanner, centroids
from lit_metric.batching.pk import filled
from lit_metric.batching.plan import Plan, random_stream
from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings


class HardPKPlanner(HardClassPlanner):
    """Batches as :class:`PKPlanner` makes them, of classes whose centroids lie near each other.

    Each class comes as often as with :class:`PKPlanner`, and goes through its members in the same way: only
    the company differs. A batch begins with a random class out of a random ``pool`` of those that are still
    due; then the class comes whose centroid has the largest sum of cosines with those of the batch, and so
    on. Classes that share many items, where items have several labels, are near each other by that alone.

    Args:
        classes: P, distinct classes per batch, at least 1. None: 16, or all if there are fewer; then there is
            no choice, and batches are those of :class:`PKPlanner`.
        per_class: K, items per class, at least 1. None: as of :class:`PKPlanner`.
        pool: how many classes a batch is chosen from, at least ``classes``; the larger, the harder, and with
            few classes the more alike. Eight times ``classes`` if None.
        class_weighting: how often a class is drawn, as in :class:`PKPlanner`.
        batches: batches per epoch; by default ``ceil(items / (classes * per_class))``.
        smallest_class: classes with fewer members than this are left out.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError`
            when there are fewer classes than asked for.
    """

    def __init__(
        self,
        classes: int | None = None,
        per_class: int | None = None,
        pool: int | None = None,
        class_weighting: ClassWeighting = "size",
        batches: int | None = None,
        smallest_class: int = 1,
    ) -> None:
        super().__init__(classes, CLASSES, per_class, pool, class_weighting, batches, smallest_class)

    def _plan(self, vectors: Embeddings, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members, random = self._members(ids, relations), random_stream(seed, epoch)
        centres = centroids(vectors, members)

        def cosines(drawn: IntArray) -> FloatArray:
            return (centres[drawn] @ centres[drawn].T).astype(np.float64)

        return filled(members, self._table(members, random, cosines), self._shape(members)[1], random)
