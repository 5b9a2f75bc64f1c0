"""Tables of rows with named columns, which remember the file that each row came from."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lit_metric.data.errors import KINDS, DataError, Problems, listed, listed_files

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1 << 16
"""Rows of a column that are Python objects together, where a part can be cut."""


@dataclass(frozen=True)
class Part:
    """One file, or one split of a saved data set.

    Args:
        name: what errors call it.
        rows: how many it has.
        columns: their names.
        load: the values of a column, given its name; missing ones are None.
        broken: rows, from 0, that could not be read and were noted as problems; all their values are None.
        dialect: what was found to be unusual in how the file is written, to be logged.
        cut: the values of a column from a row to another, without reading the rest; None: there is no way.
        start: the number of rows of the same file or split before this part.
    """

    name: str
    rows: int
    columns: list[str]
    load: Callable[[str], list[Any]]
    broken: frozenset[int] = frozenset()
    dialect: str = ""
    cut: Callable[[str, int, int], list[Any]] | None = None
    start: int = 0


Take = Callable[[int], Part | None]
"""Reads the next rows of a source, at most as many as it is given; None at the end."""


@dataclass(frozen=True)
class StreamedPart(Part):
    """A file that is read from its beginning to its end, so its rows are not counted yet: ``rows`` is 0.

    Args:
        open: start to read; problems of rows are noted in what it is given.
    """

    open: Callable[[Problems], Take] = field(kw_only=True)


def not_loaded(column: str) -> list[Any]:
    """In place of :attr:`Part.load` of a streamed part."""
    raise NotImplementedError(f"column {column!r} is read in blocks only")


class Table:
    """The rows of one or several files, end to end. A column is read when it is needed.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self._ends = list(itertools.accumulate(part.rows for part in self.parts))
        self.used: set[str] = set()  # columns that were read

    def __len__(self) -> int:
        return self._ends[-1]

    def log_dialects(self) -> None:
        """Log one line for each unusual way in which files are written, and one on columns that differ."""
        dialects: dict[str, list[str]] = {}
        for part in self.parts:
            dialects.setdefault(part.dialect, []).append(part.name)
        for dialect, names in dialects.items():
            if dialect:
                logger.info("%s: read with %s", listed_files(names), dialect)
        if differing := self._differing():
            logger.warning("the files have different columns: %s", differing)

    def _differing(self) -> str:
        """Which columns are in some parts only, and in which; empty if there are none."""
        columns = dict.fromkeys(name for part in self.parts for name in part.columns)
        found = []
        for name in [name for name in columns if name not in self.columns]:
            without = [part.name for part in self.parts if name not in part.columns]
            having = [part.name for part in self.parts if name in part.columns]
            few = len(having) < len(without)
            where = f"in {listed_files(having)} only" if few else f"not in {listed_files(without)}"
            found.append(f"{name!r} is {where}")
        return "; ".join(found[:KINDS]) + (f"; and {len(found) - KINDS} more" if len(found) > KINDS else "")

    @property
    def layout(self) -> str:
        """Which columns there are, for an error about one that is missing."""
        if differing := self._differing():
            return f"the {len(self.parts)} files have {listed(self.columns)} in common; {differing}"
        return f"{self.name} has {listed(self.columns)}"

    @property
    def columns(self) -> list[str]:
        """Names of the columns that every part has, in the order of the first."""
        first, *others = self.parts
        return [name for name in first.columns if all(name in part.columns for part in others)]

    def guess(self, names: Collection[str]) -> str | None:
        """The column with the first of the usual ``names``, in any case, or None."""
        found = {column.lower(): column for column in reversed(self.columns)}
        return next((found[name] for name in names if name in found), None)

    def named(self, given: str | None, names: Collection[str], option: str, what: str) -> str:
        """The column ``given``, or one with a usual name.

        Args:
            given: by the user, or None.
            names: usual ones, the most usual first.
            option: with which the user names the column.
            what: the column holds, for the message.

        Raises:
            DataError: when there is neither.
        """
        column = given or self.guess(names)
        if column is None:
            raise DataError(f"no column of {what} has a usual name; name it with {option}=. {self.layout}")
        return column

    def column(self, name: str) -> list[Any]:
        """All values of a column, missing ones as None.

        Raises:
            DataError: when a part lacks it; the message lists those it has.
        """
        return [*itertools.chain.from_iterable(self.blocks(name))]

    def peek(self, name: str, rows: int | None = None) -> list[Any]:
        """The same, to look at only: the column doesn't count as used. With ``rows``, the first of them."""
        return [*itertools.islice(itertools.chain.from_iterable(self.blocks(name, used=False)), rows)]

    def blocks(self, name: str, used: bool = True) -> Iterator[list[Any]]:
        """The same as :meth:`column`, or :meth:`peek`, in lists of some rows each, so that few are in memory
        together."""
        if used:
            self.used.add(name)
        for part in self.parts:
            if name not in part.columns:
                raise DataError(f"{part.name} has no column {name!r}; it has {listed(part.columns)}")
        for part in self.parts:
            if part.cut is None:
                yield part.load(name)
            else:
                for start in range(0, part.rows, ROWS_AT_ONCE):
                    yield part.cut(name, start, min(start + ROWS_AT_ONCE, part.rows))

    @property
    def name(self) -> str:
        """What errors about the whole table call it: its first part."""
        return self.parts[0].name

    @cached_property
    def broken(self) -> set[int]:
        """Rows, from 0, that could not be read."""
        starts = [0, *self._ends]
        return {row + start for part, start in zip(self.parts, starts, strict=False) for row in part.broken}

    def place(self, row: int) -> tuple[str, int]:
        """The part that row ``row`` (from 0) came from, and its number there, from 1 without header."""
        for part, end in zip(self.parts, self._ends, strict=True):
            if row < end:
                return part.name, part.start + row - (end - part.rows) + 1
        raise IndexError(f"row {row} of {len(self)}")

    def call_row(self, row: int, seen_from: tuple[str, int]) -> str:
        """What a message about the row at ``seen_from`` calls ``row``: with its file, if that is another."""
        file, number = self.place(row)
        return f"row {number}" if file == seen_from[0] else f"row {number} of {file}"
