"""Values of columns, checked cell by cell. What cannot be used is noted with its row and a remedy."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.errors import Problems, listed, listed_rows
from lit_metric.data.items import surrogate_at
from lit_metric.data.progress import track
from lit_metric.data.table import ROWS_AT_ONCE, Table
from lit_metric.data.text_sets import SetWriter, TextSets, Weights
from lit_metric.data.texts import Integers, Texts, TextWriter, distinct

logger = logging.getLogger(__name__)

Problem = tuple[str, str]  # what is wrong, what to do
Checked = tuple[Any, Problem | None]

FILL = "Fill it in, or drop the row."
ABSENT = frozenset({"nan", "none", "null", "n/a", "#n/a", "na", "<na>", "nat"})
"""What programs write where a value is missing, in lower case."""
WEIGHTS = (1e-37, 1e37)
"""The least and the largest weight, which float32 can hold."""
SHARED = 1 << 17
"""Distinct strings of a column of which equal ones are one object."""


class AbsentTexts:
    """Texts such as ``"NaN"``, which are read as texts, and of which the log should tell."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, dict[str, None], list[int]]] = {}

    def add(self, table: Table, column: str) -> None:
        """Search the texts of a column."""
        for row, value in enumerate(chain.from_iterable(table.blocks(column, used=False))):
            if stands_for_missing(value):
                file, number = table.place(row)
                _, values, rows = self._found.setdefault(column, (file, {}, []))
                values[value] = None
                rows.append(number)

    def log(self) -> None:
        """Log one line for each column that has any."""
        for column, (file, values, rows) in self._found.items():
            logger.warning(
                "%d text%s of column %r of %s say%s %s (%s), and are read as texts; leave cells empty that "
                "are missing values",
                len(rows),
                "s" * (len(rows) > 1),
                column,
                file,
                "s" * (len(rows) == 1),
                listed(list(values), 3),
                listed_rows(rows),
            )


