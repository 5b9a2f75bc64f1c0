"""Putting pairs into batches such that no batch holds a false negative."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_metric.data.relations.lookup import PairSet, Sorted

IntArray = npt.NDArray[np.int64]

_HELD = 1 << 22
"""Entries that are looked at together."""


def place(own: Tensor, other: Tensor, clashes: PairSet, lengths: Tensor, capacity: int) -> Tensor:
    """Which batch each pair goes into, so that none meets a candidate that belongs to it or equals its own.

    Pairs are dealt out in their order. Of two that clash in a batch the later one leaves it, and is put into
    the emptiest batch that has room and none that it clashes with.

    Args:
        own: ``[n]`` contents of the pairs' anchors.
        other: ``[n]`` contents of their candidates.
        clashes: which contents must not meet as anchor and candidate of different pairs. Each pair is one of
            them, so that pairs with equal candidates clash too.
        lengths: ``[batches]`` how many pairs are dealt to each batch; they sum to ``n``.
        capacity: how many fit into a batch.

    Returns:
        ``[n]`` int64, -1 for a pair that no batch with room can take.
    """
    batch_of = torch.arange(len(lengths)).repeat_interleave(lengths)
    batch_of[_late(batch_of, own, other, clashes)] = -1
    waiting = (batch_of < 0).nonzero()[:, 0]
    turned = clashes.turned() if len(waiting) else clashes
    while len(waiting):
        part, waiting = waiting.tensor_split([max(1, 8 * _HELD // len(lengths))])
        tables = _Tables(batch_of, own, other, clashes, turned, len(lengths))
        batch_of[part], hopeless = tables.place(own[part], other[part], capacity)
        waiting = waiting[~torch.isin(other[waiting], hopeless)]
    return batch_of


def meetings(
    batch_of: Tensor, own: Tensor, clashes: PairSet, keys: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Where an anchor's batch holds a content that the anchor clashes with.

    Args:
        batch_of: ``[n]`` the batch of each anchor.
        own: ``[n]`` contents of the anchors.
        clashes: see :func:`place`.
        keys: ``[K]`` rising, ``batch * clashes.size + content`` of what the batches hold.

    Yields:
        Positions of anchors, and of keys, in parts that do not take much memory.
    """
    if not len(keys):
        return
    sizes = clashes.lengths(own)
    for part in torch.arange(len(own)).tensor_split((sizes.cumsum(0) // _HELD).diff().nonzero()[:, 0] + 1):
        owners, entries = clashes.entries(own[part])
        wanted = batch_of[part][owners] * clashes.size + clashes.keys[entries] % clashes.size
        at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        found = keys[at] == wanted
        yield part[owners[found]], at[found]


def _late(batch_of: Tensor, own: Tensor, other: Tensor, clashes: PairSet) -> Tensor:
    """``[n]`` bool: the pairs that clash with an earlier one of their batch."""
    keys, order = (batch_of * clashes.size + other).sort(stable=True)
    late = torch.zeros(len(own), dtype=torch.bool)
    late[order[1:][keys[1:] == keys[:-1]]] = True
    holders = order[~late[order]]  # by key, one for each content that a batch holds
    rest = (~late).nonzero()[:, 0]
    for anchors, places in meetings(batch_of[rest], own[rest], clashes, keys[~late[order]]):
        first, second = rest[anchors], holders[places]
        clash = first != second
        late[torch.maximum(first, second)[clash]] = True
    return late


class _Tables:
    """The pairs placed so far, and which batches others can not join them in."""

    def __init__(
        self, batch_of: Tensor, own: Tensor, other: Tensor, clashes: PairSet, turned: PairSet, batches: int
    ) -> None:
        placed = (batch_of >= 0).nonzero()[:, 0]
        self.batch_of = batch_of[placed]
        self.own, self.other = Sorted.of(own[placed]), Sorted.of(other[placed])
        self.clashes, self.turned = clashes, turned
        self.batches = batches

    def place(self, own: Tensor, other: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """The batch of each of ``n`` waiting pairs in their order, or -1; and the candidates without hope."""
        room = (capacity - torch.bincount(self.batch_of, minlength=self.batches)).numpy()
        result = torch.full((len(own),), -1)
        candidates, columns = other.unique(return_inverse=True)
        candidate_shut = self._shut(self.turned, candidates, self.own)
        # What has no place now never will: many pairs with few candidates end here.
        open_to = np.any(~candidate_shut & (room > 0), axis=1)
        hopeful = np.flatnonzero(open_to[columns.numpy()])
        anchors, rows = own[hopeful].unique(return_inverse=True)
        anchor_shut = self._shut(self.clashes, anchors, self.other)
        anchors_of = _rows(self.turned, candidates, anchors)
        candidates_of = _rows(self.clashes, anchors, candidates)
        for place, row, column in zip(hopeful, rows.tolist(), columns[hopeful].tolist(), strict=True):
            left = np.where(anchor_shut[row] | candidate_shut[column], 0, room)
            batch = int(left.argmax())
            if left[batch] <= 0:
                continue
            result[place] = batch
            room[batch] -= 1
            anchor_shut[anchors_of[column], batch] = True
            candidate_shut[candidates_of[row], batch] = True
        return result, candidates[torch.from_numpy(~open_to)]

    def _shut(self, pairs: PairSet, contents: Tensor, held: Sorted) -> npt.NDArray[np.bool_]:
        """``[contents, batches]``: those that hold what a content is paired with."""
        shut = torch.zeros(len(contents), self.batches, dtype=torch.bool)
        for rows in torch.arange(len(contents)).split(max(1, _HELD // self.batches)):
            found, where, _ = pairs.join(contents[rows], held)
            shut[rows[found], self.batch_of[where]] = True
        return shut.numpy()


def _rows(pairs: PairSet, rows: Tensor, columns: Tensor) -> list[IntArray]:
    """For each of ``rows``, the places within the sorted ``columns`` of what it is paired with."""
    owners, places, _ = pairs.join(rows, Sorted.of(columns))
    counts = torch.bincount(owners, minlength=len(rows))
    return [part.numpy() for part in places.split(counts.tolist())]
