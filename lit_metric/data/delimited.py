"""CSV and TSV files: separator, quotation marks and encoding are found, or can be given.

The parser is Python's ``csv`` in strict mode. That of pyarrow accepts a quoted field that is never closed, or
that continues after its end, so it would lose rows without an error.
"""

from __future__ import annotations

import codecs
import csv
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lit_metric.data.errors import DataError, Problems, listed
from lit_metric.data.table import PackedRows, Part

logger = logging.getLogger(__name__)

NAMES = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
TREC_COLUMNS = ["query-id", "iteration", "corpus-id", "score"]
TREC_LINE = re.compile(r"\S+[ \t]+Q?0[ \t]+\S+[ \t]+-?\d+[ \t]*")
BYTE_ORDER_MARKS = (  # the longer first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""A line with its end."""
SAMPLE = 1 << 16  # characters in which the separator is searched


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


def decode(path: Path, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text of a file, and a note of its encoding if that was found and is not UTF-8.

    Bytes that are no UTF-8 become lone surrogates, which are an error where their column is used.

    Raises:
        DataError: when the file is not in the given encoding, or in that of its byte-order mark.
    """
    data = path.read_bytes()
    mark = next((name for start, name in BYTE_ORDER_MARKS if data.startswith(start)), None)
    name = encoding or mark or "utf-8"
    if not (encoding or mark):  # UTF-16 without a byte-order mark: every other byte is NUL
        start = data[:4096]
        even, odd = start[::2].count(0), start[1::2].count(0)
        for zeros, others, wide in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
            if zeros > len(start) // 5 and not others:
                name = wide
    if name == "utf-8":
        text = data.decode(errors="surrogateescape")
        _log_legacy_encoding(path, text)
        return text, []
    try:
        text = data.decode(name)
    except UnicodeError as error:
        place = getattr(error, "start", 0)
        line = data[:place].count(b"\n") + 1
        raise DataError(
            f"{path} is not in the encoding {name}: {error} (line {line}); name another"
        ) from error
    usual = encoding is not None or name == "utf-8-sig"
    return text.removeprefix("\ufeff"), [] if usual else [f"the encoding {name}"]


def _log_legacy_encoding(path: Path, text: str) -> None:
    """Show how a file reads in the encoding of Excel, if it has no UTF-8 character besides ASCII."""
    strange = re.search("[\udc80-\udcff]", text)
    if strange is None or re.search("[^\x00-\x7f\udc80-\udcff]", text):
        return
    start = max(map(text[: strange.start()].rfind, " \t\n,;|\"'")) + 1
    word = re.compile(r"\S*").match(text, start)
    assert word is not None
    logger.info(
        "%s is not UTF-8; in the encoding cp1252, which Excel writes in Western Europe, it has %r: give "
        "csv.encoding='cp1252' if that is right, or another",
        path,
        word[0].encode(errors="surrogateescape")[:40].decode("cp1252", "replace"),
    )


class DelimitedFile:
    """A file of rows and fields: CSV, TSV, or relevance judgements as TREC writes them.

    Args:
        path: of the file. One with the suffix ``.tsv`` has tabs unless another separator is found in it.
        problems: where rows that can't be parsed are noted.
        options: given by the user; those that are None are found.

    Raises:
        DataError: when the file is not in its encoding.
    """

    def __init__(self, path: Path, problems: Problems, options: CsvOptions) -> None:
        self.path = path
        self.problems = problems
        self.options = options
        self.text, self.notes = decode(path, options.encoding)
        self.separator = options.separator
        if excel := re.match(r"sep=(.)\r?\n", self.text):  # a line that Excel understands
            self.text = self.text[excel.end() :]
            self.separator = self.separator or excel[1]

    def csv_part(self) -> Part:
        """All rows of a CSV file.

        Raises:
            DataError: when it has no header line that can be read, or a quoted field is never closed.
        """
        if self.options.columns is None and self._is_trec():
            return self.trec_part()
        limit = csv.field_size_limit(sys.maxsize)  # the default refuses texts of more than 128 KiB
        try:
            if self.separator is None:
                usual = "\t" if self.path.suffix.lower() == ".tsv" else ","
                self.separator = self._find_separator(usual)
                self.notes += [f"the separator {NAMES[self.separator]}"] * (self.separator != usual)
            quote = self.options.quote
            if quote is None:
                quote = '"'
                if self.separator == "\t" and re.search(r'(?:\A|[\t\r\n])"', self.text):
                    quote = '"' if self._has_quoted_fields() else ""
                    whose = "around fields" if quote else "as part of the texts"
                    self.notes.append(f"quotation marks {whose}")
            return self._parse(self._rows(self.text, self.separator, quote))
        finally:
            csv.field_size_limit(limit)

    def _find_separator(self, usual: str) -> str:
        """The separator by which most rows have as many fields as the header, which has at least two."""
        sample = self.text[:SAMPLE]
        if len(self.text) > SAMPLE:
            sample = sample[: sample.rfind("\n") + 1] or sample
        quote = '"' if self.options.quote is None else self.options.quote
        best, agreed = usual, 0.0
        for separator in dict.fromkeys([usual, *NAMES]):
            rows = [row for row in islice(self._rows(sample, separator, quote, strict=False), 200) if row]
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
        lines = [line.split("\t") for line in re.split(r"\r\n|\r|\n", self.text) if line]
        if any(field.startswith('"') for field in lines[0]):
            return True
        wrong = sum(len(line) != len(lines[0]) for line in lines)
        try:
            rows = [row for row in self._rows(self.text, "\t", '"') if row]
        except csv.Error:
            return False
        wrong_if_quoted = sum(len(row) != len(lines[0]) for row in rows)
        if wrong != wrong_if_quoted:
            return wrong_if_quoted < wrong
        fields = [field for line in lines for field in line if field.startswith('"')]
        whole = [re.fullmatch(r'"(?:[^"]|"")*"', field) for field in fields]
        return all(whole) and any('""' in field[1:-1] for field in fields)

    def _rows(self, text: str, separator: str, quote: str, strict: bool = True) -> Iterator[list[str]]:
        # Without strict, a quoted field that is never closed swallows all the rows after it.
        options: dict[str, Any] = (
            {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE, "quotechar": None}
        )
        lines = (match[0] for match in LINE.finditer(text))  # StringIO would take four bytes a character
        return csv.reader(lines, delimiter=separator, strict=strict, **options)

    def _parse(self, reader: Iterator[list[str]]) -> Part:
        """The header, unless it is given, and all rows."""
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
        rows = PackedRows(header)
        broken: set[int] = set()
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
                return self._part(rows, broken, self.notes)
            except csv.Error as error:
                if "end of data" in str(error):
                    raise DataError(
                        f"{path}, row {len(rows) + 1}: a quotation mark opens a field that is never closed, "
                        'so where the row ends is not known; close it, write "" where it belongs to the '
                        "text, or give csv.quote='' if fields are not quoted"
                    ) from error
                problem = f"a quoted field that continues after its end ({error})"
                remedy = (
                    "Write \"\" for quotation marks within quoted fields, or give csv.quote='' if fields are "
                    "not quoted."
                )
            if problem:
                broken.add(len(rows))
                self.problems.add((str(path), len(rows) + 1), "", problem, remedy)
            rows.append({} if problem else dict(zip(header, row, strict=True)))

    def trec_part(self) -> Part:
        """All judgements of a file of TREC: four fields a line, and no header.

        Raises:
            DataError: when the file holds anything else.
        """
        if not self._is_trec():
            raise DataError(
                f"{self.path} holds no judgements of TREC, four fields a line, such as '7 0 doc12 1'; give "
                "tables the suffix .csv, .tsv, .jsonl or .parquet"
            )
        rows = PackedRows(TREC_COLUMNS)
        broken = set()
        for line in filter(str.strip, (match[0] for match in LINE.finditer(self.text))):
            row = line.split()
            if len(row) != len(TREC_COLUMNS):
                problem = f"{len(row)} field{'s' * (len(row) != 1)} in place of {len(TREC_COLUMNS)}"
                remedy = f"Each line must be {' '.join(TREC_COLUMNS)}."
                self.problems.add((str(self.path), len(rows) + 1), "", problem, remedy)
                broken.add(len(rows))
                row = []
            rows.append(dict(zip(TREC_COLUMNS, row, strict=False)))
        note = f"{', '.join(TREC_COLUMNS)} as columns, as TREC writes judgements without a header"
        return self._part(rows, broken, [note])

    def _is_trec(self) -> bool:
        lines = [line for line in self.text[:SAMPLE].split("\n")[:20] if line.strip()]
        return bool(lines) and all(TREC_LINE.fullmatch(line.rstrip("\r")) for line in lines[:10])

    def _part(self, rows: PackedRows, broken: set[int], notes: list[str]) -> Part:
        return Part.of_stream(
            str(self.path), len(rows), rows.columns, rows.stream, frozenset(broken), ", ".join(notes)
        )
