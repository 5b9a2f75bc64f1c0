"""Values of columns, checked one by one; what cannot be used is noted with its row and a remedy."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from lit_metric.data.errors import DataError, Problems, listed, listed_rows
from lit_metric.data.formats.names import says_nothing
from lit_metric.data.table import Table
from lit_metric.data.vocabulary import surrogate_at

logger = logging.getLogger(__name__)

Problem = tuple[str, str]  # what is wrong, what to do
Checked = tuple[Any, Problem | None]

FILL = "Fill it in, or drop the row."
BROKEN = "broken characters (not valid UTF-8)"
ENCODING = (
    "Save the file as UTF-8, or name its encoding: csv.encoding='cp1252' is that of Excel in Western Europe."
)


class Columns:
    """The columns of one table. Rows in which something is wrong are noted, and are no longer ``kept``.

    Args:
        table: whose columns are read.
        problems: where problems are noted.
    """

    def __init__(self, table: Table, problems: Problems) -> None:
        self.table = table
        self.problems = problems
        self.bad: set[int] = set(table.broken)

    def note(self, row: int, column: str, problem: str, remedy: str) -> None:
        """Note what is wrong with a row, and leave it out."""
        self.bad.add(row)
        self.problems.add(self.table.place(row), column, problem, remedy)

    @property
    def kept(self) -> list[int]:
        """The rows, from 0, in which nothing was wrong so far."""
        return [row for row in range(len(self.table)) if row not in self.bad]

    def read(self, column: str, check: Callable[[Any], Checked]) -> list[Any]:
        """What ``check`` makes of each value of a column; rows that could not be read at all are None."""
        broken = self.table.broken
        values: list[Any] = []
        for row, value in enumerate(self.table.column(column)):
            if row in broken:
                values.append(None)
                continue
            result, problem = check(value)
            values.append(result)
            if problem is not None:
                self.note(row, column, *problem)
        return values

    def texts(self, columns: str | Sequence[str], separator: str = " ") -> list[str]:
        """One text per row: that of a column, or those of several one after the other.

        Of several columns some may be empty in a row, but not all; a list of texts within a column is joined
        by ``", "``.
        """
        for column in [columns] if isinstance(columns, str) else columns:
            self._say_absent(column)
        if isinstance(columns, str):
            return self.read(columns, lambda value: text(value, join=False))
        if len(columns) == 1:
            return self.read(columns[0], lambda value: text(value, join=True))
        parts = [self.read(column, lambda value: text(value, join=True, empty=True)) for column in columns]
        joined = [separator.join(filter(None, row)) for row in zip(*parts, strict=True)]
        for row, each in enumerate(joined):
            if not each and row not in self.bad:
                self.note(row, " + ".join(columns), "empty text", FILL)
        return joined

    def _say_absent(self, column: str) -> None:
        """Log one line on texts that say that there is none."""
        texts = self.table.peek(column)
        rows = [row for row, value in enumerate(texts) if says_nothing(value)]
        if rows:
            places = listed_rows([self.table.place(row)[1] for row in rows])
            said = listed(list(dict.fromkeys(texts[row] for row in rows)), 3)
            logger.warning(
                "%d text%s of column %r of %s say%s %s (%s), and are read as texts; leave cells empty that "
                "are missing values",
                len(rows),
                "s" * (len(rows) > 1),
                column,
                self.table.place(rows[0])[0],
                "s" * (len(rows) == 1),
                said,
                places,
            )

    def one_type(self, column: str) -> None:
        """Note rows whose value is a number where most are strings, or the other way round."""
        kinds: dict[bool, list[int]] = {True: [], False: []}
        for row, value in enumerate(self.table.column(column)):
            if row not in self.bad and isinstance(value, str | int | float) and not missing(value):
                kinds[isinstance(value, str)].append(row)
        few, many = sorted(kinds.values(), key=len)
        if not few:
            return
        strings = "numbers" if many is kinds[False] else "strings"
        for row in few:
            found = "a number" if strings == "strings" else "a string"
            self.note(row, column, f"{found} where other rows have {strings}", "Give the column one type.")

    def where(self, row: int, seen_from: int) -> str:
        """How to call ``row`` in a message about another row: with its file, if that is another."""
        file, number = self.table.place(row)
        return f"row {number}" if file == self.table.place(seen_from)[0] else f"row {number} of {file}"

    def unique(self, values: Sequence[Any], column: str) -> dict[Any, int]:
        """The row of each value; a second row with the same one is noted."""
        rows: dict[Any, int] = {}
        for row, value in enumerate(values):
            if row in self.bad:
                continue
            first = rows.setdefault(value, row)
            if first != row:
                where = self.where(first, row)
                self.note(row, column, f"the id {value!r} of {where} again", "Give each row its own.")
        return rows

    def among(self, values: Sequence[Any], column: str, known: Collection[Any], what: str) -> None:
        """Note the rows whose value is none of ``known``; ``what`` names those in the message."""
        for row, value in enumerate(values):
            if row not in self.bad and value not in known:
                self.note(row, column, f"{value!r} is not in {what}", "Add it there, or drop the row.")


def split_by(
    columns: Columns, column: str, names: Sequence[str], spelt: Mapping[str, str] | None = None
) -> list[str]:
    """The values of a column that says to which of the splits ``names`` a row belongs; ``spelt`` has other
    spellings of them."""

    def check(value: Any) -> Checked:
        value = (spelt or {}).get(value, value) if isinstance(value, str) else value
        remedy = f"Use one of {listed(list(names))}."
        return value, None if value in names else (f"{value!r}", remedy)

    return columns.read(column, check)


def guess(table: Table, names: Collection[str]) -> str | None:
    """The column with the first of the usual ``names``, in any case, or None."""
    found = {column.lower(): column for column in reversed(table.columns)}
    return next((found[name] for name in names if name in found), None)


def named(table: Table, given: str | None, names: Collection[str], option: str, what: str) -> str:
    """The column that was ``given``, or one with a usual name.

    Raises:
        DataError: when there is neither.
    """
    column = given or guess(table, names)
    if column is None:
        raise DataError(f"no column of {what} has a usual name; name it with {option}=. {table.layout}")
    return column


def missing(value: Any) -> bool:
    """Whether a cell is empty: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def problem_of(value: Any) -> Problem | None:
    """What makes a value no text, if anything does."""
    if missing(value):
        return "no text", FILL
    if not isinstance(value, str):
        return f"{kind_of(value)} instead of text", "Convert the column to strings, or name another."
    if not value.strip():
        return "empty text", FILL
    return broken(value)


