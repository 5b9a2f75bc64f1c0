"""Planners that let near items meet: hard classes for P×K and N-pair batches, and clusters of items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.batching.classes import BATCH, PER_CLASS, ClassPlanner
from lit_metric.batching.members import ClassWeighting, FloatArray, IntArray, Members, distinct_rows
from lit_metric.batching.pairs import positive_pairs
from lit_metric.batching.plan import Plan, VectorPlanner, even_lengths, grid_vectors, random_stream
from lit_metric.clusters import balanced_clusters, directions
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import PairRelations, Relations
from lit_metric.index import Embeddings

_BLOCK = 65536
_POOL = 8

Hardness = Callable[[IntArray], FloatArray]
"""For classes ``[C]``, how hard any two are to tell apart: symmetric ``[C, C]``, the diagonal is not read."""


class HardClassPlanner(ClassPlanner, VectorPlanner):
    """Batches of several members of each of several classes that are hard to tell apart.

    Args:
        classes, most, per_class, class_weighting, batches, smallest_class: see
            :class:`~lit_metric.batching.classes.ClassPlanner`.
        pool: how many classes a batch is chosen from, at least ``classes``. None: eight times as many.

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
        super().__init__(classes, most, per_class, class_weighting, batches, smallest_class)
        if pool is not None and pool < (classes or 2):
            raise ValueError(
                f"pool={pool} must be at least classes={classes or 2}: a batch is chosen from it"
            )
        self.pool = _POOL * (classes or most) if pool is None else pool
        self.most = most if pool is None else min(most, pool)

    def _hard_classes(self, members: Members, random: np.random.Generator, hardness: Hardness) -> IntArray:
        """The classes of each batch, ``[batches, classes]``: distinct ones that are hard to tell apart.

        Each class comes as often as :meth:`Members.appearances` says: only its company is chosen. For each
        batch, ``pool`` of the classes that are still due are drawn, in proportion to how often they are due.
        :func:`hardest_together` chooses among them, and calls ``hardness`` once. The last batches have the
        smallest choice and are less hard, so batches come in random order.
        """
        batches, slots, _ = self._shape(members)
        due = members.appearances(batches, slots, self.class_weighting, random)
        table = np.empty((batches, slots), dtype=np.int64)
        for batch in range(batches):
            # The smallest of exponential numbers over weights are a draw by weight without replacement.
            keys = np.divide(
                random.exponential(size=len(due)), due, out=np.full(len(due), np.inf), where=due > 0
            )
            # A class that is due in every remaining batch must come now, or it would come too seldom.
            urgent = due == batches - batch
            keys[urgent] = -1
            size = min(self.pool, int(np.count_nonzero(due)))
            pool = np.sort(np.argpartition(keys, size - 1)[:size])
            pool = pool[np.argsort(keys[pool], kind="stable")]
            table[batch] = pool[hardest_together(hardness(pool), max(1, int(urgent.sum())), slots)]
            due[table[batch]] -= 1
        return table[random.permutation(batches)]


