"""Rows of several short texts each, such as tags, without a Python object for each."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from lit_metric.data.texts import Integers

BLOCK = 16384
"""Rows that are made to lists at once."""


class TextSets(Sequence[list[str]]):
    """Rows of distinct texts. Each text is kept once, and rows are numbers of texts.

    Args:
        names: distinct texts.
        numbers: ``[t]`` int32, the places in ``names`` of the texts of all rows, one row after the other.
        offsets: ``[n + 1]`` int64, where each row begins and ends in ``numbers``.

    Example:
        >>> rows = TextSets.of([["red", "round", "red"], [], ["round"]])
        >>> rows[0], rows[1:], rows.numbers.tolist()
        (['red', 'round'], [[], ['round']], [0, 1, 1])
    """

    def __init__(self, names: list[str], numbers: npt.NDArray[np.int32], offsets: Integers) -> None:
        self.names = names
        self.numbers = numbers
        self.offsets = offsets

    @classmethod
    def of(cls, rows: Iterable[Iterable[str]]) -> TextSets:
        """Of each row, a text counts once, at its first place."""
        known: dict[str, int] = {}
        numbers, offsets = array("i"), array("q", [0])
        for row in rows:
            numbers.extend(known.setdefault(text, len(known)) for text in dict.fromkeys(row))
            offsets.append(len(numbers))
        return cls([*known], np.array(numbers, dtype=np.int32), np.array(offsets, dtype=np.int64))

    @classmethod
    def joined(cls, parts: Iterable[TextSets]) -> TextSets:
        """The rows of all parts, one after the other."""
        known: dict[str, int] = {}
        numbers, offsets, end = [np.empty(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)], 0
        for part in parts:
            places = [known.setdefault(name, len(known)) for name in part.names]
            numbers.append(np.array(places, dtype=np.int32)[part.numbers])
            offsets.append(part.offsets[1:] + end)
            end += len(part.numbers)
        return cls([*known], np.concatenate(numbers), np.concatenate(offsets))

    def select(self, places: Integers) -> TextSets:
        """The rows at ``places [m]``, in that order."""
        lengths = np.diff(self.offsets)[places]
        offsets = np.zeros(len(places) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        moved = np.repeat(self.offsets[:-1][places] - offsets[:-1], lengths)
        return TextSets(self.names, self.numbers[moved + np.arange(offsets[-1])], offsets)

    def numbered(self) -> tuple[list[str], Integers]:
        """The texts in use by first appearance, and for each text of all rows, int64, its place among them.

        Example:
            >>> TextSets.of([["a"], ["c", "b"]]).select(np.array([1])).numbered()
            (['c', 'b'], array([0, 1]))
        """
        first = np.full(len(self.names), -1)
        first[self.numbers[::-1]] = np.arange(len(self.numbers))[::-1]  # the last one that is written stays
        used = np.flatnonzero(first >= 0)
        order = used[np.argsort(first[used])]
        rank = np.zeros(len(self.names), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return [self.names[number] for number in order.tolist()], rank[self.numbers]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> list[str]: ...

    @overload
    def __getitem__(self, place: slice) -> list[list[str]]: ...

    def __getitem__(self, place: int | slice) -> list[str] | list[list[str]]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        start, stop = self.offsets[place : place + 2].tolist()
        return [self.names[number] for number in self.numbers[start:stop].tolist()]

    def __iter__(self) -> Iterator[list[str]]:
        for begin in range(0, len(self), BLOCK):
            ends = self.offsets[begin : begin + BLOCK + 1].tolist()
            texts = [self.names[number] for number in self.numbers[ends[0] : ends[-1]].tolist()]
            for start, stop in itertools.pairwise(ends):
                yield texts[start - ends[0] : stop - ends[0]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(own == theirs for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def without_repeats(
    rows: Sequence[Sequence[str]],
    roles: Sequence[Sequence[str]] | None,
    weights: Sequence[Sequence[float]] | None,
) -> tuple[Sequence[Sequence[str]], Sequence[Sequence[str]] | None, Sequence[Sequence[float]] | None]:
    """Keep each (role, text) of a row once, at its first place, with the largest of its weights.

    Args:
        rows: the texts of each item.
        roles: for each item, a role for each of its texts, or None.
        weights: for each item, a weight for each of its texts, or None.

    Example:
        >>> without_repeats([["a", "b", "a"]], None, [[1.0, 2.0, 3.0]])
        ([['a', 'b']], None, [[3.0, 2.0]])
    """
    if roles is None and weights is None:
        return [row if isinstance(row, str) else list(dict.fromkeys(row)) for row in rows], None, None
    kept: list[dict[tuple[str, str], float]] = []
    for number, row in enumerate(rows):
        names = [""] * len(row) if roles is None else roles[number]
        largest: dict[tuple[str, str], float] = {}
        for place, pair in enumerate(zip(names, row, strict=True)):
            weight = 1.0 if weights is None else weights[number][place]
            largest[pair] = max(weight, largest.get(pair, 0.0))
        kept.append(largest)
    return (
        [[text for _, text in row] for row in kept],
        None if roles is None else [[role for role, _ in row] for row in kept],
        None if weights is None else [list(row.values()) for row in kept],
    )
