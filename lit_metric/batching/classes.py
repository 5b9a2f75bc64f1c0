"""Planners that need no vectors: P×K, N-pair, classes by shares, and plain shuffling."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from lit_metric.batching.members import (
    EXPONENTS,
    ClassWeighting,
    IntArray,
    Members,
    capped_shares,
    distinct_rows,
    first_in_batch,
)
from lit_metric.batching.plan import BatchPlanner, Plan, even_lengths, random_stream
from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations

log = logging.getLogger(__name__)

BATCH = 64
"""Items in a batch of classes by default."""
PER_CLASS = 4


class ClassPlanner(BatchPlanner):
    """Base of the planners whose batches have several members of each of several classes.

    Args:
        classes: distinct classes per batch, at least 1. None: ``most``, or all if there are fewer.
        most: see ``classes``.
        per_class: members per class, at least 1. None: 4, and more where ``classes`` is None and there are
            few classes, so that a batch has 64 items.
        class_weighting: how often a class is drawn, see :class:`PKPlanner`.
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
        class_weighting: ClassWeighting,
        batches: int | None,
        smallest_class: int,
    ) -> None:
        numbers = {
            "classes": classes,
            "per_class": per_class,
            "smallest_class": smallest_class,
            "batches": batches,
        }
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if class_weighting not in EXPONENTS:
            raise ValueError(
                f"class_weighting must be one of {', '.join(EXPONENTS)}, not {class_weighting!r}"
            )
        self.classes = classes
        self.most = most
        self.per_class = per_class
        self.class_weighting: ClassWeighting = class_weighting
        self.batches = batches
        self.smallest_class = smallest_class
        self._logged = False

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        return self._shape(self._members(ids, relations))[0]

    def _members(self, ids: Tensor, relations: Relations) -> Members:
        return Members.of(ids, relations, type(self).__name__, self.smallest_class)

    def _shape(self, members: Members) -> tuple[int, int, int]:
        """Batches of an epoch, classes of a batch, and members of each class.

        Raises:
            DataError: when there are fewer classes than ``classes``, or a single one.
        """
        name, count = type(self).__name__, len(members.sizes)
        demand = name if self.classes is None else f"{name}(classes={self.classes})"
        members.require(self.classes or 2, self.smallest_class, demand)
        classes = self.classes or min(self.most, count)
        # Once, not for each epoch, and not in a loader's worker.
        if classes < self.most and self.classes is None and not self._logged and get_worker_info() is None:
            self._logged = True
            log.info(
                "%s: all %d classes in each batch (classes: %d or fewer by default)", name, count, self.most
            )
        per_class = self.per_class
        if per_class is None:
            per_class = PER_CLASS if self.classes is not None else max(PER_CLASS, BATCH // classes)
        return self.batches or -(-members.items // (classes * per_class)), classes, per_class

    def _random_classes(self, members: Members, random: np.random.Generator) -> IntArray:
        """The classes of each batch, ``[batches, classes]``."""
        batches, classes, _ = self._shape(members)
        return members.draw_classes(batches, classes, self.class_weighting, random)

    def _blocks(self, members: Members, table: IntArray, random: np.random.Generator) -> Plan:
        """Batches of ``per_class`` members of each class of ``table [batches, classes]``, each item once."""
        batches, slots = table.shape
        classes = table.reshape(-1)
        taken = np.minimum(self._shape(members)[2], members.sizes[classes])
        dealt = members.shuffled(random).deal(classes, taken)
        items = distinct_rows(np.arange(batches).repeat(slots).repeat(taken), dealt.values.numpy(), batches)
        return Plan(anchors=items, candidates=items)

    def _pairs(self, members: Members, table: IntArray, random: np.random.Generator) -> Plan:
        """Batches of an anchor and a candidate of each class of ``table [batches, classes]``.

        A pair is left out where the batch has one of its items already.
        """
        batches, slots = table.shape
        pairs = members.shuffled(random).deal(table.reshape(-1), np.full(table.size, 2)).values
        batch_of = np.arange(batches).repeat(slots)
        kept = first_in_batch(batch_of.repeat(2), pairs.numpy()).reshape(-1, 2).all(1)
        pairs = pairs.reshape(-1, 2)[torch.from_numpy(kept)]
        lengths = torch.from_numpy(np.bincount(batch_of[kept], minlength=batches))
        return Plan(
            anchors=Ragged.from_lengths(pairs[:, 0].contiguous(), lengths),
            candidates=Ragged.from_lengths(pairs[:, 1].contiguous(), lengths),
        )


class PKPlanner(ClassPlanner):
    """Batches of ``classes`` different classes with ``per_class`` different members each.

    Source: P classes and K members of each (Hermans, Beyer and Leibe, arXiv 1703.07737).

    Every item of the batch is both an anchor and a candidate. A class with fewer than ``per_class`` members
    gives all it has. A class with a single member takes part as a negative; as an anchor it has no positive,
    and losses pass over it. Where most classes are such, leave them out with ``smallest_class=2``. Items
    without a label are never drawn.

    An item with several labels is a member of each of its classes. It is in a batch once, even where several
    classes of the batch bring it.

    Within an epoch a class goes through its members in random order, without repeats until all have come.

    Args:
        classes: P, distinct classes per batch, at least 1. None: 16, or all if there are fewer.
        per_class: K, items per class, at least 1. None: 4, and more where ``classes`` is None and there are
            few classes, so that a batch has 64 items.
        class_weighting: how often a class is drawn: in proportion to its ``"size"``, to the square root of it
            (``"sqrt"``), or as often as any other (``"uniform"``). The latter two favour rare classes.
        batches: batches per epoch; by default as many as make the epoch about as large as the data,
            ``ceil(items / (classes * per_class))``.
        smallest_class: classes with fewer members than this are left out.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError` when
            there are fewer classes than ``classes``.
    """

    def __init__(
        self,
        classes: int | None = None,
        per_class: int | None = None,
        class_weighting: ClassWeighting = "size",
        batches: int | None = None,
        smallest_class: int = 1,
    ) -> None:
        super().__init__(classes, BATCH // PER_CLASS, per_class, class_weighting, batches, smallest_class)

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members, random = self._members(ids, relations), random_stream(seed, epoch)
        return self._blocks(members, self._random_classes(members, random), random)


class NPairPlanner(ClassPlanner):
    """Batches of pairs from different classes (Sohn, NIPS 2016, section 3.2.1).

    Each of ``classes`` distinct classes gives two different items: the first is an anchor, the second the
    candidate at the same place. Classes with fewer than two members, and items without a label, are never
    drawn.

    An item with several labels is a member of each of its classes. Where two classes of a batch bring the
    same item, the later pair is left out.

    Within an epoch a class goes through its members in random order, without repeats until all have come.

    Args:
        classes: N, pairs per batch, at least 2. None: 64, or as many as have two members.
        class_weighting: how often a class is drawn, as in :class:`PKPlanner`.
        batches: batches per epoch; by default ``ceil(items / (2 * classes))``.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError` when
            fewer classes than ``classes`` have two members.
    """

    def __init__(
        self, classes: int | None = None, class_weighting: ClassWeighting = "size", batches: int | None = None
    ) -> None:
        super().__init__(classes, BATCH, 2, class_weighting, batches, smallest_class=2)
        if classes is not None and classes < 2:
            raise ValueError(f"an N-pair batch needs classes >= 2 to hold any negative, not {classes}")

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members, random = self._members(ids, relations), random_stream(seed, epoch)
        return self._pairs(members, self._random_classes(members, random), random)


class StratifiedPlanner(BatchPlanner):
    """Every batch holds the classes in proportion to a power of their sizes: for long tails.

    A class with n members gets a share of each batch in proportion to ``n ** power``, rounded up or down.
    Over an epoch the rounding evens out to within one. So a large class has many members in a batch, where
    :class:`PKPlanner` gives each class the same number. The smallest classes are in some batches only, drawn
    at random in every epoch, so that each class comes. Members come ``together`` at a time, so that those of
    small classes have a positive in the batch. A class with a single member serves as a negative.

    Every item of the batch is both an anchor and a candidate. Items without a label are never drawn. An item
    with several labels is a member of each of its classes, and is in a batch once. Within an epoch a class
    goes through its members in random order, without repeats until all have come.

    Args:
        batch_size: the largest number of items in a batch, at least ``together``.
        power: at least 0. 1: as in the data; 0: all classes equally; between them, rare classes gain.
        together: how many members of a class come at a time, at least 1.
        batches: batches per epoch; by default as many as make the epoch about as large as the data.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError` when
            no item has a label.

    Example:
        >>> from lit_metric.data import LabelRelations
        >>> labels = torch.tensor([0] * 64 + [1] * 16)  # with roots in the proportion of 2 : 1
        >>> relations = LabelRelations(labels, ["large", "small"], torch.arange(80))
        >>> plan = StratifiedPlanner(batch_size=12).plan(torch.arange(80), relations, seed=0, epoch=0)
        >>> labels[plan.anchors[0]].bincount(), len(plan)
        (tensor([8, 4]), 7)
    """

    def __init__(
        self, batch_size: int = 256, power: float = 0.5, together: int = 2, batches: int | None = None
    ) -> None:
        if together < 1 or (batches is not None and batches < 1):
            raise ValueError(f"together={together} must be at least 1, and so must batches={batches}")
        if batch_size < max(2, together):
            raise ValueError(f"batch_size={batch_size} must be at least 2, and at least together={together}")
        if power < 0:
            raise ValueError(f"power={power}: below 0 the smallest classes would come most; use 0 to 1")
        self.batch_size = batch_size
        self.power = power
        self.together = together
        self.batches = batches

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members = Members.of(ids, relations, "StratifiedPlanner")
        members.require(1, 1, "StratifiedPlanner")
        random = random_stream(seed, epoch)
        batches = self.batches or -(-members.items // self.batch_size)
        batch_of, classes, groups = self._strata(members.sizes, batches, random)
        taken = np.minimum(groups * self.together, members.sizes[classes])
        dealt = members.shuffled(random).deal(classes, taken)
        items = distinct_rows(batch_of.repeat(taken), dealt.values.numpy(), batches)
        return Plan(anchors=items, candidates=items)

    def _strata(
        self, sizes: IntArray, batches: int, random: np.random.Generator
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Batch, class and number of groups of members, each ``[n]``, by batch.

        Systematic sampling: the classes' shares lie end to end, and a batch takes the classes at points one
        apart. The points of all batches together are evenly spaced, too.
        """
        caps = -(-sizes // self.together)
        slots = min(self.batch_size // self.together, int(caps.sum()))
        order = random.permutation(len(sizes))
        shares = capped_shares(sizes.astype(np.float64) ** self.power, caps.astype(np.float64), slots)
        ends = np.cumsum(shares[order])
        first = (random.permutation(batches) + random.random()) / batches
        points = (first[:, None] + np.arange(slots)).reshape(-1) * (ends[-1] / slots)
        places = np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)
        keys = np.arange(batches).repeat(slots) * len(sizes) + order[places]
        keys, groups = np.unique(keys, return_counts=True)
        return keys // len(sizes), keys % len(sizes), groups


class ShufflePlanner(BatchPlanner):
    """Every item once per epoch, in random order.

    Every item of a batch is both an anchor and a candidate. Batches ignore classes, so an item of a small
    class often meets no positive, and losses pass over it as an anchor. That suits few classes, or losses
    that learn from negatives alone. Where anchors need positives, take :class:`PKPlanner`. Items without a
    label are left out; relations without labels use all items.

    Args:
        batch_size: the largest number of items in a batch, at least 2. An epoch has
            ``ceil(items / batch_size)`` batches, whose sizes differ by at most one.

    Raises:
        ValueError: when ``batch_size`` is below 2. ``plan`` raises :class:`~lit_metric.data.DataError` when
            no item has a label.

    Example:
        >>> from lit_metric.data import LabelRelations
        >>> relations = LabelRelations(torch.zeros(7, dtype=torch.int64), ["one"], torch.arange(7))
        >>> plan = ShufflePlanner(batch_size=3).plan(torch.arange(7), relations, seed=0, epoch=0)
        >>> plan.anchors.lengths, plan.anchors.values.sort().values
        (tensor([3, 2, 2]), tensor([0, 1, 2, 3, 4, 5, 6]))
    """

    def __init__(self, batch_size: int = 256) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 for items to meet, not {batch_size}")
        self.batch_size = batch_size

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        distinct = ids.unique().cpu()
        labels = getattr(relations, "labels", None)
        if isinstance(labels, Tensor):
            distinct = distinct[labels.cpu()[distinct] >= 0]
        elif isinstance(labels, Ragged):
            distinct = distinct[labels.lengths.cpu()[distinct] > 0]
        if len(distinct) == 0:
            raise DataError(f"none of the {len(ids)} items to train on has a label; check the label column")
        order = torch.from_numpy(random_stream(seed, epoch).permutation(len(distinct)))
        batches = -(-len(distinct) // self.batch_size)
        items = Ragged.from_lengths(distinct[order], even_lengths(len(distinct), batches))
        return Plan(anchors=items, candidates=items)