def hardest_together(hardness: FloatArray, given: int, count: int) -> IntArray:
    """Classes that are hard for each other, chosen greedily: each next one is the hardest for those before.

    Args:
        hardness: ``[C, C]``, how hard two classes are to tell apart. The next class has the largest sum over
            the chosen ones; of equals the first is taken, so put classes into random order before.
        given: how many of the first classes are chosen beforehand, at least 1.
        count: how many to choose in all, ``given`` to ``C``.

    Returns:
        ``[count]`` places, in the order of choice.

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


class HardPKPlanner(HardClassPlanner):
    """Batches as :class:`PKPlanner` makes them, of classes whose centroids lie near each other.

    Each class comes as often as with :class:`PKPlanner`, and goes through its members in the same way: only
    its company differs. A batch begins with a random class out of a random ``pool`` of the classes that are
    still due. Each next class is the one whose centroid has the largest sum of cosines with those of the
    batch. Where items have several labels, classes that share many items are near each other for that reason.

    Args:
        classes: P, distinct classes per batch, at least 1. None: 16, or all if there are fewer; then there is
            no choice, and batches are those of :class:`PKPlanner`.
        per_class: K, items per class, at least 1. None: as of :class:`PKPlanner`.
        pool: how many classes a batch is chosen from, at least ``classes``; the larger, the harder, and with
            few classes the more similar are the batches. Eight times ``classes`` if None.
        class_weighting: how often a class is drawn, as in :class:`PKPlanner`.
        batches: batches per epoch; by default ``ceil(items / (classes * per_class))``.
        smallest_class: classes with fewer members than this are left out.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError`
            when there are fewer classes than ``classes``.
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
        super().__init__(
            classes, BATCH // PER_CLASS, per_class, pool, class_weighting, batches, smallest_class
        )

    def _plan(self, vectors: Embeddings, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members, random = self._members(ids, relations), random_stream(seed, epoch)
        centres = self.centroids(vectors, members)

        def cosines(pool: IntArray) -> FloatArray:
            return (centres[pool] @ centres[pool].T).astype(np.float64)

        return self._blocks(members, self._hard_classes(members, random, cosines), random)

    @staticmethod
    def centroids(vectors: Embeddings, members: Members) -> NDArray[np.float32]:
        """``[L, d]`` the mean direction of each class's members, on the grid of the vectors.

        It reads the members block by block; memory is that of the result, in double precision.
        """
        sums = np.zeros((len(members.sizes), vectors.dimension))
        classes = np.repeat(np.arange(len(members.sizes)), members.sizes)
        for start in range(0, len(classes), _BLOCK):
            own = classes[start : start + _BLOCK]
            first = np.flatnonzero(np.diff(own, prepend=-1))
            block = grid_vectors(vectors, members.ids[start : start + _BLOCK]).astype(np.float64)
            sums[own[first]] += np.add.reduceat(block, first, axis=0)
        return directions(sums)


class NegativeClassPlanner(HardClassPlanner):
    """N-pair batches of classes that are confused with each other (Sohn, NIPS 2016, section 3.2.2).

    Batches as :class:`NPairPlanner` makes them: two different items of each of ``classes`` distinct classes.

    1. For each batch, ``pool`` classes are drawn, each represented by two random members.
    2. A random class of the pool begins. Each next class violates the triplet constraint the most against the
       chosen ones: the sum of ``max(0, margin + x · negative − x · positive)`` over the batch, ``x`` on
       either side, grows the most by it. Of equals, a random one is taken.
    3. Two items of each chosen class make the batch. A class goes through all of its members.

    Unlike the paper, each class comes as often as with :class:`NPairPlanner`: the pool is drawn from the
    classes that are still due, so classes that are never confused come, too.

    Args:
        classes: N, pairs per batch, at least 2. None: 64, or as many as have two members.
        pool: C, how many classes a batch is chosen from, many more than ``classes``. None: eight times as
            many.
        margin: in cosines, at least 0. A constraint that holds by more than the margin counts as satisfied;
            once all do, classes are drawn at random.
        class_weighting: how often a class is drawn, as in :class:`PKPlanner`.
        batches: batches per epoch; by default ``ceil(items / (2 * classes))``.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError`
            when fewer classes than ``classes`` have two members.
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
        shuffled = members.shuffled(random)

        def hardness(pool: IntArray) -> FloatArray:
            # In random order, the first two members are a random pair.
            first = shuffled.starts[pool]
            anchors, positives = shuffled.ids[first], shuffled.ids[first + 1]
            return self.violations(grid_vectors(vectors, anchors), grid_vectors(vectors, positives))

        return self._pairs(members, self._hard_classes(members, random, hardness), random)

    def violations(self, anchors: NDArray[np.float32], positives: NDArray[np.float32]) -> FloatArray:
        """How much two classes violate the triplet constraint when they meet, ``[C, C]`` and symmetric.

        With an anchor ``x`` and a positive ``y`` of each class, ``v[s, c] = max(0, margin + x_s · y_c − x_s ·
        y_s)``: ``x_s`` should be nearer to its own positive. The result is ``v + vᵀ``.

        Args:
            anchors: ``[C, d]`` unit vectors.
            positives: ``[C, d]`` unit vectors.

        Example:
            >>> x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.6, 0.8], [0.0, 1.0]])
            >>> NegativeClassPlanner(margin=0.5).violations(x, y).round(3).tolist()  # 0.5 + 0 − 0.6 < 0
            [[1.0, 0.3], [0.3, 1.0]]
        """
        scores = (anchors @ positives.T).astype(np.float64)
        violations = np.maximum(0, self.margin + scores - scores.diagonal()[:, None])
        return violations + violations.T


