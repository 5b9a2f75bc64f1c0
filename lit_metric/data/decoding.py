"""Text files: their encoding is found, or can be given."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from lit_metric.data.errors import DataError

logger = logging.getLogger(__name__)

BYTE_ORDER_MARKS = (  # the longer first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WIDE = re.compile("[^\x00-\x7f\udc80-\udcff]")
"""A character besides ASCII that was read as UTF-8."""


def encoding_of(path: Path) -> str:
    """The encoding by a file's byte-order mark or NUL bytes, else UTF-8."""
    with path.open("rb") as file:
        start = file.read(4096)
    mark = next((name for begin, name in BYTE_ORDER_MARKS if start.startswith(begin)), None)
    if mark is not None:
        return mark
    even, odd = start[::2].count(0), start[1::2].count(0)  # UTF-16 without a byte-order mark
    for zeros, others, wide in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > len(start) // 5 and not others:
            return wide
    return "utf-8"


def decode(path: Path, encoding: str | None = None, head: int | None = None) -> tuple[str, list[str]]:
    """The text of a file, and a note of its encoding if that was found and is not UTF-8.

    Bytes that are no UTF-8 become lone surrogates, which are an error where their column is used.

    Args:
        path: of the file.
        encoding: found if None.
        head: read only this number of bytes, or all; only with all of them, a file that may be in the
            encoding of Excel is logged.

    Raises:
        DataError: when the file is not in the given encoding, or in that of its byte-order mark.
    """
    name = encoding or encoding_of(path)
    with path.open("rb") as file:
        data = file.read(-1 if head is None else head)
    whole = head is None or len(data) < head
    if name == "utf-8":
        text = codecs.getincrementaldecoder(name)("surrogateescape").decode(data, whole)
        if head is None:
            _log_legacy_encoding(path, text)
        return text, []
    try:
        text = codecs.getincrementaldecoder(name)().decode(data, whole)
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
    if strange is None or WIDE.search(text):
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


def text_lines(path: Path, encoding: str | None, newline: str | None, log: bool = False) -> Iterator[str]:
    """The lines of a file with their ends, read as they are needed; see :func:`decode`.

    Args:
        path: of the file.
        encoding: found if None.
        newline: as in :func:`open`.
        log: whether to log, after the last line, that the file may be in the encoding of Excel.

    Raises:
        DataError: when the file is not in its encoding.
    """
    name = encoding or encoding_of(path)
    errors = "surrogateescape" if name == "utf-8" else "strict"
    strange, wide = "", not log or name != "utf-8"
    number = 0
    try:
        with path.open(encoding=name, errors=errors, newline=newline) as file:
            for number, line in enumerate(file, start=1):
                if not wide and not line.isascii():
                    wide = WIDE.search(line) is not None
                    strange = strange or line
                yield line if number > 1 else line.removeprefix("\ufeff")
    except UnicodeError:
        decode(path, encoding)  # says where
        raise
    if strange and not wide:
        _log_legacy_encoding(path, strange)
