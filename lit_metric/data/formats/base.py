"""What every format of supervision has in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.delimited import CsvOptions
from lit_metric.data.errors import BadRows, DataError, Problems
from lit_metric.data.formats.columns import Columns, guess, named, split_by
from lit_metric.data.items import QUERY, Items
from lit_metric.data.readers import Source, read_table
from lit_metric.data.table import Table
from lit_metric.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
SPELT = {"val": "validation", "valid": "validation", "dev": "validation"}
TEXT_NAMES = ("text", "sentence", "question", "utterance", "query", "title", "content", "document", "body")
DOCUMENT = "document"
Plans = Literal["classes", "pairs", "scores"]

__all__ = ["DOCUMENT", "QUERY", "SPLITS", "TEXT_NAMES", "Numbering", "Plans", "ReadOptions", "Supervision"]


@dataclass(frozen=True)
class ReadOptions:
    """How sources are read.

    Args:
        problems: where bad rows are noted.
        validation_share: the share of the training data that is split off where there is no validation
            source, in (0, 1).
        seed: of that split.
        alone: whether validation items search each other, and not the training items.
        csv: how CSV files are written, as far as it is known.
        opened: tables that were opened while reading, beside those of the splits.
    """

    problems: Problems = field(default_factory=Problems)
    validation_share: float = 0.1
    seed: int = 0
    alone: bool = True
    csv: CsvOptions | None = None
    opened: list[Table] = field(default_factory=list)

    def open(self, source: Source) -> Table:
        """A table beside those of the splits, such as one of texts; see
        :func:`~lit_metric.data.read_table`."""
        table = read_table(source, problems=self.problems, csv=self.csv)
        self.opened.append(table)
        return table


class Supervision(ABC):
    """What a person knows about items, and in which columns it stands.

    A format checks every row of every table before it refuses any, so that all bad rows are told together.
    """

    planned: Plans = "classes"
    """What batches are made of unless a planner is given: classes, positive pairs, or scored pairs."""

    @abstractmethod
    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        """Check the tables and take items and relations from them.

        Args:
            tables: by split: ``train``, ``validation``, ``test``, ``predict``; at least one.
            reading: where problems go, and how a validation split is made.

        Raises:
            DataError: when a column is missing, or rows can't be used.
        """


class Numbering:
    """Numbers items of one text each, distinct by split, role and text."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.roles: list[str] = []
        self.keys: list[str] = []
        self.rows: dict[int, int] = {}  # of items that are rows of a table, which row
        self._known: dict[tuple[str, str, str], int] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, split: str, role: str, text: str, key: str = "") -> int:
        """The id of an item, a new one if there is none like it; of equal ones the first key counts."""
        number = self._known.setdefault((split, role, text), len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
            self.roles.append(role)
            self.keys.append(key)
        return number

    def placed(self) -> Tensor:
        """``[N]`` int64, the row of each item, -1 where it is none."""
        return ids_of(self.rows.get(number, -1) for number in range(len(self)))

    def splits(self) -> dict[str, Tensor]:
        """The items that were numbered for each split, all of them; without those for none."""
        found: dict[str, list[int]] = {}
        for (split, _, _), number in self._known.items():
            found.setdefault(split, []).append(number)
        return {split: ids_of(numbers) for split, numbers in found.items() if split in SPLITS}

    def encode(self) -> tuple[Items, Vocabulary]:
        """The items in the order of their ids; without roles if all have the empty one."""
        roles = self.roles if any(self.roles) else None
        keys = self.keys if any(self.keys) else None
        return Items.encode([[text] for text in self.texts], "text", keys, roles=roles)


def rows_by_split(columns: Mapping[str, Columns], split: str | None) -> dict[str, list[tuple[str, int]]]:
    """The rows of each split, as ``(table, row)``; those in which something is wrong are left out.

    Where no column is named, and ``train`` is the only source, a column ``split`` that says nothing but
    ``train``, ``validation`` and ``test`` is taken.

    Raises:
        DataError: when a column says which split a row belongs to, and there are other tables than ``train``.
    """
    split = split or _split_column(columns)
    if split is None:
        return {name: [(name, row) for row in each.kept] for name, each in columns.items()}
    if columns.keys() - {"predict"} != {"train"}:
        raise DataError(
            f"split={split!r} says that a column of train= names the splits, so give train= and no other "
            f"source; got {', '.join(columns) or 'none'}"
        )
    if split not in columns["train"].table.columns:
        raise DataError(
            f"split={split!r} is no column: {columns['train'].table.layout}. Without such a column, leave "
            "split= out (None), and a share is held out for validation"
        )
    values = split_by(columns["train"], split, SPLITS, SPELT)
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in SPLITS}
    for row in columns["train"].kept:
        found[values[row]].append(("train", row))
    if "predict" in columns:
        found["predict"] = [("predict", row) for row in columns["predict"].kept]
    return {name: rows for name, rows in found.items() if rows} or {"train": []}


