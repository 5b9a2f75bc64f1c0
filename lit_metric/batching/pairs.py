"""Planners of given pairs: positive pairs without false negatives, and judged pairs with their scores."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from lit_metric.batching.placement import Placement
from lit_metric.batching.plan import BatchPlanner, Plan, even_lengths, random_stream
from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import PairRelations, Relations
from lit_metric.data.relations.lookup import stable_sort, unique

log = logging.getLogger(__name__)

_TURNS = 1 << 62
"""Stands for an epoch that no run has: the random stream that all epochs share."""


class PairPlanner(BatchPlanner):
    """Each anchor with a positive, in batches whose other candidates are true negatives of it.

    Two pairs clash if the candidate of one is a positive of the other's anchor, is ignored by it or equals it
    in content, or if the two candidates are equal. Of two pairs that clash, only one is in a batch: the other
    goes into another batch. A pair that clashes in every batch with room is left out of this epoch. The
    number of such pairs is logged once, and again for an epoch with more than twice as many. With few
    distinct candidates, smaller or more batches hold more pairs.

    An anchor with several positives takes another one each epoch, and so all of them in turn.

    Args:
        batch_size: the largest number of pairs in a batch, at least 2.
        negatives: how many given negatives of an anchor are added to the candidates, drawn again each epoch;
            fewer where it has fewer, or where they clash with the batch.
        pairs: ``"one"``: each anchor once an epoch; ``"all"``: each positive pair once.
        batches: batches per epoch; by default as many as hold all, ``ceil(pairs / batch_size)``. With fewer,
            other pairs come each epoch; with more, batches are smaller.

    Raises:
        ValueError: when an argument is out of range. ``plan`` raises :class:`~lit_metric.data.DataError` when
            no item has a positive, and ``TypeError`` when the relations are not made of pairs.

    Example:
        >>> anchors, answers = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 3])
        >>> relations = PairRelations(anchors, answers, None, fingerprints=torch.arange(5))
        >>> plan = PairPlanner(batch_size=2).plan(anchors, relations, seed=0, epoch=0)
        >>> sorted(plan.candidates.tolist(), key=len)  # 0 and 2 have the same answer
        [[3], [3, 4]]
    """

    def __init__(
        self,
        batch_size: int = 64,
        negatives: int = 0,
        pairs: Literal["one", "all"] = "one",
        batches: int | None = None,
    ) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 for pairs to meet, not {batch_size}")
        if negatives < 0 or (batches is not None and batches < 1):
            raise ValueError(f"negatives={negatives} must be at least 0, batches={batches} at least 1")
        if pairs not in ("one", "all"):
            raise ValueError(f"pairs must be 'one' for each anchor or 'all', not {pairs!r}")
        self.batch_size = batch_size
        self.negatives = negatives
        self.pairs: Literal["one", "all"] = pairs
        self.batches = batches
        self._most_logged = 0

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        given, ids = pair_relations(relations, self), unique(ids.cpu())
        anchors, candidates = positive_pairs(ids, given, seed, epoch, self.pairs)
        random = random_stream(seed, epoch)
        batches = self._count(len(anchors))
        used = torch.from_numpy(random.permutation(len(anchors)))[: batches * self.batch_size]
        anchors, candidates = anchors[used], candidates[used]
        placement = Placement(given.contents[anchors], given.contents[candidates], given.clashes)
        batch_of = placement.batches(even_lengths(len(used), batches), self.batch_size)
        placed = (batch_of >= 0).nonzero()[:, 0]
        self._log_left_out(epoch, len(used) - len(placed), len(used))
        placed = placed[stable_sort(batch_of[placed], batches)[1]]
        batch_of, anchors, candidates = batch_of[placed], anchors[placed], candidates[placed]
        rows = Ragged.from_lengths(anchors, torch.bincount(batch_of, minlength=batches))
        if not self.negatives:
            return Plan(rows, Ragged.from_lengths(candidates, rows.lengths))
        of_batch, negatives = self._given_negatives(batch_of, batches, anchors, given, random)
        of_batch, negatives = torch.cat([batch_of, of_batch]), torch.cat([candidates, negatives])
        order = stable_sort(of_batch, batches)[1]
        return Plan(rows, Ragged.from_lengths(negatives[order], torch.bincount(of_batch, minlength=batches)))

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        """The number of batches of every epoch, without a plan of one."""
        given = pair_relations(relations, self)
        return self._count(len(positive_pairs(unique(ids.cpu()), given, seed, 0, self.pairs)[0]))

    def _count(self, pairs: int) -> int:
        return min(self.batches or -(-pairs // self.batch_size), pairs)

    def _log_left_out(self, epoch: int, left_out: int, pairs: int) -> None:
        """Log how many pairs have no place.

        Once, because an epoch may be planned again and other epochs leave out about as many; and not in a
        loader's worker, which doesn't know what was logged before.
        """
        if left_out <= 2 * self._most_logged or get_worker_info() is not None:
            return
        self._most_logged = left_out
        log.info(
            "epoch %d leaves out %d of %d pairs: they share texts or positives with pairs of every batch "
            "that has room; smaller or more batches would hold more of them",
            epoch,
            left_out,
            pairs,
        )

    def _given_negatives(
        self,
        batch_of: Tensor,
        batches: int,
        anchors: Tensor,
        relations: PairRelations,
        random: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """At most ``negatives`` given negatives of each anchor that clash with no other anchor of its batch.

        Returns:
            Batches and ids ``[n]`` of the negatives; contents are distinct within a batch and its candidates.
        """
        given = relations.given_negatives(anchors)
        rows = given.segment_ids
        contents = relations.contents
        keys, place_of = (contents[given.values] * batches + batch_of[rows]).unique(return_inverse=True)
        # A content equal to another anchor's candidate clashes with that anchor.
        clash = torch.zeros(len(keys), dtype=torch.bool)
        for _, met in Placement.meetings(batch_of, batches, contents[anchors], relations.clashes, keys):
            clash[met] = True
        order = torch.from_numpy(random.permutation(len(rows)))
        order = order[~clash[place_of[order]]]
        order = order[stable_sort(rows[order], len(anchors))[1]]
        of_anchors = Ragged.from_lengths(order, torch.bincount(rows[order], minlength=len(anchors)))
        order = order[of_anchors.positions < self.negatives]
        # A negative that two anchors share is a candidate once.
        order = order[np.unique(place_of[order].numpy(), return_index=True)[1]]
        return batch_of[rows[order]], given.values[order]


class ScoredPairPlanner(BatchPlanner):
    """All judged pairs in random order, each once per epoch, whatever their grade.

    A batch holds each item once on either side. So a loss may also find judged pairs in a batch that were
    dealt to other batches.

    Args:
        batch_size: the largest number of judged pairs in a batch, at least 1. An epoch has ``ceil(pairs /
            batch_size)`` batches, whose sizes differ by at most one.
        together: whether all judged candidates of an anchor come in one batch, for losses that compare them,
            such as ``MarginMSELoss`` and ``DistillationKLLoss``. Batches then have equal numbers of anchors,
            and ``batch_size`` is the mean number of their pairs.

    Raises:
        ValueError: when ``batch_size`` is below 1. ``plan`` raises :class:`~lit_metric.data.DataError` when
            no pair was judged, and ``TypeError`` when the relations are not made of pairs.

    Example:
        >>> first, second = torch.tensor([0, 0, 1]), torch.tensor([2, 3, 3])
        >>> relations = PairRelations(first, second, torch.tensor([0.1, 0.9, 0.4]), torch.arange(4))
        >>> plan = ScoredPairPlanner(batch_size=3).plan(torch.arange(2), relations, seed=0, epoch=0)
        >>> plan.anchors.tolist(), plan.candidates.tolist()
        ([[0, 1]], [[2, 3]])
    """

    def __init__(self, batch_size: int = 64, together: bool = False) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self.together = together

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        anchors, candidates = self._judged(ids, relations)
        of_anchor = anchors.unique_consecutive(return_inverse=True)[1]  # they come by anchor
        dealt, batches = self._counts(anchors)
        batch_of = torch.empty(dealt, dtype=torch.int64)
        order = torch.from_numpy(random_stream(seed, epoch).permutation(dealt))
        batch_of[order] = torch.arange(batches).repeat_interleave(even_lengths(dealt, batches))
        if self.together:
            batch_of = batch_of[of_anchor]
        rows, size = [], len(relations)
        for side in (anchors, candidates):
            keys = unique(batch_of * size + side)
            rows.append(Ragged.from_lengths(keys % size, torch.bincount(keys // size, minlength=batches)))
        return Plan(rows[0], rows[1])

    def length(self, ids: Tensor, relations: Relations, seed: int) -> int:
        """The number of batches of every epoch, without a plan of one."""
        return self._counts(self._judged(ids, relations)[0])[1]

    def _judged(self, ids: Tensor, relations: Relations) -> tuple[Tensor, Tensor]:
        """Anchors and candidates of the judged pairs, by anchor."""
        anchors, candidates, _ = pair_relations(relations, self).judgements(unique(ids.cpu()))
        if not len(anchors):
            raise DataError(
                f"none of the {len(ids)} items to train on is judged with another: check the pairs"
            )
        return anchors, candidates

    def _counts(self, anchors: Tensor) -> tuple[int, int]:
        """How many pairs or anchors are dealt out, and the number of batches."""
        dealt = len(anchors.unique_consecutive()) if self.together else len(anchors)
        return dealt, min(-(-len(anchors) // self.batch_size), dealt)


def pair_relations(relations: Relations, planner: BatchPlanner) -> PairRelations:
    """The relations on the CPU, if they are made of pairs.

    Raises:
        TypeError: when they are not.
    """
    if not isinstance(relations, PairRelations):
        raise TypeError(
            f"{type(planner).__name__} plans pairs, and {type(relations).__name__} has none; for "
            "labels take planner=PKPlanner()"
        )
    return relations.to("cpu")


def positive_pairs(
    ids: Tensor, relations: PairRelations, seed: int, epoch: int, pairs: Literal["one", "all"] = "one"
) -> tuple[Tensor, Tensor]:
    """Anchors among ``ids`` and positives of them, ``[n]`` each.

    Args:
        ids: distinct items.
        relations: on the CPU.
        seed: decides which positive of an anchor is first.
        epoch: from 0. With ``"one"``, an anchor has another positive each epoch, and so all of them in turn.
        pairs: ``"one"`` positive for each anchor, or ``"all"`` positive pairs.

    Raises:
        DataError: if no item has a positive.
    """
    if pairs == "one":
        starts, counts = relations.positive_spans(ids)
        anchors, starts, counts = ids[counts > 0], starts[counts > 0], counts[counts > 0]
        first = torch.from_numpy(random_stream(seed, _TURNS).random(len(anchors)))
        candidates = relations.positive_at(starts + ((first * counts).long() + epoch) % counts)
    else:
        anchors, candidates, _ = relations.judgements(ids)
        positive = relations.positive_pairs(anchors, candidates)
        anchors, candidates = anchors[positive], candidates[positive]
    if not len(anchors):
        raise DataError(
            f"none of the {len(ids)} items to train on has a positive: check the pairs, or from which grade "
            "on they are positive"
        )
    return anchors, candidates
