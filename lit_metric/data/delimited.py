"""CSV and TSV files: separator, quotation marks and encoding are found, or can be given."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lit_metric.data.errors import DataError, Problems, listed
from lit_metric.data.table import Part

logger = logging.getLogger(__name__)

BETWEEN = "Quote fields that hold the separator."
QUOTE = "Write \"\" for quotation marks within quoted fields, or give csv.quote='' if fields are not quoted."
NAMES = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
JUDGED = ["query-id", "iteration", "corpus-id", "score"]
TREC_LINE = re.compile(r"\S+[ \t]+Q?0[ \t]+\S+[ \t]+-?\d+[ \t]*")
MARKS = (  # the longer first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 1 << 16  # characters from which the separator is found


@dataclass(frozen=True)
class CsvOptions:
    """How CSV and TSV files are written. What is None is found in each file, and logged if it is unusual.

    Args:
        separator: the character between fields, such as ``";"``, or ``"\\t"`` for tabs.
        quote: the character around fields that hold separators or line breaks; ``""`` if there is none, and
            quotation marks are part of the texts.
        encoding: such as ``"cp1252"``, which Excel writes in Western Europe. Without it, a file is UTF-8, or
            what its byte-order mark says.
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


def read_csv(path: Path, problems: Problems, options: CsvOptions) -> Part:
    """All rows of a file.

    Args:
        path: of the file. One with the suffix ``.tsv`` has tabs unless something else is found in it.
        problems: where rows that can't be parsed are noted.
        options: what is known of the file.

    Raises:
        DataError: when it has no header line that can be read, or a quoted field is never closed.
    """
    with _any_length():
        return _read(path, problems, options)


def _read(path: Path, problems: Problems, options: CsvOptions) -> Part:
    text, found = decoded(path, options.encoding)
    text, separator = _first_line(text, options.separator)
    if options.columns is None and _is_trec(text):
        return _trec(path, text, problems)
    if separator is None:
        usual = "\t" if path.suffix.lower() == ".tsv" else ","
        separator = _separator(text, usual, '"' if options.quote is None else options.quote)
        found += [f"the separator {NAMES[separator]}"] * (separator != usual)
    quote = options.quote
    if quote is None:
        quote = '"'
        if separator == "\t" and re.search(r'(?:\A|[\t\r\n])"', text):
            quote = '"' if _quoted(text) else ""
            found.append("quotation marks around fields" if quote else "quotation marks as part of the texts")
    rows, header, broken = _parsed(path, text, separator, quote, options.columns, problems)
    places = {name: place for place, name in enumerate(header)}
    return Part(
        str(path),
        len(rows),
        header,
        lambda name: [row[places[name]] for row in rows],
        frozenset(broken),
        ", ".join(found),
    )


def decoded(path: Path, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text of a file, and a note of its encoding if that was found and is not UTF-8.

    Bytes that are no UTF-8 become lone surrogates, which are reported when their column is used.

    Raises:
        DataError: when the file is not in the encoding that was given, or that its byte-order mark says.
    """
    data = path.read_bytes()
    mark = next((name for start, name in MARKS if data.startswith(start)), None)
    name = encoding or mark or _sixteen(data) or "utf-8"
    if name == "utf-8":
        text = data.decode(errors="surrogateescape")
        _say_legacy(path, data, text)
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


def _sixteen(data: bytes) -> str | None:
    """UTF-16 without a byte-order mark: every other byte is NUL."""
    start = data[:4096]
    even, odd = start[::2].count(0), start[1::2].count(0)
    for zeros, others, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > len(start) // 5 and not others:
            return name
    return None


def _say_legacy(path: Path, data: bytes, text: str) -> None:
    """Show how a file would read in the encoding of Excel, if it has no character of UTF-8 beside ASCII."""
    strange = re.search("[\udc80-\udcff]", text)
    if strange is None or re.search("[^\x00-\x7f\udc80-\udcff]", text):
        return
    context = re.compile(r"\S*").match
    start = max(map(text[: strange.start()].rfind, " \t\n,;|\"'")) + 1
    word = context(text, start)
    assert word is not None
    shown = word[0].encode(errors="surrogateescape")[:40].decode("cp1252", "replace")
    logger.info(
        "%s is not UTF-8; in the encoding cp1252, which Excel writes in Western Europe, it has %r: give "
        "csv.encoding='cp1252' if that is right, or another",
        path,
        shown,
    )


def _first_line(text: str, separator: str | None) -> tuple[str, str | None]:
    """Without the line ``sep=;`` that Excel understands, and the separator, if it is known."""
    match = re.match(r"sep=(.)\r?\n", text)
    if match is None:
        return text, separator
    return text[match.end() :], separator or match[1]


def _separator(text: str, usual: str, quote: str) -> str:
    """The separator by which most rows have as many fields as the header, which are at least two."""
    sample = text[:_LOOKED_AT]
    if len(text) > _LOOKED_AT:
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, agreed = usual, 0.0
    for separator in dict.fromkeys([usual, *NAMES]):
        rows = [row for row in islice(_reader(sample, separator, quote, strict=False), 200) if row]
        if rows and len(rows[0]) > 1:
            share = sum(len(row) == len(rows[0]) for row in rows[1:]) / max(1, len(rows) - 1)
            share = share or 1e-9  # a header alone says something, too
            if share > agreed:
                best, agreed = separator, share
    return best


def _quoted(text: str) -> bool:
    """Whether quotation marks of a tab-separated file are those around fields, as in CSV.

    Files of retrieval collections know no quoting, while spreadsheets quote fields that hold a tab, a line
    break or a quotation mark. Fewer rows of a wrong length decide. Where both readings have as few, marks are
    quotes only if the header has them, or all are doubled within, as spreadsheets write them.
    """
    lines = [line.split("\t") for line in re.split(r"\r\n|\r|\n", text) if line]
    if any(field.startswith('"') for field in lines[0]):
        return True
    wrong = sum(len(line) != len(lines[0]) for line in lines)
    try:
        rows = [row for row in _reader(text, "\t", '"') if row]
    except csv.Error:
        return False
    as_quoted = sum(len(row) != len(lines[0]) for row in rows)
    if wrong != as_quoted:
        return as_quoted < wrong
    fields = [field for line in lines for field in line if field.startswith('"')]
    whole = [re.fullmatch(r'"(?:[^"]|"")*"', field) for field in fields]
    return all(whole) and any('""' in field[1:-1] for field in fields)


def _reader(text: str, separator: str, quote: str, strict: bool = True) -> Iterator[list[str]]:
    # Without strict, a quote that is never closed swallows all the rows after it.
    options: dict[str, Any] = (
        {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE, "quotechar": None}
    )
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict, **options)


@contextmanager
def _any_length() -> Iterator[None]:
    """Fields may have any length; the default of ``csv`` refuses texts of more than 128 KiB."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parsed(
    path: Path, text: str, separator: str, quote: str, columns: list[str] | None, problems: Problems
) -> tuple[list[list[Any]], list[str], set[int]]:
    """All rows, the names of the columns, and which rows are broken."""
    reader = _reader(text, separator, quote)
    try:
        header = next(reader, []) if columns is None else columns
    except csv.Error as error:
        raise DataError(f"{path} has no header line that can be read ({error}); correct it") from error
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated or not header:
        found = f"the column {listed(repeated)} more than once" if repeated else "no header line"
        raise DataError(
            f"{path} has {found}; its first line must name each column once, or give csv.columns="
        )
    rows, broken = _rows(reader, header, path, problems)
    return rows, header, broken


