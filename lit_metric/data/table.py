"""Tables of rows with named columns, which remember the file that each row came from."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

from lit_metric.data.errors import DataError

logger = logging.getLogger(__name__)

SHOWN = 3  # rows named for each problem before the rest are only counted
KINDS = 6  # problems named likewise


@dataclass(frozen=True)
class Part:
    """One file, or one split of a saved data set.

    Args:
        name: what errors call it.
        rows: how many it has.
        columns: their names.
        load: the values of a column, given its name; missing ones are None.
        broken: rows, from 0, that could not be read and were noted as problems; all their values are None.
        dialect: what is unusual in how it is written and was found by itself, to be logged.
    """

    name: str
    rows: int
    columns: list[str]
    load: Callable[[str], list[Any]]
    broken: frozenset[int] = frozenset()
    dialect: str = ""


class Table:
    """The rows of one or several files, end to end. Columns are read when asked for.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self._ends = list(itertools.accumulate(part.rows for part in self.parts))
        self.used: set[str] = set()  # columns that were read

    def __len__(self) -> int:
        return self._ends[-1]

    def say_how_it_was_read(self) -> None:
        """Log one line for each unusual way in which files are written, and one on columns that differ."""
        dialects: dict[str, list[str]] = {}
        for part in self.parts:
            dialects.setdefault(part.dialect, []).append(part.name)
        for dialect, names in dialects.items():
            if dialect:
                logger.info("%s: read with %s", several(names), dialect)
        if differing := self._differing():
            logger.warning("the files have different columns: %s", differing)

    def _differing(self) -> str:
        """Which columns are in some parts only, and in which; empty if there are none."""
        columns = dict.fromkeys(name for part in self.parts for name in part.columns)
        told = []
        for name in [name for name in columns if name not in self.columns]:
            without = [part.name for part in self.parts if name not in part.columns]
            having = [part.name for part in self.parts if name in part.columns]
            few = f"in {several(having)} only" if len(having) < len(without) else f"not in {several(without)}"
            told.append(f"{name!r} is {few}")
        return "; ".join(told[:KINDS]) + (f"; and {len(told) - KINDS} more" if len(told) > KINDS else "")

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

    def column(self, name: str) -> list[Any]:
        """All values of a column, missing ones as None.

        Raises:
            DataError: when a part lacks it; the message lists those it has.
        """
        self.used.add(name)
        return self.peek(name)

    def peek(self, name: str) -> list[Any]:
        """The same, to look at only: the column doesn't count as used."""
        values: list[Any] = []
        for part in self.parts:
            if name not in part.columns:
                raise DataError(f"{part.name} has no column {name!r}; it has {listed(part.columns)}")
            values.extend(part.load(name))
        return values

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
                return part.name, row - (end - part.rows) + 1
        raise IndexError(f"row {row} of {len(self)}")