class NGAMEPlanner(VectorPlanner):
    """Batches of random clusters of near items, so that most negatives of a batch are hard ones.

    Source: NGAME (WSDM 2023, arXiv 2207.04452).

    At every epoch, balanced 2-means (:func:`~lit_metric.clusters.balanced_clusters`) clusters all items. The
    clusters lie end to end in random order and are cut into batches, so each item is an anchor once an epoch.
    A cluster may begin in one batch and end in the next.

    - With labels, all items of a batch are anchors and candidates. Each brings one more random item of one of
      its classes as a candidate, so that positives that lie far apart meet. Items without a label are left
      out.
    - With pairs, anchors are clustered, and each brings one of its positives, another one each epoch. A
      positive that two anchors of a batch share is a candidate once, and a negative of neither.

    Args:
        batch_size: the largest number of anchors in a batch, at least 2. An epoch has ``ceil(anchors /
            batch_size)`` batches, whose sizes differ by at most one.
        cluster_size: the largest number of items in a cluster, at least 2; a cluster has at least half of it.
            The larger, the harder the batch, and the fewer kinds of items are in it. A cluster as large as
            the batch gives the hardest batches.
        cluster_sizes: another size from an epoch on, such as ``{0: 1, 10: 2, 20: 4}``, so that batches become
            harder while the vectors become better; 1 means random batches. NGAME doubles the size at epochs
            10, 20, 25 and so on, of 300.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError`
            when no item has a label or a positive, and ``TypeError`` when the relations have neither labels
            nor pairs.
    """

    def __init__(
        self, batch_size: int = 256, cluster_size: int = 16, cluster_sizes: dict[int, int] | None = None
    ) -> None:
        if not 2 <= cluster_size <= batch_size:
            raise ValueError(
                f"cluster_size={cluster_size} must be at least 2, and at most batch_size={batch_size}"
            )
        for epoch, size in (cluster_sizes or {}).items():
            if epoch < 0 or not 1 <= size <= batch_size:
                raise ValueError(
                    f"cluster_sizes={{{epoch}: {size}}}: an epoch must be at least 0, and a size at least 1 "
                    f"and at most batch_size={batch_size}"
                )
        self.batch_size = batch_size
        self.cluster_size = cluster_size
        self.cluster_sizes = cluster_sizes

    def size_at(self, epoch: int) -> int:
        """The largest number of items in a cluster of an epoch.

        Example:
            >>> planner = NGAMEPlanner(cluster_size=8, cluster_sizes={2: 16, 5: 32})
            >>> [planner.size_at(epoch) for epoch in (0, 1, 2, 4, 5, 99)]
            [8, 8, 16, 16, 32, 32]
        """
        begun = [start for start in self.cluster_sizes or {} if start <= epoch]
        return self.cluster_sizes[max(begun)] if self.cluster_sizes and begun else self.cluster_size

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        if isinstance(relations, PairRelations):
            anchors = len(positive_pairs(ids.unique().cpu(), relations.to("cpu"), seed, 0)[0])
        else:
            anchors = self._members(ids, relations).items
        return -(-anchors // self.batch_size)

    def _members(self, ids: Tensor, relations: Relations) -> Members:
        members = Members.of(ids, relations, "NGAMEPlanner")
        members.require(1, 1, "NGAMEPlanner")
        return members

    def _plan(self, vectors: Embeddings, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        random = random_stream(seed, epoch)
        if isinstance(relations, PairRelations):
            anchors, partners = positive_pairs(ids.unique().cpu(), relations.to("cpu"), seed, epoch)
            own, others = anchors.numpy(), partners.numpy()
        else:
            members = self._members(ids, relations)
            own = np.unique(members.ids)
            others = self.partners(own, members, random)
        if (size := self.size_at(epoch)) == 1:
            order = random.permutation(len(own))
        else:
            clusters = balanced_clusters(
                lambda rows: grid_vectors(vectors, own[rows]), len(own), size, random
            )
            order = np.concatenate([clusters[place] for place in random.permutation(len(clusters))])
        batches = -(-len(own) // self.batch_size)
        lengths = even_lengths(len(own), batches)
        batch_of = np.arange(batches).repeat(lengths.numpy())
        rows, brought = Ragged.from_lengths(torch.from_numpy(own[order]), lengths), others[order]
        if isinstance(relations, PairRelations):
            return Plan(rows, distinct_rows(batch_of, brought, batches))
        candidates = np.concatenate([own[order], brought])
        return Plan(rows, distinct_rows(np.tile(batch_of, 2), candidates, batches))

    @staticmethod
    def partners(items: IntArray, members: Members, random: np.random.Generator) -> IntArray:
        """``[n]`` a random other member of a random class of each of ``items [n]``, -1 if there is none.

        Args:
            items: distinct ids, rising, those of ``members``.
            members: by class.
            random: draws.

        Example:
            >>> members = Members(np.array([4, 7, 9]), np.array([2, 1]))
            >>> NGAMEPlanner.partners(np.array([4, 7, 9]), members, np.random.default_rng(0)).tolist()
            [7, 4, -1]
        """
        sizes = np.repeat(members.sizes, members.sizes)
        order = random.permutation(len(members.ids))
        order = order[sizes[order] > 1]
        found, first = np.unique(members.ids[order], return_index=True)
        places, starts = order[first], np.repeat(members.starts, members.sizes)
        steps = random.integers(1, sizes[places])
        within = (places - starts[places] + steps) % sizes[places]
        partners = np.full(len(items), -1, dtype=np.int64)
        partners[np.searchsorted(items, found)] = members.ids[starts[places] + within]
        return partners
