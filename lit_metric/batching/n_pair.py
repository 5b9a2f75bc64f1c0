"""N pairs from N distinct classes (Sohn, NIPS 2016)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lit_metric.batching.classes import (
    BATCH,
    ClassWeighting,
    IntArray,
    Members,
    check_arguments,
    classes_to_take,
    draw_classes,
    draw_members,
    first_seen,
    members_of,
)
from lit_metric.batching.plan import BatchPlanner, Plan, random_stream
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations


class NPairPlanner(BatchPlanner):
    """Batches of pairs from different classes (Sohn, NIPS 2016, section 3.2.1).

    Each of ``classes`` distinct classes gives two different items; the first is an anchor, the second the
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
            fewer classes than asked for have two members.
    """

    def __init__(
        self, classes: int | None = None, class_weighting: ClassWeighting = "size", batches: int | None = None
    ) -> None:
        check_arguments(classes, class_weighting, batches)
        if classes is not None and classes < 2:
            raise ValueError(f"an N-pair batch needs classes >= 2 to hold any negative, not {classes}")
        self.classes = classes
        self.class_weighting = class_weighting
        self.batches = batches

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        members = members_of(ids, relations, 2, "NPairPlanner")
        classes = classes_to_take(self, self.classes, BATCH, members, 2)
        random = random_stream(seed, epoch)
        batches = self.batches or -(-members.items // (2 * classes))
        table = draw_classes(members.sizes, batches, classes, self.class_weighting, random)
        return paired(members, table, random)


def paired(members: Members, table: IntArray, random: np.random.Generator) -> Plan:
    """Batches of an anchor and a candidate out of each class of ``table [batches, slots]``.

    A pair is left out where the batch has one of its items already.
    """
    batches, slots = table.shape
    pairs = draw_members(members.shuffled(random), table, per_class=2).values
    batch_of = np.arange(batches).repeat(slots)
    kept = first_seen(batch_of.repeat(2), pairs.numpy()).reshape(-1, 2).all(1)
    pairs = pairs.reshape(-1, 2)[torch.from_numpy(kept)]
    lengths = torch.from_numpy(np.bincount(batch_of[kept], minlength=batches))
    return Plan(
        anchors=Ragged.from_lengths(pairs[:, 0].contiguous(), lengths),
        candidates=Ragged.from_lengths(pairs[:, 1].contiguous(), lengths),
    )
