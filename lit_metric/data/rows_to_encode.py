"""Rows that are only encoded: they become items block by block, so a source need not fit into memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lit_metric.data.blocks import RowBlocks
from lit_metric.data.delimited import CsvOptions
from lit_metric.data.errors import BadRows, DataError, Problems
from lit_metric.data.formats.base import AUTO, ReadItems, Supervision
from lit_metric.data.formats.columns import AbsentTexts, Columns
from lit_metric.data.items import Items, Vocabulary
from lit_metric.data.readers import Source
from lit_metric.data.sources import guess_supervision
from lit_metric.data.table import Table

log = logging.getLogger(__name__)

HEAD = 1000
"""Rows of a source that are looked at before it is read."""


@dataclass(frozen=True, eq=False)
class Block:
    """The items of some rows.

    Args:
        number: of the block among those of all sources.
        rows: ``[n]`` int64, the row of each item, from 0, as if the sources were one after the other.
        items: ``[n]``, with ids from 0.
        vocabulary: of these items.
    """

    number: int
    rows: Tensor
    items: Items
    vocabulary: Vocabulary


class RowsToEncode:
    """All rows of one or several sources as items, in blocks. :meth:`survey` comes first.

    Args:
        sources: each with what makes items of its rows; see
            :meth:`~lit_metric.data.Supervision.items_to_encode`.
        csv: how CSV and TSV files are written.

    Attributes:
        starts: the first row of each block, and the number of all rows.
        kept: how many rows of each block can be used.

    Example:
        >>> rows = RowsToEncode.open([({"predict": {"text": ["a", "b", "c"]}}, None)])
        >>> digest = rows.survey(2, Problems())
        >>> [(block.number, block.rows.tolist(), list(block.vocabulary.texts)) for block in rows.blocks([1])]
        [(1, [2], ['c'])]
    """

    def __init__(self, sources: Sequence[tuple[Source, ReadItems]], csv: CsvOptions | None = None) -> None:
        self.sources = list(sources)
        self.csv = csv
        self.block_rows = 0
        self.starts: list[int] = [0]
        self.kept: list[int] = []
        self._known: list[list[str]] = []

    @classmethod
    def open(
        cls,
        data_sets: Iterable[tuple[Mapping[str, Source | None], Supervision | None]],
        split: str | None = AUTO,
        csv: CsvOptions | None = None,
    ) -> RowsToEncode | None:
        """The rows of the sources ``predict`` of data sets.

        Args:
            data_sets: of each, the sources by split, and what is known about items; guessed if None. Of other
                sources, only the names of columns and some rows are read.
            split: the column that names the split of each row, if the supervision is guessed.
            csv: how CSV and TSV files are written.

        Returns:
            None if there are no such sources, or a supervision that needs all rows at once.

        Raises:
            DataError: when a source or a column is missing.
        """
        found = []
        for sources, supervision in data_sets:
            if (source := sources.get("predict")) is None:
                continue
            others = (each for name, each in sources.items() if name != "predict" and each is not None)
            table = head_of(source, csv)
            other = next((head_of(each, csv) for each in others), None)
            supervision = supervision or guess_supervision(table if other is None else other, split)
            read = supervision.items_to_encode(table, other)
            if read is None:
                return None
            found.append((source, read))
        return cls(found, csv) if found else None

    def survey(self, block_rows: int, problems: Problems) -> str:
        """Read all rows once, count them, and check them.

        Args:
            block_rows: rows of a block. A block has rows of one source only.
            problems: where bad rows are noted.

        Returns:
            The sha256 of which rows can be used and of what is in them, hexadecimal.

        Raises:
            DataError: when rows can't be used and ``problems`` doesn't leave them out, or none can be used.
        """
        self.block_rows, self.starts, self.kept, self._known = block_rows, [0], [], []
        digest, absent = hashlib.sha256(), AbsentTexts()
        for source, read in self.sources:
            blocks = RowBlocks(source, block_rows, problems, self.csv)
            for table in blocks.tables(problems):
                columns = Columns(table, problems, absent)
                items, vocabulary = read(columns)
                rows = columns.kept_rows + self.starts[-1]
                self.starts.append(self.starts[-1] + len(table))
                self.kept.append(len(rows))
                for tensor in (rows, items.fingerprints, items.roles, items.weights):
                    if tensor is not None:
                        digest.update(tensor.numpy().tobytes())
                if vocabulary.roles is not None:
                    digest.update(vocabulary.roles[items.texts.values].numpy().tobytes())
                    digest.update(repr(vocabulary.role_names).encode())
            blocks.source.log_dialects()
            self._known.append(blocks.source.columns)
        problems.refuse()
        if not sum(self.kept):
            if len(problems):
                raise BadRows(problems, "no row of predict= can be used: ")
            raise DataError("predict= has no rows")
        if len(problems):
            log.warning("%d bad rows are left out", len(problems))
        absent.log()
        return digest.hexdigest()

    def blocks(self, wanted: Collection[int]) -> Iterator[Block]:
        """The blocks with these numbers, in ascending order.

        Raises:
            DataError: when a source has changed since :meth:`survey`.
        """
        left, number = {*wanted}, 0
        for (source, read), known in zip(self.sources, self._known, strict=True):
            if not left:
                return
            blocks = RowBlocks(source, self.block_rows, Problems(skip=True), self.csv, known)
            for table in blocks.tables(Problems(skip=True)):
                if number in left:
                    left.remove(number)
                    columns = Columns(table, Problems(skip=True), AbsentTexts())
                    items, vocabulary = read(columns)
                    rows = columns.kept_rows
                    if len(rows) != self.kept[number]:
                        break
                    yield Block(number, rows + self.starts[number], items, vocabulary)
                number += 1
                if not left:
                    return
        raise DataError("predict= has other rows than at the start; don't change it meanwhile")


def head_of(source: Source, csv: CsvOptions | None) -> Table:
    """The first rows of a source, for the names of its columns and to look at their values."""
    blocks = RowBlocks(source, HEAD, Problems(skip=True), csv)
    return next(blocks.tables(Problems(skip=True)), blocks.source)
