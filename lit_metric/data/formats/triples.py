"""Facts of a graph: head, relation, tail, with a text for each entity."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lit_metric.data.dataset import Dataset
from lit_metric.data.formats import columns as cells
from lit_metric.data.formats.base import DOCUMENT, ReadOptions, Supervision
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.judged import JudgedData, JudgedRow, RowsBySplit
from lit_metric.data.formats.judgements import TextsById
from lit_metric.data.items import QUERY
from lit_metric.data.readers import Source
from lit_metric.data.table import Table

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Triples(Supervision):
    """Facts of a graph, such as ``(breathe, hypernym, exhale)``: ``train``, ``validation`` and ``test`` are
    tables of them.

    A query is a head with a relation, and its answers are the tails. Its text is ``"RELATION: TEXT OF THE
    HEAD"``, with spaces for underscores in the relation, so that truncation never drops the relation. Queries
    have the role ``"query"``, entities ``"document"``; all entities are one corpus. Training uses the facts
    of ``train`` only. An evaluation ignores answers that only other splits know.

    Args:
        entities: file, data set or hub id with the texts of entities, by id.
        head: the column of the head's id.
        relation: the column of relations.
        tail: the column of the tail's id.
        id: the column of ids in ``entities``; guessed if None.
        text: the column of texts there; of several columns, such as ``[lemmas, definition]``, the texts are
            joined. Lists of texts are joined by commas.
        text_separator: between joined texts.
        inverse: whether there are queries for heads, too: ``"inverse RELATION: TEXT OF THE TAIL"``.
        group: ``"relation"``: recall is also measured for the queries of each relation in either direction;
            the group of ``"inverse member of: …"`` is ``inverse_member_of``.

    Raises:
        ValueError: when ``group`` is anything else.
    """

    entities: Source
    head: str = "head"
    relation: str = "relation"
    tail: str = "tail"
    id: str | None = None
    text: str | list[str] | None = None
    text_separator: str = ": "
    inverse: bool = True
    group: Literal["relation"] | None = None

    def __post_init__(self) -> None:
        if self.group not in (None, "relation"):
            raise ValueError(f"group={self.group!r} must be 'relation' or None")

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        table = reading.open(self.entities)
        entities = TextsById(table, self.id, self.text, self.text_separator, reading)
        columns = {name: reading.columns(table) for name, table in tables.items() if name != "predict"}
        rows: RowsBySplit = {name: self._rows(name, each, entities) for name, each in columns.items()}
        data = JudgedData(columns, reading, (QUERY, DOCUMENT), entities.texts)
        data.hold_out(rows)
        text = self.text if isinstance(self.text, str) else None
        dataset = data.build(rows, tables.get("predict"), text, filtered=True)
        counts = {name: len(dataset.splits[name]) for name in rows}
        logger.info("%d facts, read as %s queries", len(dataset.judgements or ()), counts)
        return dataset

    def _rows(self, name: str, columns: Columns, entities: TextsById) -> list[JudgedRow]:
        """The distinct facts of a table as queries, those for tails first."""
        heads = columns.read(self.head, partial(cells.name, what="id"))
        relations = columns.read(self.relation, cells.name)
        tails = columns.read(self.tail, partial(cells.name, what="id"))
        for column, ids in ((self.head, heads), (self.tail, tails)):
            entities.check_references(columns, column, ids)
        facts: dict[tuple[str, str, str], int] = {}
        for row in columns.kept:
            facts.setdefault((heads[row], relations[row], tails[row]), row)
        rows = []
        for inverse in (False, True) if self.inverse else (False,):
            for fact, row in facts.items():
                head, relation, tail = fact
                words = " ".join(relation.replace("_", " ").replace("/", " ").split()) or relation
                if inverse:
                    head, words, tail = tail, f"inverse {words}", head
                rows.append(
                    JudgedRow(
                        name,
                        row,
                        anchor=f"{words}: {entities.texts[head]}",
                        others=[entities.texts[tail]],
                        negatives=[],
                        score=None,
                        unit=fact,
                        key=f"{head} {words}",
                        group=words.replace(" ", "_") if self.group else None,
                    )
                )
        return rows
