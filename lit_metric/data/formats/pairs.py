"""Texts that belong together: pairs, with negatives or scores where there are any."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from lit_metric.data.dataset import Dataset, GivenPairs, GivenTriplets
from lit_metric.data.errors import DataError
from lit_metric.data.formats import columns as values
from lit_metric.data.formats.base import (
    DOCUMENT,
    QUERY,
    Numbering,
    ReadOptions,
    Supervision,
    apart,
    contradictions,
    ids_of,
    predicted,
    predicted_rows,
    refuse_empty,
    rows_by_split,
    say_guesses,
)
from lit_metric.data.formats.columns import Columns, named
from lit_metric.data.formats.hold_out import held_out
from lit_metric.data.formats.layouts import couple, negatives_of, scores_of, texts
from lit_metric.data.relations import PairRelations
from lit_metric.data.table import Table

logger = logging.getLogger(__name__)


@dataclass
class _Rows:
    """The rows of a table, checked, and which columns were guessed, to be said."""

    columns: Columns
    anchors: list[str]
    positives: list[list[str]]
    negatives: list[list[str]]
    scores: list[float] | None
    groups: list[str] | None
    guessed: str


@dataclass
class _Judged:
    """Judged pairs of all splits as they are gathered; ``rows`` says where each comes from."""

    anchors: list[int] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    grades: list[float] = field(default_factory=list)
    rows: list[tuple[str, int]] = field(default_factory=list)

    def add(self, anchor: int, candidate: int, grade: float, row: tuple[str, int]) -> None:
        self.anchors.append(anchor)
        self.candidates.append(candidate)
        self.grades.append(grade)
        self.rows.append(row)


@dataclass
class _Split:
    """The rows of a split, as numbers of items."""

    anchors: list[int] = field(default_factory=list)
    positives: list[int] = field(default_factory=list)
    negatives: list[list[int]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    @property
    def corpus(self) -> list[int]:
        return sorted(set(self.positives).union(*self.negatives))

    @property
    def pairs(self) -> GivenPairs:
        return GivenPairs(ids_of(self.anchors), ids_of(self.positives), torch.tensor(self.scores))

    @property
    def triplets(self) -> GivenTriplets:
        lengths = torch.tensor([len(each) for each in self.negatives])
        groups = [name for name, each in zip(self.groups, self.negatives, strict=False) for _ in each]
        return GivenTriplets(
            ids_of(self.anchors).repeat_interleave(lengths),
            ids_of(self.positives).repeat_interleave(lengths),
            ids_of(number for each in self.negatives for number in each),
            groups or None,
        )


class Pairs(Supervision):
    """Rows of two texts that belong together, or are scored by how much they do.

    Columns that are not named are guessed from usual names, and one log line says what was taken. Equal texts
    of a split are one item, so an anchor may have any number of positives and negatives.

    Args:
        anchor: the column of anchors: questions, sentences.
        positive: the column of what belongs to them, texts or lists of texts; or of what is compared with
            them if there is a ``score``. A text may be a dict of ``title`` and ``text``.
        negative: a column of what does not belong to the anchor, likewise; or several columns.
        score: a column of numbers: how much the two belong together. Batches are then made of scored pairs.
            With 0 and 1, and ``in_batch_negatives=False``, pairs of 0 are the only negatives.
        group: a column of names: triplets are measured for each group, too; where no negatives are given, it
            is recall that is measured for each group of anchors.
        split: a column of ``train`` that says which split each row belongs to.
        in_batch_negatives: whether an anchor's negatives are all texts of the batch that are not known to
            belong to it, or only those that were given for it.
        symmetric: whether anchor and positive are of the same kind, so that either could be the other. If
            not, anchors have the role ``"query"`` and the others the role ``"document"``.
        positive_from: the least score of a positive pair; any above 0 if None.

    Raises:
        DataError: when there is nothing that belongs together, or options contradict each other.
    """

    def __init__(
        self,
        anchor: str | None = None,
        positive: str | None = None,
        negative: str | list[str] | None = None,
        score: str | None = None,
        group: str | None = None,
        split: str | None = None,
        in_batch_negatives: bool = True,
        symmetric: bool = True,
        positive_from: float | None = None,
    ) -> None:
        if score and negative:
            raise DataError(
                f"score={score!r} and negative={negative!r} were both given: put negatives among the scored "
                "pairs, with a low score, or leave the scores out"
            )
        self.anchor = anchor
        self.positive = positive
        self.negative = [negative] if isinstance(negative, str) else negative
        self.score = score
        self.group = group
        self.split = split
        self.in_batch_negatives = in_batch_negatives
        self.symmetric = symmetric
        self.positive_from = positive_from
        self.planned = "scores" if score else "pairs"

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        checked = {name: self._check(table, reading) for name, table in tables.items() if name != "predict"}
        say_guesses((each.columns.table, each.guessed) for each in checked.values())
        if checked:
            trained = checked.get("train") or next(iter(checked.values()))
            self.planned = "pairs" if trained.scores is None else "scores"
        places = rows_by_split({name: each.columns for name, each in checked.items()}, self.split)
        if "train" in places and "validation" not in places:
            self._hold_out(checked, places, reading)
        numbering, judged, parts = self._number(checked, places)
        if self._refuse_contradictions(checked, judged):
            places = {
                split: [(name, row) for name, row in rows if row not in checked[name].columns.bad]
                for split, rows in places.items()
            }
            numbering, judged, parts = self._number(checked, places)
        refuse_empty(places, reading.problems)
        splits = {}
        for name, part in parts.items():
            splits[name], splits[f"{name}_corpus"] = ids_of(sorted(set(part.anchors))), ids_of(part.corpus)
        if "predict" in tables:
            role = "" if self.symmetric else DOCUMENT
            splits["predict"] = predicted(numbering, tables["predict"], self.anchor, role, reading.problems)
        content = self._content(numbering, judged, splits, parts)
        content.row_counts.update(predicted_rows(tables))
        return content

    def _check(self, table: Table, reading: ReadOptions) -> _Rows:
        found = couple(table) or ("", "", True)
        said = ""
        anchor = named(table, self.anchor or found[0], (), "anchor", "anchors")
        positive = named(table, self.positive or found[1], (), "positive", "positives")
        negative, score = self.negative, self.score
        if not (self.anchor or self.positive or negative or score):
            negative = negatives_of(table) or None
            if not negative:
                score, said = scores_of(table)
        guessed = [
            f"{option}={column!r}"
            for option, given, column in (
                ("anchor", self.anchor, anchor),
                ("positive", self.positive, positive),
                ("negative", self.negative, negative and (negative[0] if len(negative) == 1 else negative)),
                ("score", self.score, score),
            )
            if not given and column
        ]
        if guessed:
            guessed += [] if self.symmetric else ["symmetric=False"]
        columns = Columns(table, reading.problems)
        rows = _Rows(
            columns,
            columns.texts(anchor),
            [each or [] for each in columns.read(positive, partial(texts, what="positives"))],
            self._negatives(columns, negative or []),
            None if score is None else columns.read(score, values.number),
            None if self.group is None else columns.read(self.group, values.label),
            "; ".join(filter(None, [", ".join(guessed), said])),
        )
        for row in columns.kept:
            if not rows.positives[row]:
                columns.note(row, positive, "no text", values.FILL)
        if rows.groups is not None and not negative:
            self._refuse_several_groups(rows)
        for row in columns.kept if negative else ():
            for text in rows.negatives[row]:
                if text in (rows.anchors[row], *rows.positives[row]):
                    whose = "anchor" if text == rows.anchors[row] else "positive"
                    problem = f"the negative is the same text as the {whose}"
                    columns.note(row, ", ".join(negative or []), problem, "Give another, or drop the row.")
        return rows

    def _refuse_several_groups(self, rows: _Rows) -> None:
        """Note rows whose anchor an earlier row puts into another group."""
        assert rows.groups is not None
        first: dict[str, int] = {}
        for row in rows.columns.kept:
            earlier = first.setdefault(rows.anchors[row], row)
            if rows.groups[row] != rows.groups[earlier]:
                problem = f"another group for the anchor of {rows.columns.where(earlier, row)}"
                rows.columns.note(row, self.group or "", problem, "Give an anchor one group.")

    def _negatives(self, columns: Columns, names: list[str]) -> list[list[str]]:
        rows: list[list[str]] = [[] for _ in range(len(columns.table))]
        for name in names:
            for row, found in enumerate(columns.read(name, partial(texts, what="negatives"))):
                rows[row] += found or ()
        return [list(dict.fromkeys(row)) for row in rows]

    def _hold_out(
        self, checked: dict[str, _Rows], places: dict[str, list[tuple[str, int]]], reading: ReadOptions
    ) -> None:
        """Move the rows of some anchors from training to validation."""
        anchors = [checked[name].anchors[row] for name, row in places["train"]]
        chosen = held_out(anchors, reading, least=2)
        rows = places["train"]
        kept = [place for place, anchor in zip(rows, anchors, strict=True) if anchor not in chosen]
        held = [place for place, anchor in zip(rows, anchors, strict=True) if anchor in chosen]
        if held:
            places["train"], places["validation"] = kept, held

    @property
    def _roles(self) -> tuple[str, str]:
        return ("", "") if self.symmetric else (QUERY, DOCUMENT)

    def _number(
        self, checked: dict[str, _Rows], places: dict[str, list[tuple[str, int]]]
    ) -> tuple[Numbering, _Judged, dict[str, _Split]]:
        """Number the texts of all rows, and gather what is known of which pair."""
        numbering, judged, parts = Numbering(), _Judged(), {}
        of_anchors, of_others = ("", "") if self.symmetric else (QUERY, DOCUMENT)
        for split, rows in places.items():
            parts[split] = part = _Split()
            for name, row in rows:
                given = checked[name]
                anchor = numbering.add(split, of_anchors, given.anchors[row])
                positives = [numbering.add(split, of_others, text) for text in given.positives[row]]
                negatives = [numbering.add(split, of_others, text) for text in given.negatives[row]]
                for positive in positives:
                    part.anchors.append(anchor)
                    part.positives.append(positive)
                    part.negatives.append(negatives)
                    if given.scores is not None:
                        part.scores.append(given.scores[row])
                    if given.groups is not None:
                        part.groups.append(given.groups[row])
                    if anchor != positive:
                        judged.add(anchor, positive, given.scores[row] if given.scores else 1.0, (name, row))
                for negative in negatives:
                    for one in dict.fromkeys([anchor, *(positives if self.symmetric else ())]):
                        judged.add(one, negative, 0.0, (name, row))
        return numbering, judged, parts

    def _refuse_contradictions(self, checked: dict[str, _Rows], judged: _Judged) -> bool:
        """Note rows that say of a pair what an earlier row denies, and whether there are any."""
        found = contradictions(
            np.array(judged.anchors, dtype=np.int64),
            np.array(judged.candidates, dtype=np.int64),
            np.array(judged.grades, dtype=np.float32),
            self.symmetric,
        )
        for place, first in found:
            (name, row), (other, earlier) = judged.rows[place], judged.rows[first]
            columns = checked[name].columns
            if row in columns.bad:
                continue
            file, number = checked[other].columns.table.place(earlier)
            where = f"row {number}" if file == columns.table.place(row)[0] else f"row {number} of {file}"
            if self.planned == "scores":
                problem = f"the pair of {where} again, with another score"
            else:
                problem = f"a pair that belongs together here and not in {where}, or the other way round"
            columns.note(row, self.score or "", problem, "Drop one of the two rows.")
        return bool(found)

    def _content(
        self,
        numbering: Numbering,
        judged: _Judged,
        splits: dict[str, torch.Tensor],
        parts: dict[str, _Split],
    ) -> Dataset:
        if same := sum(
            a == p for part in parts.values() for a, p in zip(part.anchors, part.positives, strict=True)
        ):
            logger.info("%d pairs are of one text with itself, and teach nothing", same)
        items, vocabulary = numbering.encode()
        grades = torch.tensor(judged.grades, dtype=torch.float32)
        facts = GivenPairs(ids_of(judged.anchors), ids_of(judged.candidates), grades)
        relations = PairRelations(
            facts.anchors,
            facts.candidates,
            grades,
            apart(items.fingerprints, numbering.splits()),
            self.positive_from,
            "negative" if self.in_batch_negatives else "ignored",
            symmetric=self.symmetric,
        )
        pairs = {name: part.pairs for name, part in parts.items() if part.scores}
        triplets = {name: part.triplets for name, part in parts.items() if any(part.negatives)}
        groups: list[str | None] = [None] * len(numbering)
        for part in parts.values() if not triplets else ():
            for anchor, name in zip(part.anchors, part.groups, strict=False):
                groups[anchor] = name
        return Dataset(
            items,
            vocabulary,
            relations,
            splits,
            pairs,
            triplets,
            facts,
            groups=groups if any(groups) else None,
            rows=numbering.placed(),
        )
