"""Pairs without false negatives, and judged pairs with their scores."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from lit_metric.batching.clashes import meetings, place
from lit_metric.batching.plan import BatchPlanner, Plan, even_lengths, random_stream
from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import PairRelations, Relations

log = logging.getLogger(__name__)

_TURNS = 1 << 62
"""Stands for an epoch that no run has: the stream that all epochs share."""


class PairPlanner(BatchPlanner):
    """Each anchor with a positive, in batches whose other candidates are true negatives of it.

    Of two pairs with a clash, only one is in a batch: neither's candidate may be a positive of the other's
    anchor, be ignored by it, or equal it in content, nor may the two candidates be equal. A pair that clashes
    where it was dealt goes into another batch. One that clashes in every batch with room is left out of this
    epoch, and how many were is logged: once, and again of an epoch with more than twice as many. With few
    distinct candidates, smaller or more batches hold more.

    An anchor with several positives takes another one each epoch, and so all of them in turn.

    Args:
        batch_size: the largest number of pairs in a batch, at least 2.
        negatives: how many of the negatives that were given for an anchor are added to the candidates, drawn
            anew each epoch; fewer where it has fewer, or where they clash with the batch.
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
        self._told = 0

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        given = given_pairs(relations, self)
        anchors, candidates = self._pairs(ids.unique().cpu(), given, seed, epoch)
        random = random_stream(seed, epoch)
        batches = min(self.batches or -(-len(anchors) // self.batch_size), len(anchors))
        used = torch.from_numpy(random.permutation(len(anchors)))[: batches * self.batch_size]
        anchors, candidates = anchors[used], candidates[used]
        own, other = given.contents[anchors], given.contents[candidates]
        batch_of = place(own, other, given.clashes, even_lengths(len(used), batches), self.batch_size)
        kept = (batch_of >= 0).nonzero()[:, 0]
        self._tell(epoch, len(used) - len(kept), len(used))
        kept = kept[batch_of[kept].argsort(stable=True)]
        batch_of, anchors, candidates = batch_of[kept], anchors[kept], candidates[kept]
        rows = Ragged.from_lengths(anchors, torch.bincount(batch_of, minlength=batches))
        if not self.negatives:
            return Plan(rows, Ragged.from_lengths(candidates, rows.lengths))
        of_batch, negatives = _negatives(batch_of, anchors, given, self.negatives, random)
        of_batch, negatives = torch.cat([batch_of, of_batch]), torch.cat([candidates, negatives])
        order = of_batch.argsort(stable=True)
        return Plan(rows, Ragged.from_lengths(negatives[order], torch.bincount(of_batch, minlength=batches)))

    def _tell(self, epoch: int, without: int, pairs: int) -> None:
        """Say how many have no place: once, as an epoch may be planned again and others leave out about as
        many, and not in a loader's worker, which doesn't know what was said."""
        if without <= 2 * self._told or get_worker_info() is not None:
            return
        self._told = without
        log.info(
            "epoch %d leaves out %d of %d pairs: they share texts or positives with pairs of every batch "
            "that has room; smaller or more batches would hold more of them",
            epoch,
            without,
            pairs,
        )

    def _pairs(self, ids: Tensor, relations: PairRelations, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        if self.pairs == "one":
            return one_positive_each(ids, relations, seed, epoch)
        anchors, candidates, _ = relations.judgements(ids)
        positive = relations.positive_pairs(anchors, candidates)
        anchors, candidates = anchors[positive], candidates[positive]
        require_positives(anchors, ids)
        return anchors, candidates


class ScoredPairPlanner(BatchPlanner):
    """All judged pairs in random order, each once per epoch, whatever their grade.

    A batch holds each item once on either side, so a loss may also find judged pairs in it that were dealt to
    other batches.

    Args:
        batch_size: the largest number of judged pairs in a batch, at least 1. An epoch has ``ceil(pairs /
            batch_size)`` batches, whose sizes differ by at most one.
        together: whether all judged candidates of an anchor come in one batch, for losses that compare them,
            such as ``MarginMSELoss`` and ``DistillationKLLoss``. Batches then have equal numbers of anchors,
            and ``batch_size`` is the mean of their pairs.

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
        given = given_pairs(relations, self)
        anchors, candidates, _ = given.judgements(ids.unique().cpu())
        if not len(anchors):
            raise DataError(
                f"none of the {len(ids)} items to train on is judged with another: check the pairs"
            )
        distinct, of_anchor = anchors.unique(return_inverse=True)
        dealt = len(distinct) if self.together else len(anchors)
        batches = min(-(-len(anchors) // self.batch_size), dealt)
        batch_of = torch.empty(dealt, dtype=torch.int64)
        order = torch.from_numpy(random_stream(seed, epoch).permutation(dealt))
        batch_of[order] = torch.arange(batches).repeat_interleave(even_lengths(dealt, batches))
        if self.together:
            batch_of = batch_of[of_anchor]
        return Plan(
            _distinct(batch_of, anchors, batches, len(given)),
            _distinct(batch_of, candidates, batches, len(given)),
        )


def one_positive_each(ids: Tensor, relations: PairRelations, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Those of ``ids`` that have positives, and one of these for each, ``[n]``.

    Another one each epoch, and so all of them in turn; with which one that begins, the seed says.

    Raises:
        DataError: if there are none.
    """
    positives = relations.all_positives(ids)
    counts = positives.lengths
    anchors, starts, counts = ids[counts > 0], positives.offsets[:-1][counts > 0], counts[counts > 0]
    first = torch.from_numpy(random_stream(seed, _TURNS).random(len(anchors)))
    candidates = positives.values[starts + ((first * counts).long() + epoch) % counts]
    require_positives(anchors, ids)
    return anchors, candidates


def require_positives(anchors: Tensor, ids: Tensor) -> None:
    """Refuse to plan if there are no ``anchors`` among ``ids``."""
    if not len(anchors):
        raise DataError(
            f"none of the {len(ids)} items to train on has a positive: check the pairs, or from which grade "
            "on they are positive"
        )


def given_pairs(relations: Relations, planner: BatchPlanner) -> PairRelations:
    """The relations, if they are made of pairs, on the CPU.

    Raises:
        TypeError: when they are not.
    """
    if not isinstance(relations, PairRelations):
        raise TypeError(
            f"{type(planner).__name__} deals out pairs, and {type(relations).__name__} has none; for "
            "labels take planner=PKPlanner()"
        )
    return relations.to("cpu")


def _distinct(batch_of: Tensor, ids: Tensor, batches: int, size: int) -> Ragged:
    """The distinct ``ids`` of each batch, ascending."""
    keys = (batch_of * size + ids).unique()
    return Ragged.from_lengths(keys % size, torch.bincount(keys // size, minlength=batches))


def _negatives(
    batch_of: Tensor, anchors: Tensor, relations: PairRelations, count: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Given negatives of each anchor, at most ``count``, that no other anchor of its batch clashes with.

    Returns:
        Batches and ids ``[n]`` of the negatives; contents are distinct within a batch and its candidates.
    """
    given = relations.given_negatives(anchors)
    rows = given.segment_ids
    contents, size = relations.contents, relations.clashes.size
    keys, place_of = (batch_of[rows] * size + contents[given.values]).unique(return_inverse=True)
    # A content equal to another anchor's candidate clashes with that anchor.
    clash = torch.zeros(len(keys), dtype=torch.bool)
    for _, met in meetings(batch_of, contents[anchors], relations.clashes, keys):
        clash[met] = True
    order = torch.from_numpy(random.permutation(len(rows)))
    order = order[~clash[place_of[order]]]
    order = order[rows[order].argsort(stable=True)]
    of_anchors = Ragged.from_lengths(order, torch.bincount(rows[order], minlength=len(anchors)))
    order = order[of_anchors.positions < count]
    # What two anchors share is there for both.
    order = order[np.unique(place_of[order].numpy(), return_index=True)[1]]
    return batch_of[rows[order]], given.values[order]
