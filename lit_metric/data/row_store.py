"""The rows of text files, read once from their beginning: in memory while they are few, else on disk."""

from __future__ import annotations

import bisect
import json
import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lit_metric.data.errors import Problems
from lit_metric.data.progress import track
from lit_metric.data.table import ROWS_AT_ONCE, Part, StreamedPart
from lit_metric.data.texts import IN_MEMORY, default_cache_dir

Place = tuple[int, int]
"""Where the bytes of a column begin, and their number."""


class StoredRows:
    """Columns of what JSON can hold, added in blocks of rows and read by column and rows.

    Above 64 MB they go to a file without a name. It takes room on the disk of ``folder``, and the system
    removes it with the process, however that ends.

    Args:
        folder: of the file; :func:`~lit_metric.data.texts.default_cache_dir` if None.

    Example:
        >>> rows = StoredRows()
        >>> rows.add(2, {"text": ["a", None]})
        >>> rows.add(1, {"text": [["b"]], "n": [3]})
        >>> len(rows), rows.cut("text", 1, 3), rows.cut("n", 0, 3)
        (3, [None, ['b']], [None, None, 3])
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = folder
        self._ends: list[int] = []
        self._blocks: list[dict[str, Place | list[Any]]] = []
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._size = 0

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def add(self, rows: int, columns: Mapping[str, list[Any]]) -> None:
        """Add the values of ``rows`` rows; columns that are missing have None there."""
        self._blocks.append({name: self._write(values) for name, values in columns.items()})
        self._ends.append(len(self) + rows)

    def _write(self, values: list[Any]) -> Place | list[Any]:
        try:
            data = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        except RecursionError:  # a list within a list within a list ...
            return values
        written = data.encode("utf-8", "surrogatepass")
        place = self._size, len(written)
        self._size += len(written)
        self._memory += written
        if self._size > IN_MEMORY:
            if self._file is None:
                folder = default_cache_dir() if self._folder is None else Path(self._folder)
                folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            self._file.seek(0, os.SEEK_END)
            self._file.write(self._memory)
            self._memory.clear()
        return place

    def _read(self, place: Place) -> bytes:
        start, length = place
        if self._file is None:
            return bytes(self._memory[start : start + length])
        self._file.seek(start)
        return self._file.read(length)

    def cut(self, column: str, start: int, stop: int) -> list[Any]:
        """The values of a column from row ``start`` to ``stop``."""
        values: list[Any] = []
        block = bisect.bisect_right(self._ends, start)
        while len(values) < stop - start:
            first = self._ends[block - 1] if block else 0
            found = self._blocks[block].get(column)
            if found is None:
                found = [None] * (self._ends[block] - first)
            elif isinstance(found, tuple):
                found = json.loads(self._read(found).decode("utf-8", "surrogatepass"))
            values += found[max(start - first, 0) : stop - first]
            block += 1
        return values


def stored(part: StreamedPart, problems: Problems, folder: str | Path | None) -> Part:
    """All rows of a file that is read from its beginning to its end.

    Args:
        part: the file.
        problems: where rows that can't be read are noted.
        folder: see :class:`StoredRows`.
    """
    rows, broken, take = StoredRows(folder), set[int](), part.open(problems)
    for block in track(iter(lambda: take(ROWS_AT_ONCE), None), f"reading {part.name}", "block"):
        assert block is not None
        broken.update(row + len(rows) for row in block.broken)
        rows.add(block.rows, {name: block.load(name) for name in block.columns})
    return Part(
        part.name,
        len(rows),
        [*part.columns],
        lambda name: rows.cut(name, 0, len(rows)),
        frozenset(broken),
        part.dialect,
        cut=rows.cut,
    )
