"""Rows that a person lists by file and number: to leave out, or to give another label."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_metric.data.delimited import CsvOptions
from lit_metric.data.errors import DataError, listed, listed_files
from lit_metric.data.formats.columns import name
from lit_metric.data.readers import Source, read_table
from lit_metric.data.table import Table
from lit_metric.data.text_sets import TextSets

logger = logging.getLogger(__name__)

FILE, ROW, GIVEN, NEW = "file", "row", "given_label", "new_label"


class ListedRows:
    """Rows by file and row.

    Columns that the list shares with a file are compared, so that a list made of another state of the file is
    noticed.

    Args:
        source: a table with the columns ``file`` and ``row`` (from 1, without a header); None: there are no
            such rows.
        csv: how it is written, if it is a CSV file.

    Raises:
        DataError: when it lacks these columns, or a row is no number.
    """

    argument: str
    """What the DataModule calls it."""
    needs: tuple[str, ...] = (FILE, ROW)
    """The columns it must have."""

    def __init__(self, source: Source | None, csv: CsvOptions | None = None) -> None:
        self.name = ""
        self._rows: dict[str, dict[int, dict[str, Any]]] = {}
        self._found: set[tuple[str, int]] = set()
        if source is None:
            return
        table = read_table(source, csv=csv, name=self.argument)
        self.name = table.name
        if not {*self.needs} <= {*table.columns}:
            needs = [repr(column) for column in self.needs]
            raise DataError(f"{self.argument}= needs the columns {listed_files(needs)}: {table.layout}")
        values = {column: table.column(column) for column in table.columns}
        for number, (file, row) in enumerate(zip(values[FILE], values[ROW], strict=True), start=1):
            if not isinstance(file, str) or not str(row).isdecimal() or int(row) < 1:
                raise DataError(
                    f"{self.name}, row {number}: {file!r} and {row!r} are no file and row, from 1"
                )
            cells = {name: each[number - 1] for name, each in values.items() if name not in (FILE, ROW)}
            self._add(number, _place(file), int(row), cells)

    def _add(self, number: int, file: str, row: int, cells: dict[str, Any]) -> None:
        """Keep what the list says about a row; ``number`` is its own row in the list."""
        self._rows.setdefault(file, {})[row] = cells

    def _of(self, table: Table) -> dict[int, dict[str, Any]]:
        """The listed rows of a table, from 0, and what the list says about each.

        Raises:
            DataError: when one of them differs from the list.
        """
        rows: dict[int, dict[str, Any]] = {}
        start = 0
        for part in table.parts:
            file = _place(part.name)
            for number, values in self._rows.get(file, {}).items():
                place = number - 1 - part.start
                if 0 <= place < part.rows:
                    rows[start + place] = values
                    self._found.add((file, number))
            start += part.rows
        for column in table.columns if rows else ():
            # Commands put input_ before the name of a column where they have a result of that name.
            before = {row: values.get(f"input_{column}", values.get(column)) for row, values in rows.items()}
            cells = table.peek(column) if any(isinstance(value, str) for value in before.values()) else []
            for row, value in before.items() if cells else ():
                if isinstance(cells[row], str) and isinstance(value, str):
                    self._compare(table, row, f"column {column!r}", cells[row], value)
        return rows

    def _compare(self, table: Table, row: int, what: str, now: str, before: str) -> None:
        if now not in (before, _without_guard(before)):
            file, number = table.place(row)
            raise DataError(
                f"{self.name} was made of another {file}: {what} of row {number} is "
                f"{now!r:.60} now, and was {before!r:.60}; make the list again"
            )

    def check(self) -> None:
        """Raise ``DataError`` if some of the rows are in none of the tables that were read."""
        absent = {
            (file, row) for file, rows in self._rows.items() for row in rows if (file, row) not in self._found
        }
        if absent:
            files = listed(sorted({file for file, _ in absent}), 3)
            raise DataError(
                f"{self.name} lists {len(absent)} rows of {files} that are not in the labelled sources; "
                f"give {self.argument}= rows of these only"
            )


class ExcludedRows(ListedRows):
    """Rows to leave out, such as ``lit-metric label-errors`` writes, or ``rejected.parquet``."""

    argument = "exclude"

    def of(self, table: Table) -> set[int]:
        """The rows of a table, from 0, that are left out; the log counts them.

        Raises:
            DataError: when one of them differs from the list.
        """
        rows = self._of(table)
        if rows:
            logger.info("%d rows of %s are left out, as %s says", len(rows), table.name, self.name)
        return {*rows}


class CorrectedLabels(ListedRows):
    """Rows that have another label than their file says, in the column ``new_label``.

    Rows whose ``new_label`` is empty keep their label. A column ``given_label`` is compared with the label
    that the file has.
    """

    argument = "corrections"
    needs = (FILE, ROW, NEW)

    def _add(self, number: int, file: str, row: int, cells: dict[str, Any]) -> None:
        label, problem = name(cells[NEW], empty=True)
        if problem:
            raise DataError(f"{self.name}, row {number}, column {NEW!r}: {problem}")
        if label is None:
            return
        known = self._rows.get(file, {}).get(row)
        if known is not None and known[NEW] != _without_guard(label):
            raise DataError(
                f"{self.name}, row {number}: row {row} of {file} has two new labels, {known[NEW]!r} and "
                f"{label!r}; keep one"
            )
        super()._add(number, file, row, {**cells, NEW: _without_guard(label)})

    def of(self, table: Table, labels: TextSets | Sequence[str | None]) -> TextSets | Sequence[str | None]:
        """The labels ``[n]`` of a table's rows, corrected; the log counts them.

        Raises:
            DataError: when a listed row differs from the list, or has several labels.
        """
        rows = self._of(table)
        if not rows:
            return labels
        if isinstance(labels, TextSets):
            raise DataError(f"{self.name} gives one label to each row, and rows of {table.name} have several")
        corrected, known = [*labels], {*labels}
        for row, values in rows.items():
            before, _ = name(values.get(GIVEN), empty=True)
            label = labels[row]
            if label is not None and before is not None:
                self._compare(table, row, "the label", label, before)
            corrected[row] = values[NEW]
        logger.info("%d labels of %s are corrected, as %s says", len(rows), table.name, self.name)
        if new := sorted({values[NEW] for values in rows.values()} - known):
            logger.warning(
                "%s has labels that no other row of %s has: %s", self.name, table.name, listed(new, 3)
            )
        return corrected


def _without_guard(value: str) -> str:
    """A cell without the apostrophe that keeps spreadsheets from taking it for a formula."""
    return value[1:] if value[:1] == "'" and value[1:].startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _place(name: str) -> str:
    """The absolute path of a file, or the name of another source."""
    return str(Path(name).resolve()) if Path(name).exists() else name