def _rows(
    reader: Iterator[list[str]], header: Sequence[str], path: Path, problems: Problems
) -> tuple[list[list[Any]], set[int]]:
    """All rows below the header, and which of them are broken."""
    rows: list[list[Any]] = []
    broken: set[int] = set()
    while True:
        problem = remedy = ""
        try:
            row = next(reader)
            if not row:  # a blank line
                continue
            if len(row) != len(header):
                fields = f"{len(row)} field{'s' * (len(row) != 1)}"
                problem, remedy = f"{fields} where the header has {len(header)}", BETWEEN
        except StopIteration:
            return rows, broken
        except csv.Error as error:
            if "end of data" in str(error):
                raise DataError(
                    f"{path}, row {len(rows) + 1}: a quotation mark opens a field that is never closed, so "
                    'where the row ends is not known; close it, write "" where it belongs to the text, or '
                    "give csv.quote='' if fields are not quoted"
                ) from error
            problem, remedy = f"a quoted field that goes on after its end ({error})", QUOTE
        if problem:
            broken.add(len(rows))
            problems.add((str(path), len(rows) + 1), "", problem, remedy)
        rows.append([None] * len(header) if problem else row)


def _is_trec(text: str) -> bool:
    """Whether a file holds judgements as TREC writes them: four fields, the second a 0, and no header."""
    lines = [line for line in text[:_LOOKED_AT].split("\n")[:20] if line.strip()]
    return bool(lines) and all(TREC_LINE.fullmatch(line.rstrip("\r")) for line in lines[:10])


def read_judged(path: Path, problems: Problems, options: CsvOptions) -> Part:
    """Judgements of TREC.

    Raises:
        DataError: when the file holds anything else.
    """
    text, _ = decoded(path, options.encoding)
    if not _is_trec(text):
        raise DataError(
            f"{path} holds no judgements of TREC, four fields a line, such as '7 0 doc12 1'; give tables the "
            "suffix .csv, .tsv, .jsonl or .parquet"
        )
    return _trec(path, text, problems)


def _trec(path: Path, text: str, problems: Problems) -> Part:
    rows: list[list[Any]] = []
    broken = set()
    for line in filter(str.strip, re.split(r"\r\n|\r|\n", text)):
        row: list[Any] = line.split()
        if len(row) != len(JUDGED):
            problem = f"{len(row)} field{'s' * (len(row) != 1)} in place of {len(JUDGED)}"
            problems.add((str(path), len(rows) + 1), "", problem, f"Each line must be {' '.join(JUDGED)}.")
            broken.add(len(rows))
            row = [None] * len(JUDGED)
        rows.append(row)
    note = f"{', '.join(JUDGED)} as columns, as TREC writes judgements without a header"
    return Part(
        str(path),
        len(rows),
        JUDGED,
        lambda name: [row[JUDGED.index(name)] for row in rows],
        frozenset(broken),
        note,
    )
