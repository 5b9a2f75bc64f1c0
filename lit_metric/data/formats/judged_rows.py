"""Judged rows as arrays: anchors, and the texts that each row judges for its anchor.

No row is a Python object. Texts are :class:`~lit_metric.data.Texts`, and rows hold numbers of places there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.dataset import GivenTriplets
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations.lookup import spread, stable_sort


@dataclass(frozen=True, eq=False)
class JudgedRows:
    """Rows of one table: an anchor each, and the texts that the row judges for it.

    Args:
        table: its name.
        rows: ``[n]`` int64, their numbers there, from 0.
        anchors: ``[n]`` places of texts.
        others: ``[n]`` rows of places of texts that are compared with the anchor.
        negatives: ``[n]`` rows of places of texts that do not belong to the anchor, each once; None
            if there are none.
        scores: ``[n]`` float64, how well the anchor and each of the ``others`` belong together; None if they
            just do.
        units: ``[n]`` rows of one unit stay together when some are held out for validation; None: the texts
            of the anchors are the units.
        groups: ``[n]`` the group in which each row is measured, or None.
    """

    table: str
    rows: Tensor
    anchors: Tensor
    others: Ragged
    negatives: Ragged | None = None
    scores: Tensor | None = None
    units: Tensor | None = None
    groups: list[str | None] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, places: Tensor) -> JudgedRows:
        """The rows at ``places [m]``, rising."""
        if len(places) == len(self):
            return self
        return replace(
            self,
            rows=self.rows[places],
            anchors=self.anchors[places],
            others=self.others.select(places),
            negatives=None if self.negatives is None else self.negatives.select(places),
            scores=None if self.scores is None else self.scores[places],
            units=None if self.units is None else self.units[places],
            groups=None if self.groups is None else [self.groups[place] for place in places.tolist()],
        )

    def all_texts(self) -> tuple[Tensor, Tensor]:
        """``[total]`` the places of all texts, row by row, and ``[total]`` whether each is an anchor."""
        parts = [Ragged(self.anchors, torch.arange(len(self) + 1)), self.others]
        parts += [] if self.negatives is None else [self.negatives]
        lengths = torch.stack([part.lengths for part in parts])
        ends = lengths.sum(0).cumsum(0)
        places = torch.empty(int(lengths.sum()), dtype=torch.int64)
        is_anchor = torch.zeros(len(places), dtype=torch.bool)
        before = ends - lengths.sum(0)
        is_anchor[before] = True
        for part, length in zip(parts, lengths, strict=True):
            places[spread(before, length)[1]] = part.values
            before = before + length
        return places, is_anchor


RowsBySplit = dict[str, JudgedRows]


@dataclass(frozen=True, eq=False)
class NumberedRows:
    """The rows of a split with ids of items for places of texts.

    Args:
        rows: of the split.
        anchors: ``[n]`` ids.
        others: ``[n]`` rows of ids.
        negatives: ``[n]`` rows of ids, or None.
    """

    rows: JudgedRows
    anchors: Tensor
    others: Ragged
    negatives: Ragged | None

    @classmethod
    def of(cls, rows: JudgedRows, numbers: Tensor, is_anchor: Tensor) -> NumberedRows:
        """The ids ``numbers [total]`` of :meth:`JudgedRows.all_texts`."""
        rest, negatives = numbers[~is_anchor], rows.negatives
        if negatives is None:
            return cls(rows, numbers[is_anchor], Ragged(rest, rows.others.offsets), None)
        both = Ragged.from_lengths(rest, rows.others.lengths + negatives.lengths)
        judged = both.positions < rows.others.lengths[both.segment_ids]
        others = Ragged(rest[judged], rows.others.offsets)
        return cls(rows, numbers[is_anchor], others, Ragged(rest[~judged], negatives.offsets))

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, anchor and other of each pair."""
        rows = self.others.segment_ids
        return rows, self.anchors[rows], self.others.values

    def judged(self, symmetric: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Row, anchor, candidate and grade of each judgement, row by row.

        Args:
            symmetric: whether a negative of an anchor is one of the texts that belong to it, too.
        """
        rows, anchors, candidates = self.pairs()
        grades = torch.ones(len(rows)) if self.rows.scores is None else self.rows.scores[rows].float()
        differ = anchors != candidates
        found = [part[differ] for part in (rows, anchors, candidates, grades)]
        if self.negatives is None or not len(self.negatives.values):
            return found[0], found[1], found[2], found[3]
        ones = Ragged(self.anchors, torch.arange(len(self.anchors) + 1))
        if symmetric:
            # Each of [anchor, *others] once.
            lengths = self.others.lengths + 1
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            values = torch.empty(int(offsets[-1]), dtype=torch.int64)
            values[offsets[:-1]] = self.anchors
            values[spread(offsets[:-1] + 1, self.others.lengths)[1]] = self.others.values
            ones = once_in_row(Ragged(values, offsets), values)
        owners = self.negatives.segment_ids
        of_negative, places = spread(ones.offsets[owners], ones.lengths[owners])
        more = owners[of_negative], ones.values[places], self.negatives.values[of_negative]
        whole = [torch.cat(each) for each in zip(found, (*more, torch.zeros(len(places))), strict=True)]
        order = stable_sort(whole[0], len(self.anchors))[1]  # after the pairs of their row
        return whole[0][order], whole[1][order], whole[2][order], whole[3][order]

    def triplets(self) -> GivenTriplets | None:
        """Each pair with each negative of its row; None if there are no negatives."""
        if self.negatives is None or not len(self.negatives.values):
            return None
        rows, anchors, others = self.pairs()
        of_pair, places = spread(self.negatives.offsets[rows], self.negatives.lengths[rows])
        groups = self.rows.groups
        named = None
        if groups is not None:
            named = [str(groups[row]) for row in rows[of_pair].tolist() if groups[row]]
        return GivenTriplets(anchors[of_pair], others[of_pair], self.negatives.values[places], named or None)


def once_in_row(rows: Ragged, contents: Tensor) -> Ragged:
    """Each content of a row at its first place only.

    Args:
        rows: to be shortened.
        contents: ``[total]`` int64, not negative, of the values of ``rows``.

    Example:
        >>> rows = Ragged.from_lists([[5, 6, 7], [5]])
        >>> once_in_row(rows, torch.tensor([1, 2, 1, 1])).tolist()
        [[5, 6], [5]]
    """
    owners = rows.segment_ids
    keys = owners * (int(contents.max()) + 1 if len(contents) else 1) + contents
    kept = torch.from_numpy(np.sort(np.unique(keys.numpy(), return_index=True)[1]))
    if len(kept) == len(owners):
        return rows
    return Ragged.from_lengths(rows.values[kept], torch.bincount(owners[kept], minlength=len(rows)))
