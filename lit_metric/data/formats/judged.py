"""From judged rows to a data set: what pairs, relevance judgements and triples have in common."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset, GivenPairs, Plans
from lit_metric.data.formats.base import SPLITS, TEXT_NAMES, ReadItems, ReadOptions, apart
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.judged_rows import JudgedRows, NumberedRows, RowsBySplit
from lit_metric.data.items import Items, Vocabulary
from lit_metric.data.relations import PairRelations
from lit_metric.data.relations.lookup import PairSet, unique
from lit_metric.data.table import Table
from lit_metric.data.texts import Integers, Texts, by_first_appearance, distinct

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class JudgedData:
    """Makes a data set of judged rows.

    Equal texts of one split and role are one item. The texts that anchors are compared with belong to the
    split, too, unless all splits share one corpus.

    Args:
        columns: the tables of the rows by name, where contradictions are noted.
        reading: where problems go, and how a validation split is made.
        roles: of anchors and of other texts; empty for none.
        texts: all, to which rows refer by their places.
        fingerprints: ``[T]`` of ``texts``, if they are known already.
        names: ``[T]`` to show to people, of items whose text comes first at that place; or None.
        corpus: ``[K]`` places of the texts that all splits share; None: each split has a corpus of its own.
        symmetric: whether a judgement holds in both directions.
        graded: the column of scores or grades by table, where there is one.
        relations: other arguments of :class:`~lit_metric.data.PairRelations`.
    """

    columns: Mapping[str, Columns]
    reading: ReadOptions
    roles: tuple[str, str]
    texts: Texts
    fingerprints: Integers | None = None
    names: Texts | None = None
    corpus: Tensor | None = None
    symmetric: bool = False
    graded: Mapping[str, str] = field(default_factory=dict)
    relations: Mapping[str, Any] = field(default_factory=dict)
    _held_out: bool = field(default=False, init=False)

    def hold_out(self, rows: RowsBySplit, least: int = 1) -> None:
        """Move a share of the units from ``train`` to ``validation``, if that is missing.

        Args:
            rows: changed in place.
            least: units to move; see :meth:`ReadOptions.hold_out`.
        """
        if "train" not in rows or "validation" in rows:
            return
        train = rows["train"]
        if train.units is None:
            places = train.anchors.numpy()
            first, units = distinct(self.texts, self._known(), places)
        else:
            first, units = by_first_appearance(train.units.numpy())
        chosen = np.zeros(len(first), dtype=np.bool_)
        chosen[self.reading.hold_out(len(first), least)] = True
        held = torch.from_numpy(chosen[units])
        if bool(held.any()):
            rows["train"] = train.select((~held).nonzero()[:, 0])
            rows["validation"] = train.select(held.nonzero()[:, 0])
            self._held_out = True

    def _known(self) -> Integers:
        if self.fingerprints is None:
            self.fingerprints = self.texts.fingerprints()
        return self.fingerprints

    def build(
        self,
        rows: RowsBySplit,
        predict: Table | None = None,
        predict_text: str | None = None,
        planned: Plans = "pairs",
        filtered: bool = False,
    ) -> Dataset:
        """Number the items, check that no rows contradict each other, and make the data set.

        Args:
            rows: by split.
            predict: a table of texts to encode only.
            predict_text: its column of texts, if it has that one; otherwise one with a usual name.
            planned: what batches are made of.
            filtered: whether an evaluation ignores the positives that only other splits know, as is usual for
                knowledge graphs.

        Raises:
            DataError: when rows contradict each other, or a split has no rows.
        """
        self._number(rows)
        if self._note_contradictions():
            rows = {split: self._without_bad(part) for split, part in rows.items()}
            self._number(rows)
        self.reading.refuse_empty(rows)
        splits, own = self._splits(), {} if self.corpus is not None else self._parts
        row_of = torch.full([len(self._places)], -1)
        if predict is not None:
            predicted = self._number_predicted(predict, predict_text)
            splits["predict"] = torch.arange(len(row_of), len(row_of) + len(predicted))
            row_of = torch.cat([row_of, predicted])
        items, vocabulary = Items.of_texts(
            self.texts,
            self._places,
            self._keys(len(row_of)),
            self._roles if any(self.roles) else None,
            self.roles,
            self._known(),
            self.reading.cache_dir,
        )
        # The vocabulary has the texts now, and relations need the memory.
        self.texts, self.fingerprints, self.names = Texts([]), None, None
        if same := sum(int((anchors == others).sum()) for _, anchors, others in self._pairs()):
            logger.info("%d pairs hold the same text twice; they are evaluated, and not trained on", same)
        triplets = {split: found for split, part in own.items() if (found := part.triplets()) is not None}
        groups = None if triplets else self._groups(len(items))
        judged, pairs = GivenPairs(*self._judged[1:]), {}
        for split, part in own.items():
            if part.rows.scores is not None:
                of_pairs, anchors, others = part.pairs()
                pairs[split] = GivenPairs(anchors, others, part.rows.scores[of_pairs].float())
        return Dataset(
            items,
            vocabulary,
            PairRelations(
                judged.anchors,
                judged.candidates,
                judged.targets,
                apart(items.fingerprints, self._items_by_split()),
                symmetric=self.symmetric,
                ignored=self._known_elsewhere(items.texts.values) if filtered else None,
                **self.relations,
            ),
            splits,
            pairs,
            triplets,
            judged,
            groups=groups,
            held_out=self._held_out,
            rows=row_of,
            row_counts={} if predict is None else {"predict": len(predict)},
            planned=planned,
        )

    def _number(self, rows: RowsBySplit) -> None:
        """Number the texts of the corpus and of all rows by first appearance, and list which pairs are
        judged."""
        shared = torch.empty(0, dtype=torch.int64) if self.corpus is None else self.corpus
        texts = {split: part.all_texts() for split, part in rows.items()}
        lengths = [len(shared), *(len(places) for places, _ in texts.values())]
        places = torch.cat([shared, *(each for each, _ in texts.values())]).numpy()
        # The split that a text belongs to, 0 for the common corpus, and its role.
        homes = np.zeros(len(places), dtype=np.int8)
        roles = np.full(len(places), self.roles[0] != self.roles[1], dtype=np.int8)
        ends = np.cumsum(lengths).tolist()
        spans = [slice(*each) for each in itertools.pairwise(ends)]
        for number, (span, (_, is_anchor)) in enumerate(zip(spans, texts.values(), strict=True), start=1):
            marks = is_anchor.numpy()
            homes[span] = number if self.corpus is None else np.where(marks, number, 0)
            roles[span][marks] = 0
        first, found = distinct(self.texts, self._known(), places, homes, roles)
        numbers = torch.from_numpy(found)
        self._places, self._homes, self._roles = places[first], homes[first], roles[first]
        self._parts = {
            split: NumberedRows.of(rows[split], numbers[span], texts[split][1])
            for span, split in zip(spans, texts, strict=True)
        }
        none = torch.empty(0, dtype=torch.int64)
        judged, before = [(none, none, none, none.float())], 0
        for part in self._parts.values():
            of_rows, anchors, candidates, grades = part.judged(self.symmetric)
            judged.append((of_rows + before, anchors, candidates, grades))
            before += len(part.rows)
        # For each judgement: its row among those of all splits, anchor, candidate, grade.
        self._judged = [torch.cat(each) for each in zip(*judged, strict=True)]

    def _note_contradictions(self) -> bool:
        """Note rows that judge a pair differently from an earlier row; whether there are any."""
        sources, anchors, candidates, grades = (each.numpy() for each in self._judged)
        if not len(grades) or bool((grades == grades[0]).all()):
            return False
        if self.symmetric:
            anchors, candidates = np.minimum(anchors, candidates), np.maximum(anchors, candidates)
        _, first, inverse = np.unique(
            anchors * len(self._places) + candidates, return_index=True, return_inverse=True
        )
        firsts = first[inverse.reshape(-1)]
        found = np.flatnonzero(grades != grades[firsts])
        tables = [part.rows.table for part in self._parts.values()]
        ends = np.cumsum([len(part.rows) for part in self._parts.values()])
        numbers = torch.cat([part.rows.rows for part in self._parts.values()])
        for later, former in zip(sources[found].tolist(), sources[firsts[found]].tolist(), strict=True):
            table, before = (tables[int(np.searchsorted(ends, row, side="right"))] for row in (later, former))
            columns, row = self.columns[table], int(numbers[later])
            if row not in columns.bad:
                seen_from = columns.table.place(row)
                where = self.columns[before].table.call_row(int(numbers[former]), seen_from)
                column = self.graded.get(table, "")
                problem = f"the pair of {where} again, with another value"
                if not column:
                    problem = f"a pair that belongs together here and not in {where}, or the other way round"
                columns.note(row, column, problem, "Drop one of the two rows.")
        return len(found) > 0

    def _without_bad(self, rows: JudgedRows) -> JudgedRows:
        bad = torch.tensor([*self.columns[rows.table].bad], dtype=torch.int64)
        return rows.select((~torch.isin(rows.rows, bad)).nonzero()[:, 0])

    def _pairs(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [part.pairs() for part in self._parts.values()]

    def _splits(self) -> dict[str, Tensor]:
        """The anchors of each split, and what they are compared with."""
        splits = {}
        if self.corpus is not None:
            splits["corpus"] = torch.from_numpy(np.flatnonzero(self._homes == 0))
        for name, part in self._parts.items():
            splits[name] = unique(part.anchors)
            if self.corpus is None:
                negatives = [] if part.negatives is None else [part.negatives.values]
                splits[f"{name}_corpus"] = unique(torch.cat([part.others.values, *negatives]))
        return splits

    def _items_by_split(self) -> dict[str, Tensor]:
        """All items of each split, without those of a shared corpus and those to be encoded only."""
        return {
            split: torch.from_numpy(np.flatnonzero(self._homes == number))
            for number, split in enumerate(self._parts, start=1)
            if split in SPLITS
        }

    def _number_predicted(self, table: Table, text: str | None) -> Tensor:
        """Number the texts to be encoded, each row as an item of its own; the row of each item."""
        columns = self.reading.columns(table)
        column = table.named(text if text in table.columns else None, TEXT_NAMES, "text", "texts")
        texts = columns.texts(column)
        self.reading.refuse_empty({"predict": columns.kept})
        rows = columns.kept_rows
        self._places = np.concatenate([self._places, len(self.texts) + rows.numpy()])
        self._roles = np.concatenate([self._roles, np.ones(len(rows), dtype=np.int8)])
        self.fingerprints = np.concatenate([self._known(), texts.fingerprints()])
        self.texts = Texts.joined([self.texts, texts])
        return rows

    def _keys(self, count: int) -> Texts | None:
        """Names of ``count`` items: those that are only to be encoded have none."""
        if self.names is None:
            return None
        names = self.names.select(self._places[: len(self._homes)], self.reading.cache_dir)
        return Texts.joined([names, Texts.of([""] * (count - len(self._homes)))])

    def _groups(self, count: int) -> list[str | None] | None:
        """The group of each of ``count`` items, the first of several; None if no item has one."""
        groups: list[str | None] = [None] * count
        for part in self._parts.values():
            if part.rows.groups is not None:
                anchors, first = np.unique(part.anchors.numpy(), return_index=True)
                for anchor, row in zip(anchors.tolist(), first.tolist(), strict=True):
                    groups[anchor] = part.rows.groups[row]
        return groups if any(groups) else None

    def _known_elsewhere(self, contents: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of an anchor outside of training and a positive that only another split knows.

        Args:
            contents: ``[N]`` equal for items of equal text and role.
        """
        size, parts = len(contents), self._pairs()
        positives = PairSet.of(
            torch.cat([contents[anchors] for _, anchors, _ in parts]),
            torch.cat([others for *_, others in parts]),
            size,
        )
        found = []
        for split, (_, anchors, others) in zip(self._parts, parts, strict=True):
            if split != "train":
                own = PairSet.of(anchors, others, size)
                anchors = unique(anchors)
                known = positives.rows(contents[anchors])
                pairs = torch.stack([anchors[known.segment_ids], known.values])
                found.append(pairs[:, ~own.contains(pairs[0], pairs[1])])
        whole = torch.cat([torch.empty(2, 0, dtype=torch.int64), *found], dim=1)
        return whole[0], whole[1]


def texts_to_encode(table: Table, text: str | None, roles: tuple[str, str]) -> ReadItems:
    """What makes items of the rows of a table that are only encoded; see
    :meth:`~lit_metric.data.Supervision.items_to_encode`.

    Args:
        table: the first rows.
        text: their column of texts, if they have that one; otherwise one with a usual name.
        roles: of anchors, and of what they are compared with; the items have the latter.
    """
    column = table.named(text if text in table.columns else None, TEXT_NAMES, "text", "texts")

    def read(columns: Columns) -> tuple[Items, Vocabulary]:
        texts = columns.texts(column)
        rows = columns.kept_rows.numpy()
        of_items = np.ones(len(rows), dtype=np.int8) if any(roles) else None
        return Items.of_texts(texts, rows, roles=of_items, role_names=roles)

    return read
