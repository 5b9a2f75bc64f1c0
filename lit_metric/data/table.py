"""Tables of rows with named columns, which remember the file that each row came from."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lit_metric.data.errors import DataError

SHOWN = 10  # rows listed for each problem before the rest are only counted
LINES = 25  # problems listed likewise


@dataclass(frozen=True)
class Part:
    """One file, or one split of a saved data set.

    Args:
        name: what errors call it.
        rows: how many it has.
        columns: their names.
        load: the values of a column, given its name; missing ones are None.
    """

    name: str
    rows: int
    columns: list[str]
    load: Callable[[str], list[Any]]


class Table:
    """The rows of one or several files, end to end. Columns are read when asked for.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self._ends = list(itertools.accumulate(part.rows for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that every part has, in the order of the first."""
        first, *others = self.parts
        return [name for name in first.columns if all(name in part.columns for part in others)]

    def column(self, name: str) -> list[Any]:
        """All values of a column, missing ones as None.

        Raises:
            DataError: when a part lacks it; the message lists those it has.
        """
        values: list[Any] = []
        for part in self.parts:
            if name not in part.columns:
                raise DataError(f"{part.name} has no column {name!r}; it has {listed(part.columns)}")
            values.extend(part.load(name))
        return values

    def place(self, row: int) -> tuple[str, int]:
        """The part that row ``row`` (from 0) came from, and its number there, from 1 without header."""
        for part, end in zip(self.parts, self._ends, strict=True):
            if row < end:
                return part.name, row - (end - part.rows) + 1
        raise IndexError(f"row {row} of {len(self)}")


class Problems:
    """Collects what is wrong with single rows, to report everything at once."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)

    def add(self, place: tuple[str, int], column: str, problem: str, remedy: str) -> None:
        """Note a problem at ``place``, a file and a row; those that differ in nothing else share a line."""
        file, row = place
        self._rows[file, column, problem, remedy].append(row)

    def refuse(self) -> None:
        """Raise :class:`DataError` with every problem noted, if there is any."""
        if not self._rows:
            return
        lines = []
        for (file, column, problem, remedy), rows in self._rows.items():
            where = f"{file}, column {column!r}" if column else file
            shown = ", ".join(map(str, rows[:SHOWN]))
            more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
            lines.append(f"- {where}: {problem} in row{'s' * (len(rows) > 1)} {shown}{more}. {remedy}")
        total = sum(map(len, self._rows.values()))
        if len(lines) > LINES:
            lines[LINES:] = [f"- and {len(lines) - LINES} problems more"]
        raise DataError(
            f"{total} bad value{'s' * (total > 1)} (rows are counted from 1, without a header):\n"
            + "\n".join(lines)
        )


def listed(names: Sequence[str], limit: int = 30) -> str:
    """Names for an error message.

    Example:
        >>> listed(["text", "label"]), listed([])
        ("'text', 'label'", 'nothing')
    """
    shown = ", ".join(map(repr, names[:limit]))
    return (shown + (f" and {len(names) - limit} more" if len(names) > limit else "")) or "nothing"
