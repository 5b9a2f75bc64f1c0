"""Facts of a graph: head, relation, tail, with a text for each entity."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

from lit_metric.data.dataset import Dataset
from lit_metric.data.formats import columns as cells
from lit_metric.data.formats.base import DOCUMENT, ReadItems, ReadOptions, Supervision
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.judged import JudgedData, texts_to_encode
from lit_metric.data.formats.judged_rows import JudgedRows, RowsBySplit
from lit_metric.data.formats.judgements import TextsById
from lit_metric.data.items import QUERY
from lit_metric.data.ragged import Ragged
from lit_metric.data.readers import Source
from lit_metric.data.table import Table
from lit_metric.data.texts import BLOCK, Integers, Texts, TextWriter, by_first_appearance

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
        self_negatives: whether the entity of a query is a negative of it, which ``PairPlanner(negatives=1)``
            puts into the batch. The texts of the two are nearly the same, so it comes first until something
            else is learned ("SimKGC", Wang et al., ACL 2022, section 3.2). A query that an entity of the same
            text answers has none.
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
    self_negatives: bool = False
    group: Literal["relation"] | None = None

    def __post_init__(self) -> None:
        if self.group not in (None, "relation"):
            raise ValueError(f"group={self.group!r} must be 'relation' or None")

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        table = reading.open(self.entities)
        entities = TextsById(table, self.id, self.text, self.text_separator, reading)
        columns = {name: reading.columns(table) for name, table in tables.items() if name != "predict"}
        texts, names, rows = [entities.texts], [entities.ids], RowsBySplit()
        fingerprints = [entities.texts.fingerprints()]
        for name, each in columns.items():
            start = sum(map(len, texts))
            rows[name], asked, named, found = self._queries(
                name, each, entities, fingerprints[0], start, reading.cache_dir
            )
            texts.append(asked)
            names.append(named)
            fingerprints.append(found)
        data = JudgedData(
            columns,
            reading,
            (QUERY, DOCUMENT),
            Texts.joined(texts),
            np.concatenate(fingerprints),
            names=Texts.joined(names),
            corpus=entities.rows,
        )
        data.hold_out(rows)
        text = self.text if isinstance(self.text, str) else None
        dataset = data.build(rows, tables.get("predict"), text, filtered=True)
        counts = {name: len(dataset.splits[name]) for name in rows}
        logger.info("%d facts, read as %s queries", len(dataset.judgements or ()), counts)
        return dataset

    def items_to_encode(self, table: Table, other: Table | None = None) -> ReadItems:
        return texts_to_encode(table, self.text if isinstance(self.text, str) else None, (QUERY, DOCUMENT))

    def _queries(
        self,
        name: str,
        columns: Columns,
        entities: TextsById,
        contents: Integers,
        start: int,
        folder: str | None,
    ) -> tuple[JudgedRows, Texts, Texts, Integers]:
        """The distinct facts of a table as queries, those for tails first; their texts and names, and the
        fingerprints of the texts.

        Args:
            name: of the table.
            columns: of the table.
            entities: their texts are the first.
            contents: fingerprints of the entities' texts.
            start: the place of the first query among all texts.
            folder: where texts beyond 64 MB go.
        """
        heads = columns.strings(self.head, partial(cells.name, what="id"))
        relations = columns.read(self.relation, cells.name)
        tails = columns.strings(self.tail, partial(cells.name, what="id"))
        ends = [
            entities.find(columns, column, ids).numpy()
            for column, ids in ((self.head, heads), (self.tail, tails))
        ]
        kept = columns.kept_rows.numpy()
        numbers: dict[str, int] = {}
        found = (numbers.setdefault(relations[row], len(numbers)) for row in kept.tolist())
        kinds = np.fromiter(found, dtype=np.int64, count=len(kept))
        both = by_first_appearance(ends[0][kept] * len(entities.ids) + ends[1][kept])[1]
        first = by_first_appearance(both * len(numbers) + kinds)[0]
        kept, kinds = kept[first], kinds[first]
        words = [" ".join(each.replace("_", " ").replace("/", " ").split()) or each for each in numbers]
        groups: list[str | None] = []
        anchors, others = (ends[0][kept], ends[1][kept]), (ends[1][kept], ends[0][kept])
        with TextWriter(folder) as texts, TextWriter(folder) as names:
            for inverse in range(1 + self.inverse):
                said = [f"inverse {each}" if inverse else each for each in words]
                for begin in range(0, len(kept), BLOCK):
                    rows = anchors[inverse][begin : begin + BLOCK]
                    told = [said[number] for number in kinds[begin : begin + BLOCK].tolist()]
                    texts.extend(map("{}: {}".format, told, entities.texts.take(rows)))
                    names.extend(map("{} {}".format, entities.ids.take(rows), told))
                    groups += [each.replace(" ", "_") for each in told] if self.group else ()
        times = 1 + self.inverse
        total = times * len(kept)
        places = [np.concatenate(ends[:times]) for ends in (anchors, others)]
        negatives, asked = None, texts.texts.fingerprints()
        if self.self_negatives:
            loops = contents[places[0]] == contents[places[1]]
            free = ~np.isin(asked, asked[loops])
            negatives = Ragged.from_lengths(
                torch.from_numpy(places[0][free]), torch.from_numpy(free.astype(np.int64))
            )
        queries = JudgedRows(
            name,
            torch.from_numpy(np.tile(kept, times)),
            torch.arange(start, start + total),
            Ragged(torch.from_numpy(places[1]), torch.arange(total + 1)),
            negatives,
            units=torch.arange(len(kept)).repeat(times),
            groups=groups if self.group else None,
        )
        return queries, texts.texts, names.texts, asked
