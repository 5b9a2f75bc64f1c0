"""Queries, documents, and judgements of which document answers which query."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.errors import DataError
from lit_metric.data.formats import columns as cells
from lit_metric.data.formats.base import (
    DOCUMENT,
    TEXT_NAMES,
    ReadItems,
    ReadOptions,
    Supervision,
    guesses_of,
    log_guesses,
)
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.judged import JudgedData, texts_to_encode
from lit_metric.data.formats.judged_rows import JudgedRows, RowsBySplit
from lit_metric.data.items import QUERY
from lit_metric.data.ragged import Ragged
from lit_metric.data.readers import Source
from lit_metric.data.table import Table
from lit_metric.data.texts import Texts, distinct

QUERY_NAMES = ("query", "query-id", "query_id", "qid", "topic")
DOCUMENT_NAMES = ("document", "corpus-id", "corpus_id", "document_id", "doc_id", "docid", "did", "passage_id")
RELEVANCE_NAMES = ("relevance", "score", "grade", "rel", "label")
ID_NAMES = ("id", "_id", "query_id", "document_id", "doc_id", "key")


class TextsById:
    """A table of texts with an id each, checked.

    Args:
        table: of queries, documents or entities.
        id: the column of ids; guessed if None.
        text: the column or columns of texts; guessed if None, with a ``title`` before it if there is one.
        separator: between the texts of several columns.
        reading: where problems go.

    Attributes:
        columns: the table.
        ids: ``[n]`` of all rows.
        texts: ``[n]`` of all rows.
        rows: ``[K]`` int64, the rows of distinct ids, rising.
    """

    def __init__(
        self,
        table: Table,
        id: str | None,
        text: str | Sequence[str] | None,
        separator: str,
        reading: ReadOptions,
    ) -> None:
        self.columns = reading.columns(table)
        id_column = table.named(id, ID_NAMES, "id", "ids")
        text_columns = text or table.named(None, TEXT_NAMES, "text", "texts")
        title = None if text or text_columns == "title" else table.guess(("title",))
        if title:  # as BEIR has them
            text_columns = [title, str(text_columns)]
        guesses = guesses_of({"id": id, "text": text}, {"id": id_column, "text": text_columns})
        log_guesses([(table, guesses)])
        self.ids = self.columns.strings(id_column, partial(cells.name, what="id"))
        self.texts = self.columns.texts(text_columns, separator)
        bad = np.array([*self.columns.bad], dtype=np.int64)
        self._fingerprints = self.ids.fingerprints()
        self.rows = self.columns.unique(self.ids, self._fingerprints, id_column)
        self._bad_ids = {*self.ids.take(bad)} - {""}

    def groups(self, column: str) -> list[str | None]:
        """The group of each row, None for none."""
        return self.columns.read(column, lambda value: cells.name(value, empty=True))

    def find(self, columns: Columns, column: str, ids: Texts) -> Tensor:
        """``[n]`` the row of each of ``ids [n]`` here, -1 for none. Rows of ``columns`` whose id has no text
        here are noted.

        A text that cannot be used is noted already, and its references are left out with it.
        """
        rows, name = self.rows.numpy(), self.columns.table.name
        _, numbers = distinct(
            Texts.joined([self.ids, ids]),
            np.concatenate([self._fingerprints, ids.fingerprints()]),
            np.concatenate([rows, np.arange(len(self.ids), len(self.ids) + len(ids))]),
        )
        numbers = numbers[len(rows) :]
        for row, id in enumerate(ids if self._bad_ids else ()):
            if row not in columns.bad and id in self._bad_ids:
                if columns.problems.skip:
                    columns.note(row, column, f"{id!r} is left out of {name}", "Repair it there.")
                columns.bad.add(row)
        for row in np.flatnonzero(numbers >= len(rows)).tolist():
            if row not in columns.bad:
                columns.note(row, column, f"{ids[row]!r} is not in {name}", "Add it there, or drop the row.")
        found = np.full(len(ids), -1)
        known = numbers < len(rows)
        found[known] = rows[numbers[known]]
        return torch.from_numpy(found)


@dataclass(eq=False)
class Judgements(Supervision):
    """Relevance judgements: ``train``, ``validation`` and ``test`` are tables of which document answers which
    query, and how well.

    Queries of the same text are one item, and so are documents. Queries have the role ``"query"``, documents
    ``"document"``. All documents are one corpus, which the queries of every split search.

    Args:
        queries: file, data set or hub id with the texts of queries, by id.
        corpus: the same for documents.
        query_id: the column of judgements that names the query.
        document_id: the column that names the document.
        relevance: the column of grades, which are numbers; without one, all grades are 1.
        id: the column of ids in ``queries`` and ``corpus``.
        text: the column of texts in both; of several columns, such as ``[title, text]``, the texts are
            joined. Queries may have only one of them. If None, a usual name, and ``title`` before it where
            there is such a column.
        text_separator: between joined texts.
        positive_from: the least grade that makes a document relevant; any above 0 if None. A judgement below
            that makes it an explicit negative.
        unjudged: what documents without a judgement for a query are: ``"negative"``, or ``"ignored"``.
        folds: split the queries of ``train`` into this many folds by a hash of their id. There is no other
            source then.
        fold: the fold that is the test split, from 0. The next one is the validation split, and the others
            are for training.
        group: a column of ``queries`` with names, which may be empty; recall is measured for each group, too.

    Raises:
        ValueError: when a number is out of range.
    """

    queries: Source
    corpus: Source
    query_id: str | None = None
    document_id: str | None = None
    relevance: str | None = None
    id: str | None = None
    text: str | list[str] | None = None
    text_separator: str = " "
    positive_from: float | None = None
    unjudged: Literal["negative", "ignored"] = "negative"
    folds: int | None = None
    fold: int = 0
    group: str | None = None

    def __post_init__(self) -> None:
        if self.folds is not None and (self.folds < 3 or not 0 <= self.fold < self.folds):
            raise ValueError(
                f"folds={self.folds} must be at least 3, and fold={self.fold} within 0..{self.folds - 1}"
            )
        if self.unjudged not in ("negative", "ignored"):
            raise ValueError(f"unjudged must be 'negative' or 'ignored', not {self.unjudged!r}")

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        queries, documents = self._texts(reading)
        groups = None if self.group is None else queries.groups(self.group)
        columns: dict[str, Columns] = {}
        rows: RowsBySplit = {}
        graded: dict[str, str] = {}
        for name, table in tables.items():
            if name != "predict":
                columns[name] = reading.columns(table)
                rows[name], graded[name] = self._rows(name, columns[name], queries, documents, groups)
        data = JudgedData(
            columns,
            reading,
            (QUERY, DOCUMENT),
            Texts.joined([queries.texts, documents.texts]),
            names=Texts.joined([queries.ids, documents.ids]),
            corpus=len(queries.texts) + documents.rows,
            graded=graded,
            relations={"positive_from": self.positive_from, "unjudged": self.unjudged},
        )
        if self.folds is not None:
            rows = self._folds(rows, self.folds, queries)
        data.hold_out(rows)
        text = self.text if isinstance(self.text, str) else None
        return data.build(rows, tables.get("predict"), text)

    def items_to_encode(self, table: Table, other: Table | None = None) -> ReadItems:
        return texts_to_encode(table, self.text if isinstance(self.text, str) else None, (QUERY, DOCUMENT))

    def _texts(self, reading: ReadOptions) -> list[TextsById]:
        """Queries and documents. Of several columns of texts, each table uses those that it has."""
        tables = [reading.open(source) for source in (self.queries, self.corpus)]
        for column in self.text if isinstance(self.text, list) else []:
            if not any(column in table.columns for table in tables):
                has = " and ".join(table.layout for table in tables)
                raise DataError(f"text={self.text!r}: there is no column {column!r}; {has}")
        texts = []
        for table in tables:
            columns: str | list[str] | None = self.text
            if isinstance(columns, list):
                columns = [column for column in columns if column in table.columns] or columns
            texts.append(TextsById(table, self.id, columns, self.text_separator, reading))
        return texts

    def _rows(
        self,
        name: str,
        columns: Columns,
        queries: TextsById,
        documents: TextsById,
        groups: list[str | None] | None,
    ) -> tuple[JudgedRows, str]:
        """The judgements of a table, and the column of their grades."""
        table = columns.table
        names = [
            table.named(self.query_id, QUERY_NAMES, "query_id", "queries"),
            table.named(self.document_id, DOCUMENT_NAMES, "document_id", "documents"),
        ]
        ids = [columns.strings(each, partial(cells.name, what="id")) for each in names]
        of_queries = queries.find(columns, names[0], ids[0])
        of_documents = documents.find(columns, names[1], ids[1])
        relevance = self.relevance or table.guess(RELEVANCE_NAMES)
        found = {"query_id": names[0], "document_id": names[1], "relevance": relevance}
        log_guesses([(table, guesses_of(vars(self), found))])
        grades = torch.ones(len(table)) if relevance is None else columns.numbers(relevance)
        kept = columns.kept_rows
        anchors = of_queries[kept]
        rows = JudgedRows(
            name,
            kept,
            anchors,
            Ragged(len(queries.texts) + of_documents[kept], torch.arange(len(kept) + 1)),
            scores=grades[kept],
            units=anchors,
            groups=None if groups is None else [groups[row] for row in anchors.tolist()],
        )
        return rows, relevance or ""

    def _folds(self, rows: RowsBySplit, folds: int, queries: TextsById) -> RowsBySplit:
        """The judgements by fold."""
        if rows.keys() != {"train"}:
            raise DataError(
                f"folds={folds} parts the queries of train=, so give no other source; got {', '.join(rows)}"
            )
        train = rows["train"]
        anchors, places = train.anchors.unique(return_inverse=True)
        numbers = [(fold_of(queries.ids[row], folds) - self.fold) % folds for row in anchors.tolist()]
        fold = torch.tensor(numbers, dtype=torch.int64)[places]
        parts = {"train": fold > 1, "validation": fold == 1, "test": fold == 0}
        return {name: train.select(chosen.nonzero()[:, 0]) for name, chosen in parts.items()}


def fold_of(id: str, folds: int) -> int:
    """The fold of a query: the first 8 bytes of the SHA-256 of its id, big-endian, modulo ``folds``.

    Example:
        >>> [fold_of(str(number), 5) for number in range(1, 8)]
        [3, 1, 3, 4, 3, 4, 0]
    """
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") % folds
