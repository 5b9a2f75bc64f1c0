"""Rows of several short texts each, such as tags, without a Python object for each."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from lit_metric.data.texts import Integers, Texts, TextWriter, distinct

BLOCK = 16384
"""Rows that are made to lists at once."""
IN_MEMORY = 1 << 17
"""Distinct texts that are Python strings; further ones are kept as :class:`~lit_metric.data.Texts`."""

Weights = npt.NDArray[np.float32]


class TextSets(Sequence[list[str]]):
    """Rows of texts, each of which may have a role and a weight. Rows are numbers of distinct texts.

    Args:
        names: texts, distinct among those of equal role; a list, or :class:`~lit_metric.data.Texts`.
        numbers: ``[t]`` int32, the places in ``names`` of the texts of all rows, one row after the other.
        offsets: ``[n + 1]`` int64, where each row begins and ends in ``numbers``.
        roles: the role of each of ``names``, or None.
        weights: ``[t]`` float32, how much each of ``numbers`` counts in its row, or None.

    Example:
        >>> rows = TextSets.of([["red", "round", "red"], [], ["round"]])
        >>> rows[0], rows[1:], rows.numbers.tolist()
        (['red', 'round'], [[], ['round']], [0, 1, 1])
        >>> rows = TextSets.of([["red", "round", "red"]], weights=[[1.0, 2.0, 3.0]])
        >>> rows[0], rows.weight_rows()
        (['red', 'round'], [[3.0, 2.0]])
    """

    def __init__(
        self,
        names: Sequence[str],
        numbers: npt.NDArray[np.int32],
        offsets: Integers,
        roles: Sequence[str] | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.names = names
        self.numbers = numbers
        self.offsets = offsets
        self.roles = roles
        self.weights = weights

    @classmethod
    def of(
        cls,
        rows: Iterable[Sequence[str]],
        roles: Sequence[Sequence[str]] | None = None,
        weights: Iterable[Iterable[float]] | None = None,
        repeats: bool = False,
    ) -> TextSets:
        """Number the texts of rows by first appearance.

        Args:
            rows: the texts of each.
            roles: for each row, a role for each of its texts, or None.
            weights: for each row, a weight for each of its texts, or None.
            repeats: keep a text as often as a row has it. Otherwise it counts once in each role, at its first
                place, with the largest of its weights.

        Raises:
            TypeError: when a row, or something in it, is not what it should be.
            ValueError: when a row has more or fewer roles than texts.
        """
        known: dict[Any, int] = {}
        numbers, offsets, all_of = array("i"), array("q", [0]), repeats or weights is not None
        for row, texts in enumerate(rows):
            if isinstance(texts, str):
                raise TypeError(
                    f"item {row} is the string {texts!r:.60}; give a list of texts, such as [text]"
                )
            for text in texts:
                if not isinstance(text, str):
                    raise TypeError(
                        f"item {row} holds {text!r:.60}, a {type(text).__name__}; texts are strings"
                    )
            found: Iterable[Any] = texts if roles is None else zip(roles[row], texts, strict=True)
            found = found if all_of else dict.fromkeys(found)
            numbers.extend(known.setdefault(each, len(known)) for each in found)
            offsets.append(len(numbers))
        names, of_names = [*known], None
        if roles is not None:
            names, of_names = [text for _, text in known], [role for role, _ in known]
        sets = cls(names, np.array(numbers, dtype=np.int32), np.array(offsets, dtype=np.int64), of_names)
        if weights is None:
            return sets
        return sets.weighted(np.fromiter(itertools.chain.from_iterable(weights), np.float32, len(numbers)))

    @classmethod
    def fields(cls, columns: Mapping[str, TextSets]) -> TextSets:
        """Rows that hold the texts of several columns, each in the role by which its column is named.

        Example:
            >>> columns = {"title": TextSets.of([["Up"], ["M"]]), "tag": TextSets.of([["old", "sky"], []])}
            >>> rows = TextSets.fields(columns)
            >>> [*rows], rows.role_rows()
            ([['Up', 'old', 'sky'], ['M']], [['title', 'tag', 'tag'], ['title']])
        """
        parts = [*columns.values()]
        lengths = np.stack([np.diff(part.offsets) for part in parts])  # [columns, n]
        offsets = np.concatenate([[0], lengths.sum(0).cumsum()])
        starts = offsets[:-1] + lengths.cumsum(0) - lengths
        numbers, seen = np.empty(offsets[-1], dtype=np.int32), 0
        for part, start, length in zip(parts, starts, lengths, strict=True):
            places = np.repeat(start - part.offsets[:-1], length)
            places += np.arange(len(places))
            numbers[places] = part.numbers + np.int32(seen)
            seen += len(part.names)
        roles = [role for role, part in columns.items() for _ in range(len(part.names))]
        return cls(_end_to_end([part.names for part in parts]), numbers, offsets, roles)

    @classmethod
    def joined(cls, parts: Sequence[TextSets], folder: str | Path | None = None) -> TextSets:
        """The rows of all parts, one after the other.

        Texts without a role have the role ``""`` if others have one, and a weight of 1 if others have one.

        Args:
            parts: at least one.
            folder: where texts go that are many; see :class:`~lit_metric.data.texts.TextWriter`.
        """
        ends = np.cumsum([0, *(len(part.numbers) for part in parts)])
        offsets = [part.offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
        weights = None
        if any(part.weights is not None for part in parts):
            each = [np.ones(len(p.numbers), np.float32) if p.weights is None else p.weights for p in parts]
            weights = np.concatenate(each)
        names, roles, numbers = parts[0].names, parts[0].roles, [part.numbers for part in parts]
        if any(part.names is not names for part in parts):
            whole = _end_to_end([part.names for part in parts])
            if any(part.roles is not None for part in parts):
                roles = [role for p in parts for role in p.roles or itertools.repeat("", len(p.names))]
            starts = np.cumsum([0, *(len(part.names) for part in parts)])
            names, roles, places = _distinct(whole, roles, folder)
            numbers = [places[start:][each] for start, each in zip(starts, numbers, strict=False)]
        return cls(names, np.concatenate(numbers), np.concatenate([[0], *offsets]), roles, weights)

    def weighted(self, weights: Weights) -> TextSets:
        """Each text of a row once, at its first place, with the largest of its ``weights [t]``."""
        lengths, kept, largest = [], [], []
        for start in range(0, len(self), BLOCK):
            ends = self.offsets[start : start + BLOCK + 1]
            rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
            keys = rows * len(self.names) + self.numbers[ends[0] : ends[-1]]
            _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
            most = np.zeros(len(first), np.float32)
            np.maximum.at(most, inverse.reshape(-1), weights[ends[0] : ends[-1]])
            order = np.argsort(first)
            lengths.append(np.bincount(rows[first], minlength=len(ends) - 1))
            kept.append(self.numbers[ends[0] : ends[-1]][first[order]])
            largest.append(most[order])
        nothing = np.empty(0, np.int64)
        offsets = np.concatenate([[0], np.concatenate([nothing, *lengths]).cumsum()])
        numbers = np.concatenate([nothing.astype(np.int32), *kept])
        return TextSets(
            self.names, numbers, offsets, self.roles, np.concatenate([nothing.astype(np.float32), *largest])
        )

    def renamed(self, new: Mapping[str, str]) -> TextSets:
        """The same rows without roles and weights, with other names for some texts; each counts once a row.

        Example:
            >>> [*TextSets.of([["b ", "a", "b"], ["b "]]).renamed({"b ": "b"})]
            [['b', 'a'], ['b']]
        """
        names, _, places = _distinct([new.get(name, name) for name in self.names], None)
        rows = TextSets(names, places[self.numbers], self.offsets)
        once = rows.weighted(np.ones(len(rows.numbers), np.float32))
        once.weights = None
        return once

    def select(self, places: Integers) -> TextSets:
        """The rows at ``places [m]``, in that order."""
        lengths = np.diff(self.offsets)[places]
        offsets = np.zeros(len(places) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        moved = np.repeat(self.offsets[:-1][places] - offsets[:-1], lengths)
        moved += np.arange(offsets[-1])
        weights = None if self.weights is None else self.weights[moved]
        return TextSets(self.names, self.numbers[moved], offsets, self.roles, weights)

    def numbered(self) -> tuple[Integers, Integers]:
        """The places in ``names`` that are in use, by first appearance; and for each text of all rows, its
        place among them. Both are int64.

        Example:
            >>> [each.tolist() for each in TextSets.of([["a"], ["c", "b"]]).select(np.array([1])).numbered()]
            [[1, 2], [0, 1]]
        """
        first = np.full(len(self.names), -1)
        first[self.numbers[::-1]] = np.arange(len(self.numbers))[::-1]  # the last one that is written stays
        used = np.flatnonzero(first >= 0)
        order = used[np.argsort(first[used])]
        rank = np.zeros(len(self.names), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return order, rank[self.numbers]

    def role_rows(self) -> list[list[str]] | None:
        """For each row, the role of each of its texts; None if they have no roles."""
        roles = self.roles
        if roles is None:
            return None
        return [*TextSets(roles, self.numbers, self.offsets)]

    def weight_rows(self) -> list[list[float]] | None:
        """For each row, the weight of each of its texts; None if they have no weights."""
        if self.weights is None:
            return None
        weights = self.weights.tolist()
        return [weights[start:stop] for start, stop in itertools.pairwise(self.offsets.tolist())]

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
        return taken(self.names, self.numbers[start:stop])

    def __iter__(self) -> Iterator[list[str]]:
        for begin in range(0, len(self), BLOCK):
            ends = self.offsets[begin : begin + BLOCK + 1].tolist()
            texts = taken(self.names, self.numbers[ends[0] : ends[-1]])
            for start, stop in itertools.pairwise(ends):
                yield texts[start - ends[0] : stop - ends[0]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(own == theirs for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class SetWriter:
    """Takes rows of texts one by one and makes :class:`TextSets` of them, ``with`` it has ended.

    The texts must be encodable as UTF-8. The first 131,072 distinct ones are Python strings; others don't
    take more memory than :class:`~lit_metric.data.texts.TextWriter` does.

    Args:
        folder: of further texts.
        repeats: keep a text as often as a row has it; otherwise once, at its first place.

    Example:
        >>> with SetWriter() as writer:
        ...     writer.append(["red", "round", "red"])
        >>> writer.sets[0]
        ['red', 'round']
    """

    sets: TextSets

    def __init__(self, folder: str | Path | None = None, repeats: bool = False) -> None:
        self._folder, self._repeats = folder, repeats
        self._known: dict[str, int] = {}
        self._further, self._count = TextWriter(folder), 0
        self._numbers, self._offsets = array("i"), array("q", [0])

    def __enter__(self) -> SetWriter:
        self._further.__enter__()
        return self

    def append(self, texts: Sequence[str]) -> None:
        """Add a row."""
        known = self._known
        for text in texts if self._repeats else dict.fromkeys(texts):
            number = known.get(text)
            if number is None:
                number = len(known)
                if number < IN_MEMORY:
                    known[text] = number
                else:
                    number += self._count
                    self._further.append(text)
                    self._count += 1
            self._numbers.append(number)
        self._offsets.append(len(self._numbers))

    def __exit__(self, kind: object, *others: object) -> None:
        self._further.__exit__(kind, *others)
        if kind is not None:
            return
        names: Sequence[str] = [*self._known]
        self._known = {}
        numbers = np.array(self._numbers, dtype=np.int32)
        if self._count:
            names, _, places = _distinct(_end_to_end([names, self._further.texts]), None, self._folder)
            numbers = places[numbers]
        self.sets = TextSets(names, numbers, np.array(self._offsets, dtype=np.int64))


def taken(names: Sequence[str], numbers: npt.NDArray[Any]) -> list[str]:
    """The texts at the places ``numbers`` of ``names``."""
    if isinstance(names, Texts):
        return names.take(numbers)
    return [names[number] for number in numbers.tolist()]


def _end_to_end(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """One after the other: a list, or Texts if one of them is that."""
    if any(isinstance(part, Texts) for part in parts):
        return Texts.joined(part if isinstance(part, Texts) else Texts.of(part) for part in parts)
    return [name for part in parts for name in part]


def _distinct(
    names: Sequence[str], roles: Sequence[str] | None, folder: str | Path | None = None
) -> tuple[Sequence[str], Sequence[str] | None, npt.NDArray[np.int32]]:
    """Distinct texts, or pairs of text and role, by first appearance; their roles; the number of each of
    ``names`` among them."""
    if isinstance(names, Texts):
        kinds = {role: number for number, role in enumerate(dict.fromkeys(roles or ()))}
        others = [] if roles is None else [np.array([kinds[role] for role in roles], dtype=np.int32)]
        first, places = distinct(names, names.fingerprints(), np.arange(len(names)), *others)
        names = names.select(first, folder)
        roles = None if roles is None else [roles[place] for place in first.tolist()]
        return names, roles, places.astype(np.int32)
    known: dict[Any, int] = {}
    each = names if roles is None else zip(roles, names, strict=True)
    numbers = np.array([known.setdefault(one, len(known)) for one in each], dtype=np.int32)
    if roles is None:
        return [*known], None, numbers
    return [text for _, text in known], [role for role, _ in known], numbers