class Columns:
    """The columns of one table. A row in which something is wrong is noted, and no longer ``kept``.

    Args:
        table: with the columns.
        problems: where problems are noted.
        folder: where texts beyond 64 MB go; see :class:`~lit_metric.data.texts.TextWriter`.
        absent: collects texts such as ``"NaN"``; None logs them.
    """

    def __init__(
        self,
        table: Table,
        problems: Problems,
        absent: AbsentTexts | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.table = table
        self.problems = problems
        self.absent = absent
        self.folder = folder
        self.bad: set[int] = set(table.broken)

    def note(self, row: int, column: str, problem: str, remedy: str) -> None:
        """Note what is wrong with a row, and leave it out."""
        self.bad.add(row)
        self.problems.add(self.table.place(row), column, problem, remedy)

    def leave_out(self, rows: set[int]) -> None:
        """Leave rows out, whatever is wrong with them."""
        self.bad |= rows
        self.problems.excuse(map(self.table.place, rows))

    @property
    def kept(self) -> Sequence[int]:
        """The rows, from 0, in which nothing was wrong so far."""
        if not self.bad:
            return range(len(self.table))
        return array("q", (row for row in range(len(self.table)) if row not in self.bad))

    @property
    def kept_rows(self) -> Tensor:
        """``[k]`` int64, the same."""
        kept = torch.ones(len(self.table), dtype=torch.bool)
        kept[[*self.bad]] = False
        return kept.nonzero()[:, 0]

    def read(self, column: str, check: Callable[[Any], Checked]) -> list[Any]:
        """The result of ``check`` for each value of a column; None for rows that could not be read at all."""
        shared: dict[str, str] = {}  # the names of classes come again and again
        values: list[Any] = []
        for value in self._checked(column, check):
            if type(value) is str and len(shared) < SHARED:
                value = shared.setdefault(value, value)
            values.append(value)
        return values

    def strings(self, column: str, check: Callable[[Any], Checked]) -> Texts:
        """The same for checks that give texts, without a Python object for each; empty for None."""
        with TextWriter(self.folder) as writer:
            for each in self._checked(column, check):
                writer.append(each or "")
        return writer.texts

    def lists(self, column: str, check: Callable[[Any], Checked]) -> tuple[Texts, Tensor]:
        """The same for checks that give lists of texts: the texts of all rows, and ``[n]`` the number of
        each row's."""
        lengths = array("q")
        with TextWriter(self.folder) as writer:
            for each in self._checked(column, check):
                writer.extend(each or ())
                lengths.append(len(each or ()))
        return writer.texts, torch.from_numpy(np.array(lengths, dtype=np.int64))

    def sets(self, column: str, check: Callable[[Any], Checked], repeats: bool = False) -> TextSets:
        """The same for sets of texts, each once in a row, or with ``repeats``; empty for bad rows."""
        with SetWriter(self.folder, repeats) as writer:
            for each in self._checked(column, check):
                writer.append(each or ())
        return writer.sets

    def weights(self, column: str, check: Callable[[Any], Checked], sets: TextSets) -> Weights:
        """``[t]`` a weight for each text of the rows of ``sets``; 1 for rows that can't be used."""
        found, wrong = array("f"), []
        counts = np.diff(sets.offsets)
        for row, (each, count) in enumerate(zip(self._checked(column, check), counts, strict=True)):
            fits = row not in self.bad and len(each) == count
            found.extend(each if fits else [1.0] * int(count))
            if not fits and row not in self.bad:
                wrong.append((row, f"{len(each)} weights for {count} tags"))
        for row, problem in wrong:
            self.note(row, column, problem, "Give each tag its weight, in the same order.")
        return np.array(found, dtype=np.float32)

    def numbers(self, column: str) -> Tensor:
        """``[n]`` float64, the numbers of a column; 0 where something is wrong."""
        found = array("d", (each or 0.0 for each in self._checked(column, number)))
        return torch.from_numpy(np.array(found, dtype=np.float64))

    def _checked(self, column: str, check: Callable[[Any], Checked]) -> Iterator[Any]:
        """The result of ``check`` for each value; None for rows that could not be read at all."""
        broken, what = self.table.broken, f"reading column {column!r} of {self.table.name}"
        blocks = track(self.table.blocks(column), what, "block", len(self.table) > ROWS_AT_ONCE)
        for row, value in enumerate(chain.from_iterable(blocks)):
            result: Any = None
            if row not in broken:
                result, problem = check(value)
                if problem is not None:
                    self.note(row, column, *problem)
            yield result

    def texts(self, columns: str | Sequence[str], separator: str = " ") -> Texts:
        """One text for each row: that of a column, or those of several columns joined.

        Some of several columns may be empty in a row, but not all. A list of texts within a column is joined
        by ``", "``. Texts such as ``"NaN"`` are logged.
        """
        names = [columns] if isinstance(columns, str) else columns
        absent = AbsentTexts() if self.absent is None else self.absent
        for column in names:
            absent.add(self.table, column)
        if self.absent is None:
            absent.log()
        join, empty = not isinstance(columns, str), len(names) > 1
        parts = [self.strings(column, partial(text, join=join, empty=empty)) for column in names]
        if len(parts) == 1:
            return parts[0]
        with TextWriter(self.folder) as writer:
            for row, texts in enumerate(zip(*parts, strict=True)):
                whole = separator.join(filter(None, texts))
                writer.append(whole)
                if not whole and row not in self.bad:
                    self.note(row, " + ".join(names), "empty text", FILL)
        return writer.texts

    def one_type(self, column: str) -> None:
        """Note rows whose value is a number where most are strings, or the other way round."""
        kinds = {True: array("q"), False: array("q")}
        for row, value in enumerate(chain.from_iterable(self.table.blocks(column))):
            if row not in self.bad and isinstance(value, str | int | float) and not missing(value):
                kinds[isinstance(value, str)].append(row)
        few, many = sorted(kinds.values(), key=len)
        problem = "a string where other rows have numbers"
        if many is kinds[True]:
            problem = "a number where other rows have strings"
        for row in few:
            self.note(row, column, problem, "Give the column one type.")

    def unique(self, values: Texts, fingerprints: Integers, column: str) -> Tensor:
        """``[K]`` int64, the first row of each of ``values [n]``; a second row with the same value is
        noted."""
        kept = self.kept_rows.numpy()
        first, numbers = distinct(values, fingerprints, kept)
        again = np.flatnonzero(first[numbers] != np.arange(len(kept)))
        for row, earlier in zip(kept[again].tolist(), kept[first[numbers[again]]].tolist(), strict=True):
            where = self.table.call_row(earlier, self.table.place(row))
            self.note(row, column, f"the id {values[row]!r} of {where} again", "Give each row its own.")
        return torch.from_numpy(kept[first])


def missing(value: Any) -> bool:
    """Whether a cell is empty: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def stands_for_missing(value: object) -> bool:
    """Whether a cell holds a string such as ``"NaN"`` for a missing value.

    Example:
        >>> stands_for_missing(" NaN "), stands_for_missing("none of these")
        (True, False)
    """
    return isinstance(value, str) and value.strip().lower() in ABSENT


def _type_problem(value: Any, expected: str, remedy: str) -> Problem:
    """The problem of a value that has the wrong type."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} instead of {expected}", remedy


def text_problem(value: Any) -> Problem | None:
    """The problem of a value that is no text, or holds half a character or a byte that is no UTF-8."""
    if isinstance(value, str) and value.isascii() and value.strip():
        return None  # the usual case takes no time
    if missing(value):
        return "no text", FILL
    if not isinstance(value, str):
        return _type_problem(value, "text", "Convert the column to strings, or name another.")
    if not value.strip():
        return "empty text", FILL
    place = surrogate_at(value)
    if place is None:
        return None
    remedy = "Save the file as UTF-8."
    if "\udc80" <= value[place] <= "\udcff":
        remedy = (
            "Save the file as UTF-8, or name its encoding: csv.encoding='cp1252' is that of Excel in Western "
            "Europe."
        )
    return "broken characters (not valid UTF-8)", remedy


def text(value: Any, join: bool = False, empty: bool = False) -> Checked:
    """Check a text.

    Args:
        value: of a cell.
        join: whether a list of texts may stand for one; they are joined by ``", "``.
        empty: whether the cell may be empty.

    Example:
        >>> text(["a", "b"], join=True), text(None, empty=True)
        (('a, b', None), ('', None))
        >>> text(" ")
        ('', ('empty text', 'Fill it in, or drop the row.'))
    """
    if join and isinstance(value, list):
        for each in value:
            if problem := text_problem(each):
                return "", (f"{problem[0]} in the list", problem[1])
        value = ", ".join(value)
    if empty and (missing(value) or value == ""):
        return "", None
    problem = text_problem(value)
    return ("", problem) if problem else (value, None)


def short_texts(value: Any, separator: str | None, empty: bool, what: str = "tags") -> Checked:
    """Check a list of texts, or a string that ``separator`` divides into texts.

    Args:
        value: of a cell.
        separator: None refuses strings.
        empty: whether there may be no texts.
        what: the texts are, for messages. Among ``"labels"``, whole numbers are taken too.

    Example:
        >>> short_texts("a, b,", ",", empty=False)
        (['a', 'b'], None)
        >>> short_texts([], None, empty=False)
        ([], ('no tags', 'Fill them in, or drop the row.'))
    """
    if isinstance(value, str):
        if separator is None:
            option = "labels_separator" if what == "labels" else "tag_separator"
            return [], (f"a string instead of a list of {what}", f"Name what separates them: {option}=','.")
        value = [piece.strip() for piece in value.split(separator) if piece.strip()]
    elif missing(value):
        value = []
    elif not isinstance(value, list):
        return [], _type_problem(value, f"a list of {what}", "Give a list of strings.")
    if what == "labels":
        value = [str(int(each)) if _is_whole(each) else each for each in value]
    for each in value:
        if problem := text_problem(each):
            return [], (f"{problem[0]} among the {what}", problem[1])
    if not value and not empty:
        return [], (f"no {what}", "Fill them in, or drop the row.")
    return value, None


def _is_whole(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value == int(value)


def name(value: Any, what: str = "label", empty: bool = False) -> Checked:
    """Check the name of a class, or the id of a row: a string or a whole number.

    Args:
        value: of a cell.
        what: the name is, ``"label"`` or ``"id"``, for messages.
        empty: whether the cell may be empty; its name is None then.

    Example:
        >>> name(3.0), name("", empty=True), name(None, "id")
        (('3', None), (None, None), (None, ('no id', 'Fill it in, or drop the row.')))
    """
    if missing(value) or value == "":
        return None, (None if empty else (f"no {what}", FILL))
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers become floats in tables that have missing ones
    if not isinstance(value, str | int):
        article = "an" if what == "id" else "a"
        return None, _type_problem(value, f"{article} {what}", "Give one string or whole number per row.")
    value = str(value)
    problem = text_problem(value) if surrogate_at(value) is not None else None
    return (None, problem) if problem else (value, None)


def number(value: Any) -> Checked:
    """Check a finite number, which may be a string, as in CSV files.

    Example:
        >>> number("0.5"), number(True)
        ((0.5, None), (1.0, None))
        >>> number("high")
        (0.0, ("'high' instead of a number", 'Give a finite number.'))
    """
    if missing(value) or value == "":
        return 0.0, ("no number", FILL)
    try:
        result = float(value)
    except (TypeError, ValueError):
        comma = isinstance(value, str) and value.count(",") == 1 and "." not in value
        remedy = "Write decimals with a point." if comma else "Give a finite number."
        return 0.0, (f"{value!r:.60} instead of a number", remedy)
    return (result, None) if math.isfinite(result) else (0.0, (f"{value!r}", "Give a finite number."))


def numbers(value: Any, separator: str | None) -> Checked:
    """Check weights: a list of numbers above 0, or a string that ``separator`` divides into numbers.

    Example:
        >>> numbers("1;0.5", ";"), numbers([0], None)
        (([1.0, 0.5], None), ([], ('0 among the weights', 'Weights are numbers above 0.')))
        >>> numbers([1e-50], None)[1]
        ('1e-50 among the weights', 'Weights are at least 1e-37 and at most 1e+37.')
    """
    if isinstance(value, str) and separator is not None:
        value = [piece.strip() for piece in value.split(separator) if piece.strip()]
    if missing(value):
        value = []
    if not isinstance(value, list):
        return [], _type_problem(value, "a list of weights", "Give a list of numbers above 0.")
    results = []
    for each in value:
        result, problem = number(each)
        if problem or result <= 0:
            return [], (f"{each!r:.60} among the weights", "Weights are numbers above 0.")
        if not WEIGHTS[0] <= result <= WEIGHTS[1]:
            remedy = f"Weights are at least {WEIGHTS[0]:g} and at most {WEIGHTS[1]:g}."
            return [], (f"{each!r:.60} among the weights", remedy)
        results.append(result)
    return results, None
