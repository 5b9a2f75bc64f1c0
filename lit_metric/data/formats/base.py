"""What the formats of supervision have in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.delimited import CsvOptions
from lit_metric.data.errors import BadRows, DataError, Problems, listed
from lit_metric.data.formats.columns import Checked, Columns
from lit_metric.data.formats.listed_rows import CorrectedLabels, ExcludedRows
from lit_metric.data.items import Items, Vocabulary
from lit_metric.data.readers import Source, read_table
from lit_metric.data.table import Table
from lit_metric.data.texts import Integers

logger = logging.getLogger(__name__)

AUTO = "auto"
SPLITS = ("train", "validation", "test")
SPELLINGS = {"val": "validation", "valid": "validation", "dev": "validation"}
TEXT_NAMES = ("text", "sentence", "question", "utterance", "query", "title", "content", "document", "body")
DOCUMENT = "document"


@dataclass(frozen=True)
class ReadOptions:
    """How sources are read.

    Args:
        problems: where bad rows are noted.
        validation_share: the share of the training data that is held out if there is no validation source,
            in [0, 1); 0 holds nothing out.
        seed: of the choice of the share.
        alone: whether validation items search each other, not the training items.
        csv: how CSV files are written; options that are None are found in each file.
        cache_dir: where rows and texts beyond 64 MB go; see :class:`~lit_metric.data.texts.TextWriter`.
        opened: tables that were opened while reading, besides those of the splits.
        excluded: rows to leave out, of items with labels.
        corrected: rows that have another label than their file says.
    """

    problems: Problems = field(default_factory=Problems)
    validation_share: float = 0.1
    seed: int = 0
    alone: bool = True
    csv: CsvOptions | None = None
    cache_dir: str | None = None
    opened: list[Table] = field(default_factory=list)
    excluded: ExcludedRows | None = None
    corrected: CorrectedLabels | None = None

    def columns(self, table: Table) -> Columns:
        """The columns of a table, whose problems are noted with the others."""
        return Columns(table, self.problems, folder=self.cache_dir)

    def open(self, source: Source) -> Table:
        """Open a table besides those of the splits, such as a table of texts; see
        :func:`~lit_metric.data.read_table`."""
        table = read_table(source, problems=self.problems, csv=self.csv, folder=self.cache_dir)
        self.opened.append(table)
        return table

    def hold_out(self, groups: int, least: int = 1) -> Integers:
        """Choose the groups that go to validation.

        They are ``validation_share`` of all, at least one of two, and never all; none if the share is 0.

        Args:
            groups: how many there are.
            least: groups to choose, if at least as many are left.

        Returns:
            Their numbers, which groups have by their first appearance in the training rows.
        """
        if not self.validation_share:
            return np.empty(0, dtype=np.int64)
        least = least if groups >= 2 * least else 1
        count = min(max(least, round(self.validation_share * groups)), groups - 1)
        return np.random.default_rng(self.seed).permutation(groups)[: max(count, 0)]

    def refuse_empty(self, rows: Mapping[str, Sized]) -> None:
        """Raise if a split has no rows left.

        Raises:
            DataError: with the bad rows, if there are any.
        """
        self.problems.refuse()
        for name, kept in rows.items():
            if not len(kept):
                if len(self.problems):
                    raise BadRows(self.problems, f"no row of {name}= can be used: ")
                raise DataError(f"{name}= has no rows")


ReadItems = Callable[[Columns], tuple[Items, Vocabulary]]
"""Makes items of the rows of a table in which nothing is wrong."""


class Supervision(ABC):
    """What a person knows about items, and in which columns it stands.

    A format checks every row of every table before it refuses any, so that one error names all bad rows.
    """

    @abstractmethod
    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        """Check the tables, and make items and relations of them.

        Args:
            tables: by split: ``train``, ``validation``, ``test``, ``predict``; at least one.
            reading: where problems go, and how a validation split is made.

        Raises:
            DataError: when a column is missing, or rows can't be used.
        """

    def items_to_encode(self, table: Table, other: Table | None = None) -> ReadItems | None:
        """What makes items of rows that are only encoded, block by block, each row on its own.

        Args:
            table: the first rows of their source.
            other: the first rows of another split, whose columns are used where ``table`` has them.

        Returns:
            What is called with each block; None where :meth:`read` has to read all rows, as by default.

        Raises:
            DataError: when a column is missing.
        """
        return None


def rows_by_split(columns: Mapping[str, Columns], split: str | None) -> dict[str, tuple[str, Sequence[int]]]:
    """The rows of each split, as the name of their table and their numbers, without bad rows.

    Args:
        columns: by table.
        split: the column of ``train`` that names the split of each row; None: each table is a split.
            ``"auto"``: a column ``split``, if ``train`` is the only source, and the column holds nothing but
            names of splits.

    Raises:
        DataError: when a column is named, and there are other tables than ``train``.
    """
    if split == AUTO:
        split = _guess_split(columns)
    if split is None:
        return {name: (name, each.kept) for name, each in columns.items()}
    if columns.keys() - {"predict"} != {"train"}:
        raise DataError(
            f"split={split!r} says that a column of train= names the splits, so give train= and no other "
            f"source; got {', '.join(columns) or 'none'}"
        )
    if split not in columns["train"].table.columns:
        raise DataError(
            f"split={split!r} is no column: {columns['train'].table.layout}. Without such a column, leave "
            "split= out, and a share is held out for validation"
        )

    def check(value: Any) -> Checked:
        value = SPELLINGS.get(value, value) if isinstance(value, str) else value
        return value, None if value in SPLITS else (f"{value!r}", f"Use one of {listed(SPLITS)}.")

    values = columns["train"].read(split, check)
    found = {name: array("q") for name in SPLITS}
    for row in columns["train"].kept:
        found[values[row]].append(row)
    rows: dict[str, tuple[str, Sequence[int]]] = {
        name: ("train", each) for name, each in found.items() if each
    }
    if "predict" in columns:
        rows["predict"] = ("predict", columns["predict"].kept)
    return {name: each for name, each in rows.items() if each[1]} or {"train": ("train", [])}


def guess_split(tables: Mapping[str, Table]) -> tuple[str | None, Counter[str]]:
    """A column ``split`` of ``train`` that names splits, and how many rows each split has; None if there is
    no such column, or if there are other sources than ``train``."""
    if tables.keys() - {"predict"} != {"train"}:
        return None, Counter()
    column = tables["train"].guess(("split",))
    found = Counter(split_named(value) for value in tables["train"].peek(column)) if column else Counter()
    if len(found) < 2 or "train" not in found or not {*found} <= {*SPLITS}:
        return None, Counter()
    return column, found


def split_named(value: Any) -> str:
    """The split that a cell names, by one spelling."""
    return SPELLINGS.get(value, value) if isinstance(value, str) else ""


def _guess_split(columns: Mapping[str, Columns]) -> str | None:
    """See :func:`guess_split`; one log line names the column."""
    column, found = guess_split({name: each.table for name, each in columns.items()})
    if column is None:
        return None
    logger.info(
        "column %r of %s says which split each row belongs to (%s); set split to null to have a share held "
        "out instead",
        column,
        columns["train"].table.name,
        ", ".join(f"{name}: {found[name]}" for name in SPLITS if name in found),
    )
    return column


def log_guesses(guesses: Iterable[tuple[Table, str]]) -> None:
    """Log one line on the columns that were guessed: for each table, ``OPTION='COLUMN', ...``."""
    tables: dict[str, list[str]] = {}
    for table, columns in guesses:
        if columns:
            tables.setdefault(columns, []).append(table.name)
    found = [
        f"{', '.join(dict.fromkeys(names))} taken by their usual names: {columns}"
        for columns, names in tables.items()
    ]
    if found:
        logger.info("columns of %s", "; of ".join(found))


def guesses_of(given: Mapping[str, object], columns: Mapping[str, object]) -> str:
    """The columns that were found and not given, by option, as ``OPTION='COLUMN', ...``."""
    return ", ".join(f"{name}={column!r}" for name, column in columns.items() if column and not given[name])


def apart(fingerprints: Tensor, splits: Mapping[str, Tensor]) -> Tensor:
    """Fingerprints by which items of different splits are no duplicates of each other.

    Relations hold for an item and its duplicates. Without this, an answer that only the test split knows
    could not be a negative of the same question in training.

    Args:
        fingerprints: ``[N]`` int64, equal for items of equal content.
        splits: the items of each split by its name. Items of ``"train"`` and items of no split keep their
            fingerprints.

    Example:
        >>> import torch
        >>> ids = {"train": torch.tensor([0, 1]), "validation": torch.tensor([2]), "test": torch.tensor([3])}
        >>> apart(torch.tensor([8, 8, 8, 8]), ids).tolist()
        [8, 8, 9, 10]
    """
    fingerprints = fingerprints.clone()
    for number, ids in enumerate((ids for name, ids in splits.items() if name != "train"), start=1):
        fingerprints[ids] ^= number
    return fingerprints
