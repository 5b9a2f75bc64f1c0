"""Which batch a pair goes into, such that no batch holds a false negative."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.data.ragged import offsets_of
from lit_metric.data.relations.lookup import PairSet, spread, stable_sort, unique

_BLOCK = 1 << 22
"""Clashes that are looked up together."""
_TABLE = 1 << 27
"""Bytes of a table of candidates and batches."""


class Placement:
    """Puts pairs into batches such that no batch holds a false negative.

    Args:
        own: ``[n]`` contents of the pairs' anchors.
        other: ``[n]`` contents of their candidates.
        clashes: which contents must not meet as anchor and candidate of different pairs. It holds each of the
            pairs, so that pairs with equal candidates clash, too.
    """

    def __init__(self, own: Tensor, other: Tensor, clashes: PairSet) -> None:
        self.own = own
        self.other = other
        self.clashes = clashes

    def batches(self, lengths: Tensor, capacity: int) -> Tensor:
        """The batch of each pair, such that no anchor meets another pair's candidate that it clashes with.

        Pairs are dealt out in their order. Of two that clash in a batch the later one leaves it, and goes
        into the emptiest batch that has room and no pair that it clashes with.

        Args:
            lengths: ``[batches]`` how many pairs are dealt to each batch; they sum to ``n``.
            capacity: how many fit into a batch.

        Returns:
            ``[n]`` int64, -1 for a pair that no batch with room can take.
        """
        batch_of = torch.arange(len(lengths)).repeat_interleave(lengths)
        batch_of[self._late(batch_of, len(lengths))] = -1
        waiting = (batch_of < 0).nonzero()[:, 0]
        if len(waiting):
            batch_of[waiting] = self._fill(batch_of, waiting, len(lengths), capacity)
        return batch_of

    @staticmethod
    def meetings(
        batch_of: Tensor, batches: int, own: Tensor, clashes: PairSet, keys: Tensor, least: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Where an anchor's batch holds a content that the anchor clashes with.

        Args:
            batch_of: ``[n]`` the batch of each anchor.
            batches: how many there are.
            own: ``[n]`` contents of the anchors.
            clashes: see :class:`Placement`.
            keys: ``[K]`` rising, ``content * batches + batch`` of what the batches hold.
            least: anchors that clash with fewer contents of all batches are left out.

        Yields:
            Positions of anchors, and of keys, in parts that do not take much memory.
        """
        near = clashes.among(keys // batches)
        starts, sizes = near.spans(own)
        some = (sizes >= least).nonzero()[:, 0]
        starts, sizes = starts[some], sizes[some]
        ends = (sizes.cumsum(0) // _BLOCK).diff().nonzero()[:, 0] + 1
        for part in torch.arange(len(some)).tensor_split(ends):
            owners, entries = spread(starts[part], sizes[part])
            owners = some[part][owners]
            wanted = near.keys[entries] % near.size * batches + batch_of[owners]
            at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
            found = keys[at] == wanted
            yield owners[found], at[found]

    def _late(self, batch_of: Tensor, batches: int) -> Tensor:
        """``[n]`` bool: the pairs that clash with an earlier one of their batch."""
        contents, order = stable_sort(self.other, self.clashes.size)
        keys = contents * batches + batch_of[order]  # rising, as batches rise with places
        late = torch.zeros(len(self.own), dtype=torch.bool)
        late[order[1:][keys[1:] == keys[:-1]]] = True
        first = ~late[order]
        holders, held = order[first], keys[first]  # by key, one for each content that a batch holds
        rest = (~late).nonzero()[:, 0]
        # Who clashes with one content only clashes with the own candidate.
        for anchors, places in self.meetings(
            batch_of[rest], batches, self.own[rest], self.clashes, held, least=2
        ):
            one, two = rest[anchors], holders[places]
            clash = one != two
            late[torch.maximum(one[clash], two[clash])] = True
        return late

    def _fill(self, batch_of: Tensor, waiting: Tensor, batches: int, capacity: int) -> Tensor:
        """The batch of each of the ``waiting`` pairs, placed in their order, or -1."""
        held = torch.bincount(batch_of[batch_of >= 0], minlength=batches)
        room = (capacity - held).clamp_(min=0).numpy()
        room = room.astype(np.min_scalar_type(int(room.max())))
        left, result = int(room.sum(dtype=np.int64)), torch.full((len(waiting),), -1)
        if not left:
            return result
        closed = _Closed(self, batch_of, waiting, batches)
        full: set[int] = set()  # candidates that no batch can take, now or later
        for place in range(len(waiting)):
            row, column = closed.rows[place], closed.columns[place]
            if column in full:
                continue
            free = room * closed.open_to(column)
            others = closed.to_anchor(row, column)
            for batches_of_other in others:
                free[batches_of_other] = 0
            batch = int(free.argmax())
            if free[batch]:
                result[place] = batch
                closed.add(row, column, batch)
                room[batch] -= 1
                left -= 1
                if not left:
                    break
            elif not others or not (room * closed.open_to(column)).any():
                full.add(column)
        return result


class _Closed:
    """Which batches can't take a waiting pair: those that hold what its anchor or its candidate clashes with.

    Args:
        placement: the pairs.
        batch_of: ``[n]`` their batches, -1 for none yet.
        waiting: ``[W]`` places of pairs to be placed.
        batches: how many there are.

    Attributes:
        rows: the number of the anchor of each waiting pair, among the distinct ones.
        columns: the same of its candidate.
    """

    def __init__(self, placement: Placement, batch_of: Tensor, waiting: Tensor, batches: int) -> None:
        clashes, self._batches = placement.clashes, batches
        anchors, candidates = unique(placement.own[waiting]), unique(placement.other[waiting])
        self.rows: list[int] = torch.searchsorted(anchors, placement.own[waiting]).tolist()
        self.columns: list[int] = torch.searchsorted(candidates, placement.other[waiting]).tolist()
        placed = (batch_of >= 0).nonzero()[:, 0]
        self._by_anchor = _Held.of(clashes, anchors, placement.other, placed, batch_of)
        self._by_candidate = _Held.of(clashes.turned(candidates), candidates, placement.own, placed, batch_of)
        # Which waiting candidate each content is that an anchor clashes with, or -1.
        contents = self._by_anchor.contents
        at = torch.searchsorted(candidates, contents).clamp_(max=len(candidates) - 1)
        self._column_of = torch.where(candidates[at] == contents, at, -1).numpy()
        self._open: dict[int, NDArray[np.bool_]] = {}
        self._since: defaultdict[int, list[int]] = defaultdict(list)  # batches closed to a candidate since
        self._got: defaultdict[int, list[int]] = defaultdict(list)  # batches that got a candidate since

    def open_to(self, column: int) -> NDArray[np.bool_]:
        """``[batches]``: those that hold no anchor that clashes with a candidate."""
        table = self._open.get(column)
        if table is None:
            if len(self._open) * self._batches > _TABLE:
                self._open.clear()
            table = self._open[column] = np.ones(self._batches, dtype=np.bool_)
            table[self._by_candidate.of_row(column)] = False
            table[self._since[column]] = False
        return table

    def to_anchor(self, row: int, column: int) -> list[NDArray[np.int64] | list[int]]:
        """The batches that hold what an anchor clashes with, besides its own candidate, in parts."""
        held, found = self._by_anchor, list[NDArray[np.int64] | list[int]]()
        for entry in range(held.ends[row], held.ends[row + 1]):
            other = self._column_of[entry]
            if other == column:
                continue  # batches with the same candidate are closed to that
            if held.counts[entry]:
                found.append(held.of_entry(entry))
            if other in self._got:
                found.append(self._got[other])
        return found

    def add(self, row: int, column: int, batch: int) -> None:
        """Note that a batch has got a waiting pair."""
        self._got[column].append(batch)
        for other in self._column_of[self._by_anchor.ends[row] : self._by_anchor.ends[row + 1]].tolist():
            if other >= 0:
                self._since[other].append(batch)
                if other in self._open:
                    self._open[other][batch] = False


class _Held(NamedTuple):
    """What some contents clash with, and the batches that hold it.

    Attributes:
        ends: where the entries of each row begin, and at the end their number.
        contents: ``[E]`` what a row clashes with.
        starts: ``[E]`` where its batches begin in ``batches``.
        counts: ``[E]`` how many they are.
        batches: by content.
    """

    ends: list[int]
    contents: Tensor
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    batches: NDArray[np.int64]

    @classmethod
    def of(cls, clashes: PairSet, rows: Tensor, sides: Tensor, placed: Tensor, batch_of: Tensor) -> _Held:
        """Look up ``rows``.

        Args:
            clashes: of a row with other contents.
            rows: ``[R]`` contents.
            sides: ``[n]`` the contents of pairs on the other side.
            placed: places of the pairs that have a batch.
            batch_of: ``[n]`` it.
        """
        starts, lengths = clashes.spans(rows)
        contents = clashes.keys[spread(starts, lengths)[1]] % clashes.size
        wanted = torch.zeros(clashes.size, dtype=torch.bool)
        wanted[contents] = True
        near = placed[wanted[sides[placed]]]
        values, order = stable_sort(sides[near], clashes.size)
        first = torch.searchsorted(values, contents)
        counts = torch.searchsorted(values, contents, right=True) - first
        ends = offsets_of(lengths).tolist()
        return cls(ends, contents, first.numpy(), counts.numpy(), batch_of[near[order]].numpy())

    def of_entry(self, entry: int) -> NDArray[np.int64]:
        """The batches that hold the content of an entry."""
        return self.batches[self.starts[entry] : self.starts[entry] + self.counts[entry]]

    def of_row(self, row: int) -> NDArray[np.int64]:
        """The batches that hold anything that a row clashes with; one may come several times."""
        counts = self.counts[self.ends[row] : self.ends[row + 1]]
        starts = self.starts[self.ends[row] : self.ends[row + 1]]
        places = np.repeat(starts - counts.cumsum() + counts, counts) + np.arange(counts.sum())
        return self.batches[places]