class Problems:
    """Collects what is wrong with single rows, to report everything at once.

    Args:
        skip: whether rows with a problem are to be left out, in place of being refused.
        option: what to do to have them left out, for the report; nothing if there is no such option.

    Example:
        >>> problems = Problems(skip=True)
        >>> problems.add(("a.csv", 3), "text", "empty text", "Fill it in, or drop the row.")
        >>> problems.refuse()
        >>> len(problems), problems.rows()[0]["row"]
        (1, 3)
        >>> problems.report().partition(": column")[0]
        'a.csv: 1 bad row (counted from 1, without a header)'
    """

    def __init__(self, skip: bool = False, option: str = "") -> None:
        self.skip = skip
        self.option = option
        self._rows: dict[tuple[str, str, str, str], dict[int, None]] = defaultdict(dict)

    def add(self, place: tuple[str, int], column: str, problem: str, remedy: str) -> None:
        """Note a problem at ``place``, a file and a row; those that differ in nothing else are one."""
        file, row = place
        self._rows[file, column, problem, remedy][row] = None  # a file may be read twice

    def __len__(self) -> int:
        """The number of rows, of all files, that have a problem."""
        return sum(map(len, self._of_files().values()))

    def _of_files(self) -> dict[str, set[int]]:
        files: dict[str, set[int]] = defaultdict(set)
        for (file, *_), rows in self._rows.items():
            files[file].update(rows)
        return files

    def rows(self) -> list[dict[str, Any]]:
        """Every problem as ``file``, ``row`` (from 1, without a header), ``column``, ``problem``, ``remedy``,
        in the order of files and rows."""
        files = {file: number for number, file in enumerate(self._of_files())}
        found = [
            {"file": file, "row": row, "column": column, "problem": problem, "remedy": remedy}
            for (file, column, problem, remedy), rows in self._rows.items()
            for row in rows
        ]
        return sorted(found, key=lambda each: (files[each["file"]], each["row"]))

    def refuse(self) -> None:
        """Raise :class:`BadRows` with every problem noted, if there is any and none may be skipped."""
        if self._rows and not self.skip:
            raise BadRows(self)

    @property
    def shortened(self) -> bool:
        """Whether the report names fewer rows than there are."""
        return len(self._rows) > KINDS or any(len(rows) > SHOWN for rows in self._rows.values())

    def report(self) -> str:
        """One line: how many rows of which files, and for each problem the first of them, with the remedy."""
        files = self._of_files()
        counts = [f"{file}: {len(rows)} bad row{'s' * (len(rows) > 1)}" for file, rows in files.items()]
        told: dict[str, list[str]] = defaultdict(list)
        for (file, column, problem, remedy), rows in [*self._rows.items()][:KINDS]:
            where = [f"column {column!r}"] * bool(column) + [file] * (len(files) > 1)
            shown = ", ".join(map(str, [*rows][:SHOWN]))
            more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
            of = f"{' of '.join(where)}: " if where else ""
            told[remedy].append(f"{of}{problem} in row{'s' * (len(rows) > 1)} {shown}{more}")
        sentences = [f"{'; '.join(kinds)}. {remedy}" for remedy, kinds in told.items()]
        sentences[1:] = [f"{each[0].upper()}{each[1:]}" for each in sentences[1:]]
        if rest := sum(map(len, [*self._rows.values()][KINDS:])):
            sentences.append(f"Besides, {rest} problem{'s' * (rest > 1)} of other kinds.")
        if self.option and not self.skip:
            sentences.append(f"Or {self.option}.")
        return f"{', '.join(counts)} (counted from 1, without a header): {' '.join(sentences)}"


class BadRows(DataError):
    """Rows that can't be used. The message names the first; ``problems.rows()`` has all.

    Args:
        problems: what is wrong with which rows.
        prefix: what the message begins with.
    """

    def __init__(self, problems: Problems, prefix: str = "") -> None:
        super().__init__(prefix + problems.report())
        self.problems = problems


def most_alike(names: Iterable[str], wanted: str) -> list[str]:
    """Names by how much they look like ``wanted``; of two alike, the one that came first.

    Example:
        >>> most_alike(["label", "text"], "txt")
        ['text', 'label']
    """
    return sorted(names, key=lambda name: -SequenceMatcher(None, name, wanted).ratio())


def say_unused(tables: Iterable[Table]) -> None:
    """Log one line on the columns that nothing was read from."""
    found: dict[str, list[str]] = {}
    for table in tables:
        unused = [name for name in table.columns if name not in table.used]
        if unused:
            found.setdefault(listed(unused, 10), []).append(table.name)
    if found:
        told = "; ".join(
            f"{names} of {several(list(dict.fromkeys(files)))}" for names, files in found.items()
        )
        logger.info("columns that are not used: %s", told)


def several(names: Sequence[str]) -> str:
    """Names of files in a sentence, the first three.

    Example:
        >>> several(["a.csv", "b.csv"]), several(["a", "b", "c", "d"])
        ('a.csv and b.csv', 'a, b, c and 1 more')
    """
    if len(names) <= SHOWN:
        return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
    return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"


def listed(names: Sequence[str], limit: int = 30) -> str:
    """Names for an error message.

    Example:
        >>> listed(["text", "label"]), listed([])
        ("'text', 'label'", 'nothing')
    """
    shown = ", ".join(map(repr, names[:limit]))
    return (shown + (f" and {len(names) - limit} more" if len(names) > limit else "")) or "nothing"
