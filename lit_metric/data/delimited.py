"""CSV and TSV files: separator, quotation marks and encoding are found, or can be given.

The parser is Python's ``csv`` in strict mode. That of pyarrow accepts a quoted field that is never closed, or
that continues after its end, so it would lose rows without an error.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lit_metric.data.decoding import decode, text_lines
from lit_metric.data.errors import DataError, Problems, listed
from lit_metric.data.table import Part, StreamedPart, Take, not_loaded

logger = logging.getLogger(__name__)

Row = tuple[list[Any], bool]
"""The fields of a row, and whether it is broken: then they are None."""
NAMES = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
TREC_COLUMNS = ["query-id", "iteration", "corpus-id", "score"]
TREC_LINE = re.compile(r"\S+[ \t]+Q?0[ \t]+\S+[ \t]+-?\d+[ \t]*")
SAMPLE = 1 << 16  # characters in which the separator is searched
HEAD = 1 << 22  # bytes that are in memory together
EXCEL = re.compile(r"sep=(.)\r?\n")  # a first line that Excel understands


@dataclass(frozen=True)
class CsvOptions:
    """How CSV and TSV files are written. An option that is None is found in each file, and logged if it
    is unusual.

    Args:
        separator: the character between fields, such as ``";"``, or ``"\\t"`` for tabs.
        quote: the character around fields that hold separators or line breaks; ``""`` if quotation marks are
            part of the texts.
        encoding: such as ``"cp1252"``, which Excel writes in Western Europe. Without it, a file is UTF-8, or
            in the encoding of its byte-order mark.
        columns: names of the columns, if the first line is not a header.

    Raises:
        ValueError: when a separator or quote is not one character, or an encoding is unknown.

    Example:
        >>> CsvOptions(separator=";", encoding="cp1252").separator
        ';'
    """

    separator: str | None = None
    quote: str | None = None
    encoding: str | None = None
    columns: list[str] | None = None

    def __post_init__(self) -> None:
        if self.separator == "\\t":  # as shells pass it
            object.__setattr__(self, "separator", "\t")
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"csv.separator={self.separator!r} must be one character")
        if self.quote is not None and len(self.quote) > 1:
            raise ValueError(f"csv.quote={self.quote!r} must be one character, or '' for none")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise ValueError(
                    f"csv.encoding={self.encoding!r} is unknown; usual ones are 'utf-8', 'utf-16', 'cp1252' "
                    "and 'latin-1'"
                ) from None


@contextmanager
def _long_fields() -> Iterator[None]:
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses texts of more than 128 KiB
    try:
        yield
    finally:
        csv.field_size_limit(limit)


class DelimitedFile:
    """A file of rows and fields: CSV, TSV, or relevance judgements as TREC writes them.

    Args:
        path: of the file. One with the suffix ``.tsv`` has tabs unless another separator is found in it.
        options: given by the user; those that are None are found.
        by_head: whether the first 4 MB decide what quotation marks in a TSV file mean, and not all of it.

    Raises:
        DataError: when the head of the file is not in its encoding.
    """

    def __init__(self, path: Path, options: CsvOptions, by_head: bool = False) -> None:
        self.path = path
        self.options = options
        self.text, self.notes = decode(path, options.encoding, HEAD)
        self.by_head = by_head or path.stat().st_size <= HEAD
        if path.stat().st_size > HEAD:
            self.text = self.text[: self.text.rfind("\n") + 1] or self.text
        self.separator = options.separator
        excel = EXCEL.match(self.text)
        if excel:
            self.text = self.text[excel.end() :]
            self.separator = self.separator or excel[1]

    def csv_stream(self) -> StreamedPart:
        """All rows of a CSV file, read as they are needed.

        Raises:
            DataError: when it has no header line that can be read; while rows are read, when the file is not
                in its encoding, or a quoted field is never closed.
        """
        if self.options.columns is None and self._is_trec():
            return self.trec_stream()
        with _long_fields():
            dialect = self._dialect()
            header = self._header(self._rows(io.StringIO(self.text, newline=""), *dialect))

        def rows(problems: Problems) -> Iterator[Row]:
            reader = self._rows(self._lines("", log=True), *dialect)
            self._header(reader)
            yield from self._checked(reader, header, problems)

        return self._stream(header, rows, self.notes)

    def _lines(self, newline: str | None, log: bool = False) -> Iterator[str]:
        """The lines of the file, without one that names the separator to Excel."""
        lines = text_lines(self.path, self.options.encoding, newline, log)
        first = next(lines, "")
        return lines if EXCEL.match(first) else chain([first], lines)

    def _stream(
        self, columns: list[str], rows: Callable[[Problems], Iterator[Row]], notes: list[str]
    ) -> StreamedPart:
        places = {name: place for place, name in enumerate(columns)}

        def open_file(problems: Problems) -> Take:
            left, start = rows(problems), 0

            def take(count: int) -> Part | None:
                nonlocal start
                with _long_fields():
                    checked = [*islice(left, count)]
                if not checked:
                    return None
                start += len(checked)
                return Part(
                    str(self.path),
                    len(checked),
                    columns,
                    lambda name: [row[places[name]] for row, _ in checked],
                    frozenset(row for row, (_, broken) in enumerate(checked) if broken),
                    start=start - len(checked),
                )

            return take

        return StreamedPart(str(self.path), 0, columns, not_loaded, dialect=", ".join(notes), open=open_file)

    def _dialect(self) -> tuple[str, str]:
        """The separator and the quotation mark, given or found."""
        if self.separator is None:
            usual = "\t" if self.path.suffix.lower() == ".tsv" else ","
            self.separator = self._find_separator(usual)
            self.notes += [f"the separator {NAMES[self.separator]}"] * (self.separator != usual)
        quote = self.options.quote
        if quote is None:
            quote = '"'
            if self.separator == "\t" and any(
                line.startswith('"') or '\t"' in line for line in self._sample(None)
            ):
                quote = '"' if self._has_quoted_fields() else ""
                whose = "around fields" if quote else "as part of the texts"
                self.notes.append(f"quotation marks {whose}")
        return self.separator, quote

    def _find_separator(self, usual: str) -> str:
        """The separator by which most rows have as many fields as the header, which has at least two."""
        sample = self.text[:SAMPLE]
        if len(self.text) > SAMPLE:
            sample = sample[: sample.rfind("\n") + 1] or sample
        quote = '"' if self.options.quote is None else self.options.quote
        best, agreed = usual, 0.0
        for separator in dict.fromkeys([usual, *NAMES]):
            reader = self._rows(io.StringIO(sample, newline=""), separator, quote, strict=False)
            rows = [row for row in islice(reader, 200) if row]
            if rows and len(rows[0]) > 1:
                share = sum(len(row) == len(rows[0]) for row in rows[1:]) / max(1, len(rows) - 1)
                share = share or 1e-9  # a header alone is a sign, too
                if share > agreed:
                    best, agreed = separator, share
        return best

    def _has_quoted_fields(self) -> bool:
        """Whether quotation marks of a tab-separated file are those around fields, as in CSV.

        Files of retrieval collections know no quoting, while spreadsheets quote fields that hold a tab, a
        line break or a quotation mark. The reading with fewer rows of a wrong length is taken. If both have
        as few, fields are quoted only if the header has marks, or if all marks are doubled within fields, as
        spreadsheets write them.
        """
        width, wrong, all_whole, any_doubled = 0, 0, True, False
        for line in filter(None, (line.rstrip("\n") for line in self._sample(None))):
            fields = line.split("\t")
            marked = [field for field in fields if field.startswith('"')]
            if not width and marked:
                return True
            width = width or len(fields)
            wrong += len(fields) != width
            for field in marked:
                all_whole = all_whole and re.fullmatch(r'"(?:[^"]|"")*"', field) is not None
                any_doubled = any_doubled or '""' in field[1:-1]
        try:
            rows = filter(None, self._rows(self._sample(""), "\t", '"'))
            wrong_if_quoted = sum(len(row) != width for row in rows)
        except csv.Error:
            return False
        return wrong_if_quoted < wrong if wrong != wrong_if_quoted else all_whole and any_doubled

    def _sample(self, newline: str | None) -> Iterator[str]:
        """The lines by which the meaning of quotation marks is found."""
        return io.StringIO(self.text, newline=newline) if self.by_head else self._lines(newline)

    def _rows(
        self, lines: Iterable[str], separator: str, quote: str, strict: bool = True
    ) -> Iterator[list[str]]:
        # Without strict, a quoted field that is never closed swallows all the rows after it.
        options: dict[str, Any] = (
            {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE, "quotechar": None}
        )
        return csv.reader(lines, delimiter=separator, strict=strict, **options)

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        """The header, read from the file unless it is given."""
        path = self.path
        try:
            header = next(reader, []) if self.options.columns is None else self.options.columns
        except csv.Error as error:
            raise DataError(f"{path} has no header line that can be read ({error}); correct it") from error
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated or not header:
            found = f"the column {listed(repeated)} more than once" if repeated else "no header line"
            raise DataError(
                f"{path} has {found}; its first line must name each column once, or give csv.columns="
            )
        return header

    def _checked(self, reader: Iterator[list[str]], header: list[str], problems: Problems) -> Iterator[Row]:
        """Rows after the header, and whether each is broken and therefore empty."""
        number = 0
        while True:
            problem = remedy = ""
            try:
                row = next(reader)
                if not row:  # a blank line
                    continue
                if len(row) != len(header):
                    problem = f"{len(row)} field{'s' * (len(row) != 1)} where the header has {len(header)}"
                    remedy = "Quote fields that hold the separator."
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):
                    raise DataError(
                        f"{self.path}, row {number + 1}: a quotation mark opens a field that is never "
                        'closed, so where the row ends is not known; close it, write "" where it belongs to '
                        "the text, or give csv.quote='' if fields are not quoted"
                    ) from error
                problem = f"a quoted field that continues after its end ({error})"
                remedy = (
                    "Write \"\" for quotation marks within quoted fields, or give csv.quote='' if fields are "
                    "not quoted."
                )
            number += 1
            if problem:
                problems.add((str(self.path), number), "", problem, remedy)
            yield ([None] * len(header) if problem else row), bool(problem)

    def trec_stream(self) -> StreamedPart:
        """All judgements of a file of TREC, read as they are needed: four fields a line, and no header.

        Raises:
            DataError: when the file holds anything else.
        """
        if not self._is_trec():
            raise DataError(
                f"{self.path} holds no judgements of TREC, four fields a line, such as '7 0 doc12 1'; give "
                "tables the suffix .csv, .tsv, .jsonl or .parquet"
            )

        def rows(problems: Problems) -> Iterator[Row]:
            for number, line in enumerate(filter(str.strip, self._lines(None, log=True)), start=1):
                row: list[Any] = line.split()
                broken = len(row) != len(TREC_COLUMNS)
                if broken:
                    problem = f"{len(row)} field{'s' * (len(row) != 1)} in place of {len(TREC_COLUMNS)}"
                    remedy = f"Each line must be {' '.join(TREC_COLUMNS)}."
                    problems.add((str(self.path), number), "", problem, remedy)
                yield ([None] * len(TREC_COLUMNS) if broken else row), broken

        note = f"{', '.join(TREC_COLUMNS)} as columns, as TREC writes judgements without a header"
        return self._stream(TREC_COLUMNS, rows, [note])

    def _is_trec(self) -> bool:
        lines = [line for line in self.text[:SAMPLE].split("\n")[:20] if line.strip()]
        return bool(lines) and all(TREC_LINE.fullmatch(line.rstrip("\r")) for line in lines[:10])
