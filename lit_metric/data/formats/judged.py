"""From judged rows to a data set: what pairs, relevance judgements and triples have in common."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset, GivenPairs, GivenTriplets, Plans
from lit_metric.data.formats.base import SPLITS, TEXT_NAMES, ReadOptions, apart
from lit_metric.data.formats.columns import Columns
from lit_metric.data.items import Items
from lit_metric.data.relations import PairRelations
from lit_metric.data.table import Table

logger = logging.getLogger(__name__)


class JudgedRow(NamedTuple):
    """An anchor, and the texts that one row of a table judges for it.

    Args:
        table: the name of the row's table.
        row: its number there, from 0.
        anchor: a text.
        others: texts that are compared with the anchor.
        negatives: texts that do not belong to the anchor.
        score: how well the anchor and each of the ``others`` belong together; None if they just do.
        unit: rows of one unit stay together when some are held out for validation.
        key: a name of the anchor to show to people, or empty.
        group: the group in which the row is measured, or None.
    """

    table: str
    row: int
    anchor: str
    others: list[str]
    negatives: list[str]
    score: float | None
    unit: Hashable
    key: str = ""
    group: str | None = None


RowsBySplit = dict[str, list[JudgedRow]]


@dataclass
class _Numbered:
    """The rows of a split as ids of items: an entry for each pair of an anchor and one of its ``others``."""

    anchors: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    negatives: list[list[int]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)

    def pairs(self) -> GivenPairs:
        return GivenPairs(_ids(self.anchors), _ids(self.others), torch.tensor(self.scores))

    def triplets(self) -> GivenTriplets:
        lengths = torch.tensor([len(each) for each in self.negatives])
        groups = [
            str(name) for name, each in zip(self.groups, self.negatives, strict=True) if name for _ in each
        ]
        return GivenTriplets(
            _ids(self.anchors).repeat_interleave(lengths),
            _ids(self.others).repeat_interleave(lengths),
            _ids(number for each in self.negatives for number in each),
            groups or None,
        )


@dataclass(eq=False)
class JudgedData:
    """Makes a data set of judged rows.

    Equal texts of one split and role are one item. The texts that anchors are compared with belong to the
    split, too, unless all splits share one corpus.

    Args:
        columns: the tables of the rows by name, where contradictions are noted.
        reading: where problems go, and how a validation split is made.
        roles: of anchors and of other texts; empty for none.
        corpus: texts by key that all splits share; None: each split has a corpus of its own.
        symmetric: whether a judgement holds in both directions.
        graded: the column of scores or grades by table, where there is one.
        relations: other arguments of :class:`~lit_metric.data.PairRelations`.
    """

    columns: Mapping[str, Columns]
    reading: ReadOptions
    roles: tuple[str, str]
    corpus: Mapping[str, str] | None = None
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
        chosen = self.reading.hold_out([row.unit for row in rows["train"]], least)
        held = [row for row in rows["train"] if row.unit in chosen]
        if held:
            rows["train"] = [row for row in rows["train"] if row.unit not in chosen]
            rows["validation"] = held
            self._held_out = True

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
            rows = {
                split: [row for row in part if row.row not in self.columns[row.table].bad]
                for split, part in rows.items()
            }
            self._number(rows)
        self.reading.refuse_empty(rows)
        splits = self._splits()
        row_of: dict[int, int] = {}
        if predict is not None:
            row_of = self._number_predicted(predict, predict_text)
            splits["predict"] = _ids(row_of)
        roles = [role for _, role, _ in self._items]
        items, vocabulary = Items.encode(
            [[text] for *_, text in self._items],
            "text",
            self._keys if any(self._keys) else None,
            roles=roles if any(roles) else None,
        )
        if same := sum(
            anchor == other
            for part in self._parts.values()
            for anchor, other in zip(part.anchors, part.others, strict=True)
        ):
            logger.info("%d pairs hold the same text twice; they are evaluated, and not trained on", same)
        own = {} if self.corpus is not None else self._parts
        triplets = {split: part.triplets() for split, part in own.items() if any(part.negatives)}
        groups: list[str | None] = [None] * len(items)
        for part in self._parts.values() if not triplets else ():
            for anchor, group in zip(reversed(part.anchors), reversed(part.groups), strict=True):
                groups[anchor] = group  # the first of several counts
        judged = GivenPairs(
            _ids(anchor for anchor, *_ in self._judged),
            _ids(candidate for _, candidate, _ in self._judged),
            torch.tensor([grade for *_, grade in self._judged], dtype=torch.float32),
        )
        return Dataset(
            items,
            vocabulary,
            PairRelations(
                judged.anchors,
                judged.candidates,
                judged.targets,
                apart(items.fingerprints, self._items_by_split()),
                symmetric=self.symmetric,
                ignored=self._known_elsewhere() if filtered else None,
                **self.relations,
            ),
            splits,
            {split: part.pairs() for split, part in own.items() if part.scores},
            triplets,
            judged,
            groups=groups if any(groups) else None,
            held_out=self._held_out,
            rows=_ids(row_of.get(item, -1) for item in range(len(items))),
            row_counts={} if predict is None else {"predict": len(predict)},
            planned=planned,
        )

    def _add(self, split: str, role: str, text: str, key: str = "") -> int:
        """The id of an item, a new one if there is none like it. The first key of an item counts."""
        number = self._items.setdefault((split, role, text), len(self._items))
        if number == len(self._keys):
            self._keys.append(key)
        return number

    def _number(self, rows: RowsBySplit) -> None:
        """Number the texts of the corpus and of all rows, and list which pairs are judged."""
        self._items: dict[tuple[str, str, str], int] = {}
        self._keys: list[str] = []
        self._parts: dict[str, _Numbered] = {}
        self._judged: list[tuple[int, int, float]] = []  # anchor, candidate, grade
        self._sources: list[JudgedRow] = []  # the row of each judged pair
        of_anchors, of_others = self.roles
        for key, text in (self.corpus or {}).items():
            self._add("", of_others, text, key)

        for split, given in rows.items():
            self._parts[split] = part = _Numbered()
            home = split if self.corpus is None else ""
            for row in given:
                anchor = self._add(split, of_anchors, row.anchor, row.key)
                others = [self._add(home, of_others, text) for text in row.others]
                negatives = [self._add(home, of_others, text) for text in row.negatives]
                for other in others:
                    part.anchors.append(anchor)
                    part.others.append(other)
                    part.negatives.append(negatives)
                    part.groups.append(row.group)
                    if row.score is not None:
                        part.scores.append(row.score)
                    if anchor != other:
                        self._judged.append((anchor, other, 1.0 if row.score is None else row.score))
                        self._sources.append(row)
                for negative in negatives:
                    for one in dict.fromkeys([anchor, *(others if self.symmetric else ())]):
                        self._judged.append((one, negative, 0.0))
                        self._sources.append(row)

    def _note_contradictions(self) -> bool:
        """Note rows that judge a pair differently from an earlier row; whether there are any."""
        if not self._judged:
            return False
        anchors, candidates = (np.array([pair[at] for pair in self._judged]) for at in (0, 1))
        grades = np.array([grade for *_, grade in self._judged], dtype=np.float32)
        if self.symmetric:
            anchors, candidates = np.minimum(anchors, candidates), np.maximum(anchors, candidates)
        _, first, inverse = np.unique(
            anchors * len(self._items) + candidates, return_index=True, return_inverse=True
        )
        firsts = first[inverse.reshape(-1)]
        found = np.flatnonzero(grades != grades[firsts]).tolist()
        for place in found:
            row, earlier = self._sources[place], self._sources[firsts[place]]
            columns = self.columns[row.table]
            if row.row not in columns.bad:
                seen_from = columns.table.place(row.row)
                where = self.columns[earlier.table].table.call_row(earlier.row, seen_from)
                column = self.graded.get(row.table, "")
                problem = f"the pair of {where} again, with another value"
                if not column:
                    problem = f"a pair that belongs together here and not in {where}, or the other way round"
                columns.note(row.row, column, problem, "Drop one of the two rows.")
        return bool(found)

    def _splits(self) -> dict[str, Tensor]:
        """The anchors of each split, and what they are compared with."""
        if self.corpus is None:
            splits = {}
            for name, part in self._parts.items():
                splits[name] = _ids(sorted(set(part.anchors)))
                splits[f"{name}_corpus"] = _ids(sorted(set(part.others).union(*part.negatives)))
            return splits
        corpus = _ids(number for (split, *_), number in self._items.items() if not split)
        return {"corpus": corpus} | {
            name: _ids(sorted(set(part.anchors))) for name, part in self._parts.items()
        }

    def _items_by_split(self) -> dict[str, Tensor]:
        """All items of each split, without those of a shared corpus and those to be encoded only."""
        found: dict[str, list[int]] = {}
        for (split, *_), number in self._items.items():
            found.setdefault(split, []).append(number)
        return {split: _ids(numbers) for split, numbers in found.items() if split in SPLITS}

    def _number_predicted(self, table: Table, text: str | None) -> dict[int, int]:
        """Number the texts to be encoded, each row as an item of its own; the row of each item."""
        columns = self.reading.columns(table)
        column = table.named(text if text in table.columns else None, TEXT_NAMES, "text", "texts")
        texts = list(columns.texts(column))
        self.reading.refuse_empty({"predict": columns.kept})
        return {self._add(f"predict {row}", self.roles[1], texts[row]): row for row in columns.kept}

    def _known_elsewhere(self) -> tuple[Tensor, Tensor]:
        """Pairs of an anchor outside of training and a positive that only another split knows."""
        texts = [text for *_, text in self._items]
        positives: dict[str, set[int]] = {}
        for part in self._parts.values():
            for anchor, other in zip(part.anchors, part.others, strict=True):
                positives.setdefault(texts[anchor], set()).add(other)
        pairs = []
        for split, part in self._parts.items():
            if split == "train":
                continue
            own = set(zip(part.anchors, part.others, strict=True))
            for anchor in dict.fromkeys(part.anchors):
                found = sorted(positives[texts[anchor]])
                pairs += [(anchor, other) for other in found if (anchor, other) not in own]
        anchors, others = zip(*pairs, strict=True) if pairs else ((), ())
        return _ids(anchors), _ids(others)


def _ids(numbers: Iterable[int]) -> Tensor:
    """An int64 vector."""
    return torch.tensor(list(numbers), dtype=torch.int64)
