"""P classes, K members of each (Hermans, Beyer and Leibe, arXiv 1703.07737)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lit_metric.batching.classes import (
    CLASSES,
    ClassWeighting,
    IntArray,
    Members,
    check_arguments,
    classes_to_take,
    draw_classes,
    draw_members,
    members_of,
    members_to_take,
    without_repeats,
)
from lit_metric.batching.plan import BatchPlanner, Plan, random_stream
from lit_metric.data.relations import Relations


class PKPlanner(BatchPlanner):
    """Batches of ``classes`` different classes with ``per_class`` different members each.

    Every item of the batch is both an anchor and a candidate. A class with fewer than ``per_class`` members
    gives all it has. A class with a single member takes part, as it makes a good negative; as an anchor it
    has no positive, and losses pass over it. Leave such classes out with ``smallest_class=2`` where they are
    so many that batches would hold little else. Items without a label are never drawn.

    An item with several labels is a member of each of its classes, and is in a batch once, though several of
    the batch's classes may bring it.

    Within an epoch a class goes through its members in random order, without repeats until all have come.

    Args:
        classes: P, distinct classes per batch, at least 1. None: 16, or all if there are fewer.
        per_class: K, items per class, at least 1. None: 4, and more where ``classes`` is None and there are
            few, so that a batch has 64 items.
        class_weighting: how often a class is drawn: in proportion to its ``"size"``, to the square root of it
            (``"sqrt"``), or as often as any other (``"uniform"``). The latter two favour rare classes.
        batches: batches per epoch; by default as many as make the epoch about as large as the data,
            ``ceil(items / (classes * per_class))``.
        smallest_class: classes with fewer members than this are left out.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError` when
            there are fewer classes than asked for.
    """

    def __init__(
        self,
        classes: int | None = None,
        per_class: int | None = None,
        class_weighting: ClassWeighting = "size",
        batches: int | None = None,
        smallest_class: int = 1,
    ) -> None:
        check_arguments(classes, class_weighting, batches, per_class=per_class, smallest_class=smallest_class)
        self.classes = classes
        self.per_class = per_class
        self.class_weighting = class_weighting
        self.batches = batches
        self.smallest_class = smallest_class

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members = members_of(ids, relations, self.smallest_class, "PKPlanner")
        classes = classes_to_take(self, self.classes, CLASSES, members, self.smallest_class)
        per_class = members_to_take(self.per_class, classes, self.classes is not None)
        random = random_stream(seed, epoch)
        batches = self.batches or -(-members.items // (classes * per_class))
        table = draw_classes(members.sizes, batches, classes, self.class_weighting, random)
        return filled(members, table, per_class, random)


def filled(members: Members, table: IntArray, per_class: int, random: np.random.Generator) -> Plan:
    """Batches of ``per_class`` members of each class of ``table [batches, slots]``, each item once."""
    batches, slots = table.shape
    groups = draw_members(members.shuffled(random), table, per_class)
    items = without_repeats(groups, np.arange(batches).repeat(slots), batches)
    return Plan(anchors=items, candidates=items)
