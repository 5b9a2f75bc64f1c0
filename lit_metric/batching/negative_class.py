"""N-pair batches by negative class mining (Sohn, NIPS 2016)."""

from __future__ import annotations

from torch import Tensor

from lit_metric.batching.classes import BATCH, ClassWeighting, FloatArray, IntArray
from lit_metric.batching.hard_classes import HardClassPlanner, triplet_violations
from lit_metric.batching.n_pair import paired
from lit_metric.batching.plan import Plan, grid_vectors, random_stream
from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings


class NegativeClassPlanner(HardClassPlanner):
    """N-pair batches of classes that are confused with each other (Sohn, NIPS 2016, section 3.2.2).

    Batches as :class:`NPairPlanner` makes them: two different items of each of ``classes`` distinct classes.
    For each batch (1) ``pool`` classes are drawn, each represented by two random members; (2) a random one of
    them begins, and then the class comes that violates the triplet constraint the most against those chosen:
    the one by which the sum of ``max(0, margin + x · negative − x · positive)`` over the batch, ``x`` on
    either side, grows the most, a random one of equals; (3) two items of each chosen class make the batch,
    going through all of its members.

    Other than in the paper, each class comes as often as with :class:`NPairPlanner`: the pool is drawn from
    the classes that are still due, so that those which are never confused are not lost.

    Args:
        classes: N, pairs per batch, at least 2. None: 64, or as many as have two members.
        pool: C, how many classes a batch is chosen from, many more than ``classes``. Eight times as many if
            None.
        margin: in cosines, at least 0: constraints that hold by more count as satisfied. Once all of them
            do, classes are drawn at random.
        class_weighting: how often a class is drawn, as in :class:`PKPlanner`.
        batches: batches per epoch; by default ``ceil(items / (2 * classes))``.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError`
            when fewer classes than asked for have two members.
    """

    def __init__(
        self,
        classes: int | None = None,
        pool: int | None = None,
        margin: float = 0.5,
        class_weighting: ClassWeighting = "size",
        batches: int | None = None,
    ) -> None:
        super().__init__(classes, BATCH, 2, pool, class_weighting, batches, smallest_class=2)
        if classes is not None and classes < 2:
            raise ValueError(f"an N-pair batch needs classes >= 2 to hold any negative, not {classes}")
        if not margin >= 0:
            raise ValueError(f"margin={margin} must be at least 0")
        self.margin = margin

    def _plan(self, vectors: Embeddings, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members, random = self._members(ids, relations), random_stream(seed, epoch)

        def violations(drawn: IntArray) -> FloatArray:
            # In random order, the first two are a random pair.
            first = members.starts[drawn]
            firsts, seconds = shuffled.ids[first], shuffled.ids[first + 1]
            return triplet_violations(
                grid_vectors(vectors, firsts), grid_vectors(vectors, seconds), self.margin
            )

        shuffled = members.shuffled(random)
        return paired(members, self._table(members, random, violations), random)
