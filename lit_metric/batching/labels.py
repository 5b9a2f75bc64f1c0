"""Batches in which each anchor meets every candidate there is, such as all labels."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.batching.pairs import pair_relations
from lit_metric.batching.plan import BatchPlanner, Plan, even_lengths, random_stream
from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import PairRelations, Relations
from lit_metric.data.relations.lookup import unique


class LabelPlanner(BatchPlanner):
    """Texts in random order, each batch with all candidates: for texts and their labels, which have texts,
    too.

    Anchors are the items with a judgement, each once an epoch. Candidates of every batch are all items that
    any of them is judged with. So every anchor is compared with every label, and an encoder encodes all
    labels in each batch: some hundreds or thousands, not millions. For more, take :class:`NGAMEPlanner`, or a
    :class:`~lit_metric.losses.CandidateBank`.

    Args:
        batch_size: the largest number of anchors in a batch, at least 1. An epoch has ``ceil(anchors /
            batch_size)`` batches, whose sizes differ by at most one.

    Raises:
        ValueError: when ``batch_size`` is below 1. ``plan`` raises :class:`~lit_metric.data.DataError` when
            no item has a judgement, and ``TypeError`` when the relations are not made of pairs.

    Example:
        >>> texts, labels = torch.tensor([0, 1, 1, 2]), torch.tensor([3, 3, 4, 4])
        >>> relations = PairRelations(texts, labels, None, torch.arange(5))
        >>> plan = LabelPlanner(batch_size=2).plan(torch.arange(3), relations, seed=0, epoch=0)
        >>> [len(anchors) for anchors in plan.anchors.tolist()], plan.candidates.tolist()
        ([2, 1], [[3, 4], [3, 4]])
    """

    def __init__(self, batch_size: int = 256) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        anchors, labels = self._judged(ids, relations)
        batches = -(-len(anchors) // self.batch_size)
        order = torch.from_numpy(random_stream(seed, epoch).permutation(len(anchors)))
        lengths = torch.full((batches,), len(labels))
        return Plan(
            Ragged.from_lengths(anchors[order], even_lengths(len(anchors), batches)),
            Ragged.from_lengths(labels.repeat(batches), lengths),
        )

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        """The number of batches of every epoch, without a plan of one."""
        return -(-len(self._judged(ids, relations)[0]) // self.batch_size)

    def _judged(self, ids: Tensor, relations: Relations) -> tuple[Tensor, Tensor]:
        """The items with a judgement, and what they are judged with; both distinct and rising."""
        given: PairRelations = pair_relations(relations, self)
        anchors, labels, _ = given.judgements(unique(ids.cpu()))
        if not len(anchors):
            raise DataError(
                f"none of the {len(ids)} items to train on is judged with another: check the pairs"
            )
        return unique(anchors), unique(labels)
