"""Rows that are left out because a person says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lit_metric.data.delimited import CsvOptions
from lit_metric.data.errors import DataError, listed
from lit_metric.data.readers import Source, read_table
from lit_metric.data.table import Table

logger = logging.getLogger(__name__)

FILE, ROW = "file", "row"


class ExcludedRows:
    """Rows to leave out, by file and row.

    Columns that the list shares with a file are compared, so that a list made of another state of the file is
    noticed.

    Args:
        source: a table with the columns ``file`` and ``row`` (from 1, without a header), such as
            ``lit-metric label-errors`` writes, or ``rejected.parquet``; None: there are no such rows.
        csv: how it is written, if it is a CSV file.

    Raises:
        DataError: when it lacks these columns, or a row is no number.
    """

    def __init__(self, source: Source | None, csv: CsvOptions | None = None) -> None:
        self.name = ""
        self._rows: dict[str, dict[int, dict[str, Any]]] = {}
        self._found: set[tuple[str, int]] = set()
        if source is None:
            return
        table = read_table(source, csv=csv, name="exclude")
        self.name = table.name
        if not {FILE, ROW} <= {*table.columns}:
            raise DataError(f"exclude= needs the columns {FILE!r} and {ROW!r}: {table.layout}")
        values = {name: table.column(name) for name in table.columns}
        for number, (file, row) in enumerate(zip(values[FILE], values[ROW], strict=True), start=1):
            if not isinstance(file, str) or not str(row).isdecimal() or int(row) < 1:
                raise DataError(
                    f"{self.name}, row {number}: {file!r} and {row!r} are no file and row, from 1"
                )
            others = {name: each[number - 1] for name, each in values.items() if name not in (FILE, ROW)}
            self._rows.setdefault(_place(file), {})[int(row)] = others

    def of(self, table: Table) -> set[int]:
        """The rows of a table, from 0, that are left out; the log counts them.

        Raises:
            DataError: when one of them differs from the list.
        """
        rows: dict[int, dict[str, Any]] = {}
        start = 0
        for part in table.parts:
            for number, values in self._rows.get(_place(part.name), {}).items():
                place = number - 1 - part.start
                if 0 <= place < part.rows:
                    rows[start + place] = values
                    self._found.add((_place(part.name), number))
            start += part.rows
        if not rows:
            return set()
        for name in table.columns:
            # Commands put input_ before the name of a column where they have a result of that name.
            before = {row: values.get(f"input_{name}", values.get(name)) for row, values in rows.items()}
            column = table.peek(name) if any(isinstance(value, str) for value in before.values()) else []
            for row, value in before.items() if column else ():
                same = not isinstance(value, str) or column[row] in (value, _without_guard(value))
                if isinstance(column[row], str) and not same:
                    file, number = table.place(row)
                    raise DataError(
                        f"{self.name} was made of another {file}: column {name!r} of row {number} is "
                        f"{column[row]!r:.60} now, and was {value!r:.60}; make the list again"
                    )
        logger.info("%d rows of %s are left out, as %s says", len(rows), table.name, self.name)
        return {*rows}

    def check(self) -> None:
        """Raise ``DataError`` if some of the rows are in none of the tables that were read."""
        missing = {
            (file, row) for file, rows in self._rows.items() for row in rows if (file, row) not in self._found
        }
        if missing:
            files = listed(sorted({file for file, _ in missing}), 3)
            raise DataError(
                f"{self.name} lists {len(missing)} rows of {files} that are not in the labelled sources; "
                "give exclude= rows of these only"
            )


def _without_guard(value: str) -> str:
    """A cell without the apostrophe that keeps spreadsheets from taking it for a formula."""
    return value[1:] if value[:1] == "'" and value[1:].startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _place(name: str) -> str:
    """The absolute path of a file, or the name of another source."""
    return str(Path(name).resolve()) if Path(name).exists() else name
