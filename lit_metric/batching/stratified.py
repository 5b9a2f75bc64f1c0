"""Batches in which classes have the shares that they have in the data, or closer to equal ones."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lit_metric.batching.classes import (
    IntArray,
    capped_shares,
    deal,
    members_of,
    require_classes,
    without_repeats,
)
from lit_metric.batching.plan import BatchPlanner, Plan, random_stream
from lit_metric.data.relations import Relations


class StratifiedPlanner(BatchPlanner):
    """Every batch follows the classes' shares, raised to a power: for long tails.

    A class with n members gets a share of each batch in proportion to ``n ** power``, rounded up or down, and
    in an epoch as often as that says, up to one time. So large classes have many members in a batch, where
    :class:`PKPlanner` gives each the same number, and the smallest come now and then; which of them is drawn
    at random in every epoch, and so each class comes. Members come ``together`` at a time, so that those of
    small classes have a positive beside them; a class with a single member serves as a negative.

    Every item of the batch is both an anchor and a candidate. Items without a label are never drawn. One with
    several labels is a member of each of its classes, and is in a batch once. Within an epoch a class goes
    through its members in random order, without repeats until all have come.

    Args:
        batch_size: the largest number of items in a batch, at least ``together``.
        power: 1: as in the data; 0: all classes alike; between them, rare classes gain. At least 0.
        together: how many members of a class come at a time, at least 1.
        batches: batches per epoch; by default as many as make the epoch about as large as the data.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError` when
            no item has a label.

    Example:
        >>> import torch
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
        members = members_of(ids, relations, asking="StratifiedPlanner")
        require_classes(members, 1, 1, "StratifiedPlanner")
        random = random_stream(seed, epoch)
        batches = self.batches or -(-members.items // self.batch_size)
        batch_of, classes, groups = self._strata(members.sizes, batches, random)
        taken = np.minimum(groups * self.together, members.sizes[classes])
        items = without_repeats(deal(members.shuffled(random), classes, taken), batch_of, batches)
        return Plan(anchors=items, candidates=items)

    def _strata(
        self, sizes: IntArray, batches: int, random: np.random.Generator
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Which classes come in which batch, how many groups of members of each: ``[n]``, by batch.

        Systematic sampling: the classes' shares are laid end to end, and a batch takes those at points one
        apart. The points of all batches together are evenly spaced too.
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
