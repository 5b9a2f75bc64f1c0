"""The rows of a source in blocks, one after the other, so that a source need not fit into memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from lit_metric.data.delimited import CsvOptions
from lit_metric.data.errors import Problems
from lit_metric.data.readers import Source, SourceReader
from lit_metric.data.table import Part, StreamedPart, Table, Take

FIRST = 1000
"""Rows of JSON Lines whose columns are known before all are read."""


class RowBlocks:
    """The rows of a source in tables of equal length.

    CSV, TSV and JSON Lines are read as they are needed. Of a Parquet file, one row group of the columns in
    use is in memory. A data set saved by ``datasets`` stays on the disk. Other sources, such as a list in
    one JSON file, are read as a whole.

    Args:
        source: see :func:`~lit_metric.data.read_table`.
        rows: of each table; the last may have fewer.
        problems: where rows that can't be read are noted when the source is opened.
        csv: how CSV and TSV files are written.
        columns: known ones of JSON Lines, which have a column for each key in any row.

    Raises:
        DataError: as :func:`~lit_metric.data.read_table`.

    Example:
        >>> blocks = RowBlocks({"text": ["a", "b", "c"]}, 2, Problems())
        >>> [(table.column("text"), table.place(0)[1]) for table in blocks.tables(Problems())]
        [(['a', 'b'], 1), (['c'], 3)]
    """

    def __init__(
        self,
        source: Source,
        rows: int,
        problems: Problems,
        csv: CsvOptions | None = None,
        columns: Collection[str] = (),
    ) -> None:
        if rows < 1:
            raise ValueError(f"rows={rows}: a block has at least one row")
        self.rows = rows
        reader = _StreamReader(problems, csv or CsvOptions())
        reader.known = columns
        self.source = Table(reader.parts(source, None, ""))
        """All parts, for the names of columns; a part that is read in blocks has no rows there."""

    def tables(self, problems: Problems) -> Iterator[Table]:
        """All rows, from the first. What is wrong with rows of streamed files is noted in ``problems``."""
        pieces: list[Part] = []
        room = self.rows
        for part in self.source.parts:
            take = part.open(problems) if isinstance(part, StreamedPart) else _take_from(part)
            while (piece := take(room)) is not None:
                pieces.append(piece)
                room -= piece.rows
                if not room:
                    yield Table(pieces)
                    pieces, room = [], self.rows
        if pieces:
            yield Table(pieces)


class _StreamReader(SourceReader):
    """Opens files to be read from their beginning to their end, where that is possible."""

    head_rows = FIRST

    def _in_blocks(self, part: StreamedPart) -> Part:
        return part


def _take_from(part: Part) -> Take:
    """Reads the rows of a part that has all of them, in the file or in memory."""
    loaded: dict[str, list[Any]] = {}
    start = 0

    def take(count: int) -> Part | None:
        nonlocal start
        begin, end = start, min(start + count, part.rows)
        if begin == end:
            return None

        def load(column: str) -> list[Any]:
            if part.cut is not None:
                return part.cut(column, begin, end)
            if column not in loaded:
                loaded[column] = part.load(column)
            return loaded[column][begin:end]

        start = end
        broken = frozenset(row - begin for row in part.broken if begin <= row < end)
        return replace(part, rows=end - begin, load=load, broken=broken, cut=None, start=begin)

    return take
