"""Queries, documents, and judgements of which document answers which query."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset, GivenPairs
from lit_metric.data.errors import DataError
from lit_metric.data.formats import columns as values
from lit_metric.data.formats.base import (
    DOCUMENT,
    QUERY,
    TEXT_NAMES,
    Numbering,
    Plans,
    ReadOptions,
    Supervision,
    apart,
    contradictions,
    ids_of,
    predicted,
    predicted_rows,
    refuse_empty,
    say_guesses,
)
from lit_metric.data.formats.columns import Columns, guess, named
from lit_metric.data.formats.hold_out import held_out
from lit_metric.data.readers import Source
from lit_metric.data.relations import PairRelations
from lit_metric.data.table import Table

QUERY_NAMES = ("query", "query-id", "query_id", "qid", "topic")
DOCUMENT_NAMES = ("document", "corpus-id", "corpus_id", "document_id", "doc_id", "docid", "did", "passage_id")
RELEVANCE_NAMES = ("relevance", "score", "grade", "rel", "label")
ID_NAMES = ("id", "_id", "query_id", "document_id", "doc_id", "key")


@dataclass
class Texts:
    """A table of texts with an id each.

    Args:
        columns: the table, checked.
        texts: ``[n]``.
        rows: the row of each id.
        lost: ids of rows that can't be used.
    """

    columns: Columns
    texts: list[str]
    rows: dict[str, int]
    lost: set[str]

    @classmethod
    def read(
        cls,
        table: Table,
        id: str | None,
        text: str | Sequence[str] | None,
        separator: str,
        reading: ReadOptions,
    ) -> Texts:
        """Check a table.

        Args:
            table: of queries, documents, entities.
            id: the column of ids; guessed if None.
            text: the column or columns of texts; guessed if None, with a ``title`` before it if there is one.
            separator: between the texts of several columns.
            reading: where problems go.
        """
        columns = Columns(table, reading.problems)
        of_ids = named(table, id, ID_NAMES, "id", "ids")
        of_texts = text or named(table, None, TEXT_NAMES, "text", "texts")
        title = None if text or of_texts == "title" else guess(table, ("title",))
        if title:  # as BEIR has them
            of_texts = [title, str(of_texts)]
        told = {"id": None if id else of_ids, "text": None if text else of_texts}
        say_guesses([(table, ", ".join(f"{name}={each!r}" for name, each in told.items() if each))])
        ids = columns.read(of_ids, values.identifier)
        texts = columns.texts(of_texts, separator)
        unusable = set(columns.bad)
        rows = columns.unique(ids, of_ids)
        lost = {ids[row] for row in unusable} - {None}
        return cls(columns, texts, rows, lost)

    def groups(self, column: str) -> dict[str, str | None]:
        """The group of each id, None for none."""
        names = self.columns.read(column, lambda value: values.label(value, empty=True))
        return {id: names[row] for id, row in self.rows.items()}

    @property
    def name(self) -> str:
        """What errors call the table."""
        return self.columns.table.name


@dataclass
class _Rows:
    """A table of judgements, checked."""

    columns: Columns
    queries: list[str]
    documents: list[str]
    grades: list[float]


class Judgements(Supervision):
    """Relevance judgements: ``train``, ``validation`` and ``test`` are tables of which document answers which
    query, how well.

    Queries of the same text are one item, documents too. Queries have the role ``"query"``, documents
    ``"document"``. All documents are one corpus, which the queries of every split search.

    Args:
        queries: file, data set or hub id with the texts of queries, by id.
        corpus: likewise, the documents.
        query_id: the column of judgements that names the query.
        document_id: that which names the document.
        relevance: that which holds the grade, a number; without one, all grades are 1.
        id: the column of ids in ``queries`` and ``corpus``.
        text: the column of texts in both; of several columns, such as ``[title, text]``, the texts are put
            one after the other. Queries may have but one of them. If None, a usual name, and ``title`` before
            it where there is such a column.
        text_separator: what is put between them.
        positive_from: the least grade that makes a document relevant; any above 0 if None. A judgement below
            that makes it an explicit negative.
        unjudged: what documents are that nobody judged for a query: ``"negative"``, or ``"ignored"``.
        folds: part the queries of ``train`` into so many folds by a hash of their id; there is no other
            source then.
        fold: the fold that is the test split, from 0; the one after it is the validation split, the others
            are trained on.
        group: a column of ``queries`` with names, which may be empty; recall is measured for each group, too.

    Raises:
        ValueError: when a number is out of range.
    """

    planned: Plans = "pairs"

    def __init__(
        self,
        queries: Source,
        corpus: Source,
        query_id: str | None = None,
        document_id: str | None = None,
        relevance: str | None = None,
        id: str | None = None,
        text: str | list[str] | None = None,
        text_separator: str = " ",
        positive_from: float | None = None,
        unjudged: Literal["negative", "ignored"] = "negative",
        folds: int | None = None,
        fold: int = 0,
        group: str | None = None,
    ) -> None:
        if folds is not None and (folds < 3 or not 0 <= fold < folds):
            raise ValueError(f"folds={folds} must be at least 3, and fold={fold} within 0..{folds - 1}")
        if unjudged not in ("negative", "ignored"):
            raise ValueError(f"unjudged must be 'negative' or 'ignored', not {unjudged!r}")
        self.queries = queries
        self.corpus = corpus
        self.query_id = query_id
        self.document_id = document_id
        self.relevance = relevance
        self.id = id
        self.text = text
        self.text_separator = text_separator
        self.positive_from = positive_from
        self.unjudged: Literal["negative", "ignored"] = unjudged
        self.folds = folds
        self.fold = fold
        self.group = group

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        queries, documents = self._texts(
            [reading.open(source) for source in (self.queries, self.corpus)], reading
        )
        groups = {} if self.group is None else queries.groups(self.group)
        judged = {
            name: self._check(table, queries, documents, reading)
            for name, table in tables.items()
            if name != "predict"
        }
        places = self._places(judged, reading)
        refuse_empty(places, reading.problems)
        numbering = Numbering()
        of_documents = {
            id: numbering.add("", DOCUMENT, documents.texts[row], id) for id, row in documents.rows.items()
        }
        splits = {"corpus": ids_of(sorted(set(of_documents.values())))}
        facts: list[tuple[int, int, float]] = []
        group_of: dict[int, str | None] = {}
        for split, rows in places.items():
            asked = set()
            for name, row in rows:
                part = judged[name]
                id = part.queries[row]
                query = numbering.add(split, QUERY, queries.texts[queries.rows[id]], id)
                asked.add(query)
                group_of.setdefault(query, groups.get(id))
                facts.append((query, of_documents[part.documents[row]], part.grades[row]))
            splits[split] = ids_of(sorted(asked))
        if "predict" in tables:
            text = self.text if isinstance(self.text, str) else None
            splits["predict"] = predicted(numbering, tables["predict"], text, DOCUMENT, reading.problems)
        grouped = [group_of.get(number) for number in range(len(numbering))]
        content = self._content(numbering, facts, splits, grouped if any(grouped) else None)
        content.row_counts.update(predicted_rows(tables))
        return content

    def _texts(self, tables: Sequence[Table], reading: ReadOptions) -> list[Texts]:
        """Queries and documents; of several columns of texts each takes those that it has."""
        if not isinstance(self.text, list):
            return [Texts.read(table, self.id, self.text, self.text_separator, reading) for table in tables]
        for column in self.text:
            if not any(column in table.columns for table in tables):
                has = " and ".join(table.layout for table in tables)
                raise DataError(f"text={self.text!r}: there is no column {column!r}; {has}")
        texts = []
        for table in tables:
            own = [column for column in self.text if column in table.columns] or self.text
            texts.append(Texts.read(table, self.id, own, self.text_separator, reading))
        return texts

    def _check(self, table: Table, queries: Texts, documents: Texts, reading: ReadOptions) -> _Rows:
        columns = Columns(table, reading.problems)
        names = [
            named(table, self.query_id, QUERY_NAMES, "query_id", "queries"),
            named(table, self.document_id, DOCUMENT_NAMES, "document_id", "documents"),
        ]
        asked, found = (columns.read(name, values.identifier) for name in names)
        refer(columns, names[0], asked, queries)
        refer(columns, names[1], found, documents)
        relevance = self.relevance or guess(table, RELEVANCE_NAMES)
        given = (self.query_id, self.document_id, self.relevance)
        told = zip(("query_id", "document_id", "relevance"), given, [*names, relevance], strict=True)
        say_guesses(
            [(table, ", ".join(f"{name}={found!r}" for name, own, found in told if found and not own))]
        )
        grades = [1.0] * len(table) if relevance is None else columns.read(relevance, values.number)
        rows = _Rows(columns, asked, found, grades)
        self._refuse_contradictions(rows, relevance or "")
        return rows

    def _refuse_contradictions(self, rows: _Rows, relevance: str) -> None:
        """Note judgements of a pair that an earlier row graded otherwise."""
        kept = rows.columns.kept
        numbers: dict[tuple[str, str], int] = {}
        pairs = [
            [numbers.setdefault((kind, ids[row]), len(numbers)) for row in kept]
            for kind, ids in (("query", rows.queries), ("document", rows.documents))
        ]
        grades = np.array([rows.grades[row] for row in kept], dtype=np.float32)
        anchors, candidates = (np.array(each, dtype=np.int64) for each in pairs)
        for place, first in contradictions(anchors, candidates, grades, symmetric=False):
            where = rows.columns.where(kept[first], kept[place])
            problem = f"the pair of {where} again, with another grade"
            rows.columns.note(kept[place], relevance, problem, "Keep one judgement of each pair.")

    def _places(self, judged: dict[str, _Rows], reading: ReadOptions) -> dict[str, list[tuple[str, int]]]:
        """The judgements of each split, as ``(table, row)``."""
        places = {name: [(name, row) for row in rows.columns.kept] for name, rows in judged.items()}
        if self.folds is not None:
            if places.keys() != {"train"}:
                raise DataError(
                    f"folds={self.folds} parts the queries of train=, so give no other source; got "
                    f"{', '.join(places)}"
                )
            given, places = places["train"], {"train": [], "validation": [], "test": []}
            for name, row in given:
                places[self._split_of(judged[name].queries[row])].append((name, row))
        elif "train" in places and "validation" not in places:
            queries = [judged[name].queries[row] for name, row in places["train"]]
            chosen = held_out(queries, reading)
            held = [each for each, id in zip(places["train"], queries, strict=True) if id in chosen]
            if held:
                places["validation"] = held
                places["train"] = [each for each in places["train"] if each not in set(held)]
        return places

    def _split_of(self, id: str) -> str:
        assert self.folds is not None
        return {0: "test", 1: "validation"}.get((fold_of(id, self.folds) - self.fold) % self.folds, "train")

    def _content(
        self,
        numbering: Numbering,
        facts: list[tuple[int, int, float]],
        splits: dict[str, Tensor],
        groups: list[str | None] | None,
    ) -> Dataset:
        items, vocabulary = numbering.encode()
        given = GivenPairs(
            ids_of(query for query, _, _ in facts),
            ids_of(document for _, document, _ in facts),
            torch.tensor([grade for *_, grade in facts], dtype=torch.float32),
        )
        relations = PairRelations(
            given.anchors,
            given.candidates,
            given.targets,
            apart(items.fingerprints, numbering.splits()),
            self.positive_from,
            self.unjudged,
        )
        return Dataset(
            items, vocabulary, relations, splits, judgements=given, groups=groups, rows=numbering.placed()
        )


def refer(columns: Columns, column: str, ids: Sequence[str], texts: Texts) -> None:
    """Note the rows whose id has no text. Where it has one that can't be used, that is told already: such
    rows are left out with it."""
    lost = [row for row, id in enumerate(ids) if row not in columns.bad and id in texts.lost]
    for row in lost:
        if columns.problems.skip:
            columns.note(row, column, f"{ids[row]!r} is left out of {texts.name}", "Repair it there.")
        columns.bad.add(row)
    columns.among(ids, column, texts.rows, texts.name)


def fold_of(id: str, folds: int) -> int:
    """The fold of a query: the first 8 bytes of the SHA-256 of its id, big-endian, modulo ``folds``.

    Example:
        >>> [fold_of(str(number), 5) for number in range(1, 8)]
        [3, 1, 3, 4, 3, 4, 0]
    """
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") % folds