def _split_column(columns: Mapping[str, Columns]) -> str | None:
    """The column ``split`` of the only source, if it holds nothing but names of splits, of which one line
    is logged."""
    if columns.keys() - {"predict"} != {"train"}:
        return None
    table = columns["train"].table
    column = guess(table, ("split",))
    if column is None:
        return None
    found = Counter(
        SPELT.get(value, value) if isinstance(value, str) else None for value in table.peek(column)
    )
    if len(found) < 2 or "train" not in found or not {*found} <= {*SPLITS}:
        return None
    told = ", ".join(f"{name}: {found[name]}" for name in SPLITS if name in found)
    logger.info(
        "column %r of %s says which split each row belongs to (%s); rename it to have a share held out "
        "instead",
        column,
        table.name,
        told,
    )
    return column


def say_guesses(guessed: Iterable[tuple[Table, str]]) -> None:
    """Log one line on the columns that were taken by their usual names: which, for each table."""
    tables: dict[str, list[str]] = {}
    for table, taken in guessed:
        tables.setdefault(taken, []).append(table.name)
    told = [
        f"{', '.join(dict.fromkeys(names))} taken by their usual names: {taken}"
        for taken, names in tables.items()
        if taken
    ]
    if told:
        logger.info("columns of %s", "; of ".join(told))


def apart(fingerprints: Tensor, splits: Mapping[str, Tensor]) -> Tensor:
    """Fingerprints by which items of different splits are no copies of one another.

    Relations take what holds of an item to hold of its copies. Without this, an answer that only the test
    split knows could not be a negative of the same question in training.

    Args:
        fingerprints: ``[N]`` int64, equal for items of equal content.
        splits: the items of each split by its name; those of ``"train"`` keep theirs, and so do items that
            are in none.

    Example:
        >>> ids = {"train": torch.tensor([0, 1]), "validation": torch.tensor([2]), "test": torch.tensor([3])}
        >>> apart(torch.tensor([8, 8, 8, 8]), ids).tolist()
        [8, 8, 9, 10]
    """
    fingerprints = fingerprints.clone()
    for number, ids in enumerate((ids for name, ids in splits.items() if name != "train"), start=1):
        fingerprints[ids] ^= number
    return fingerprints


def contradictions(
    anchors: npt.NDArray[np.int64],
    candidates: npt.NDArray[np.int64],
    grades: npt.NDArray[np.float32],
    symmetric: bool,
) -> list[tuple[int, int]]:
    """Places of judgements that grade a pair unlike the first judgement of that pair, and places of those.

    Example:
        >>> ids = np.array([0, 1, 0])
        >>> contradictions(ids, 1 - ids, np.array([1, 0, 0], np.float32), symmetric=False)
        [(2, 0)]
    """
    if not len(anchors):
        return []
    low, high = (
        (np.minimum(anchors, candidates), np.maximum(anchors, candidates))
        if symmetric
        else (
            anchors,
            candidates,
        )
    )
    keys = low * (int(max(anchors.max(), candidates.max())) + 1) + high
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    firsts = first[inverse.reshape(-1)]
    places = np.flatnonzero(grades != grades[firsts])
    return list(zip(places.tolist(), firsts[places].tolist(), strict=True))


def predicted(numbering: Numbering, table: Table, text: str | None, role: str, problems: Problems) -> Tensor:
    """Number the texts of a table that are only to be encoded, each row as an item of its own."""
    columns = Columns(table, problems)
    given = text if text in table.columns else None
    values = columns.texts(named(table, given, TEXT_NAMES, "text", "texts"))
    refuse_empty({"predict": columns.kept}, problems)
    numbers = [numbering.add(f"predict {row}", role, values[row]) for row in columns.kept]
    numbering.rows.update(zip(numbers, columns.kept, strict=True))
    return ids_of(numbers)


def predicted_rows(tables: Mapping[str, Table]) -> dict[str, int]:
    """How many rows there are to encode, where there is a table of them."""
    return {"predict": len(tables["predict"])} if "predict" in tables else {}


def ids_of(numbers: Iterable[int]) -> Tensor:
    """An int64 vector."""
    return torch.tensor(list(numbers), dtype=torch.int64)


def refuse_empty(rows: Mapping[str, Sequence[object]], problems: Problems) -> None:
    """Raise if a split has nothing left but bad rows, or nothing at all.

    Raises:
        DataError: with the bad rows, if there are any.
    """
    problems.refuse()
    for name, kept in rows.items():
        if not kept:
            if len(problems):
                raise BadRows(problems, f"no row of {name}= can be used: ")
            raise DataError(f"{name}= has no rows")
