"""All items in random order, cut into batches."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.batching.plan import BatchPlanner, Plan, even_lengths, random_stream
from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations


class ShufflePlanner(BatchPlanner):
    """Every item once per epoch, in random order.

    Every item of a batch is both an anchor and a candidate. Classes come as often as they are: batches know
    nothing of them, so that an item of a small class often meets no positive, and losses pass over it as an
    anchor. That suits few classes, or losses that learn from negatives alone; where anchors need positives,
    take :class:`PKPlanner`. Items without a label are left out; relations without labels use all items.

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