def broken(value: str) -> Problem | None:
    """What is wrong with a string that holds half a character, or a byte that is no UTF-8, if it does."""
    place = surrogate_at(value)
    if place is None:
        return None
    return BROKEN, ENCODING if "\udc80" <= value[place] <= "\udcff" else "Save the file as UTF-8."


def text(value: Any, join: bool = False, empty: bool = False) -> Checked:
    """A text; with ``join`` also a list of texts, joined by ``", "``; with ``empty`` nothing at all, too.

    Example:
        >>> text(["a", "b"], join=True), text(None, empty=True)
        (('a, b', None), ('', None))
        >>> text(" ")
        ('', ('empty text', 'Fill it in, or drop the row.'))
    """
    if join and isinstance(value, list):
        for each in value:
            if problem := problem_of(each):
                return "", (f"{problem[0]} in the list", problem[1])
        value = ", ".join(value)
    if empty and (missing(value) or value == ""):
        return "", None
    problem = problem_of(value)
    return ("", problem) if problem else (value, None)


def short_texts(value: Any, separator: str | None, empty: bool, what: str = "tags") -> Checked:
    """The members of a list, or of a string that is cut by ``separator``; ``empty`` allows none.

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
        return [], (f"{kind_of(value)} instead of a list of {what}", "Give a list of strings.")
    if what == "labels":
        value = [_whole(each) for each in value]
    for each in value:
        if problem := problem_of(each):
            return [], (f"{problem[0]} among the {what}", problem[1])
    if not value and not empty:
        return [], (f"no {what}", "Fill them in, or drop the row.")
    return value, None


def _whole(value: Any) -> Any:
    """A whole number as its digits, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if math.isfinite(value) and value == int(value) else value


def label(value: Any, empty: bool = False) -> Checked:
    """The name of a class: a string or a whole number; with ``empty``, None for none.

    Example:
        >>> label(3.0), label("", empty=True), label(None)
        (('3', None), (None, None), (None, ('no label', 'Fill it in, or drop the row.')))
    """
    return _name(value, "label", empty)


def identifier(value: Any) -> Checked:
    """What a row is called by others: a string or a whole number.

    Example:
        >>> identifier(7), identifier(None)
        (('7', None), (None, ('no id', 'Fill it in, or drop the row.')))
    """
    return _name(value, "id", empty=False)


def _name(value: Any, what: str, empty: bool) -> Checked:
    if missing(value) or value == "":
        return None, (None if empty else (f"no {what}", FILL))
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers become floats in tables that have missing ones
    if not isinstance(value, str | int):
        article = "an" if what == "id" else "a"
        return None, (
            f"{kind_of(value)} instead of {article} {what}",
            "Give one string or whole number per row.",
        )
    name = str(value)
    problem = broken(name)
    return (None, problem) if problem else (name, None)


def number(value: Any) -> Checked:
    """A finite number, also as a string, as CSV files have it.

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
    """Weights: a list of numbers above 0, or a string of them that is cut by ``separator``.

    Example:
        >>> numbers("1;0.5", ";"), numbers([0], None)
        (([1.0, 0.5], None), ([], ('0 among the weights', 'Weights are numbers above 0.')))
    """
    if isinstance(value, str) and separator is not None:
        value = [piece.strip() for piece in value.split(separator) if piece.strip()]
    if missing(value):
        value = []
    if not isinstance(value, list):
        return [], (f"{kind_of(value)} instead of a list of weights", "Give a list of numbers above 0.")
    results = []
    for each in value:
        result, problem = number(each)
        if problem or result <= 0:
            return [], (f"{each!r:.60} among the weights", "Weights are numbers above 0.")
        results.append(result)
    return results, None


def kind_of(value: Any) -> str:
    """The type of a value with its article.

    Example:
        >>> kind_of(3), kind_of([])
        ('an int', 'a list')
    """
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
