"""Texts that belong together: pairs, with negatives or scores where there are any."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset, Plans
from lit_metric.data.errors import DataError, listed
from lit_metric.data.formats import columns as cells
from lit_metric.data.formats.base import (
    AUTO,
    DOCUMENT,
    ReadItems,
    ReadOptions,
    Supervision,
    guesses_of,
    log_guesses,
    rows_by_split,
)
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.judged import JudgedData, texts_to_encode
from lit_metric.data.formats.judged_rows import JudgedRows, RowsBySplit, once_in_row
from lit_metric.data.items import QUERY
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations.lookup import PairSet, stable_sort
from lit_metric.data.table import Table
from lit_metric.data.texts import Integers, Texts, by_first_appearance, distinct

SAME_KIND = (
    ("anchor", "positive"),
    ("anchor", "positives"),
    ("anchor", "pos"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
)
ANSWERS = (
    "positive",
    "positives",
    "pos",
    "positive_passages",
    "positive_passage",
    "passage",
    "document",
    "answer",
)
NEGATIVE = re.compile(r"(hard_?)?neg(ative)?s?(_passages?)?[_-]?(\d*)")
SCORE_NAMES = ("score", "similarity", "similarity_score", "is_duplicate", "label", "gold_label")


@dataclass(eq=False)
class Pairs(Supervision):
    """Rows of two texts that belong together, or that are scored by how much they do.

    Columns that are not named are guessed from usual names, and one log line lists them. Equal texts of a
    split are one item, so an anchor may have any number of positives and negatives. Batches are made of
    scored pairs if the training table has scores, and of positive pairs otherwise. Scores of other splits are
    only evaluated.

    Args:
        anchor: the column of anchors: questions, sentences.
        positive: the column of texts, or lists of texts, that belong to them; with a ``score``, of texts that
            are compared with them. A text may be a dict of ``title`` and ``text``.
        negative: a column of texts, or lists of texts, that do not belong to the anchor; or several columns.
        score: a column of numbers: how much the two belong together. With 0 and 1, and
            ``in_batch_negatives=False``, pairs of 0 are the only negatives.
        group: a column of names: triplets are measured for each group, too. Without negatives, recall is
            measured for each group of anchors.
        split: a column of ``train`` that says which split each row belongs to. ``"auto"``: a column ``split``
            of the only source, if it holds nothing but names of splits. None: there is no such column.
        in_batch_negatives: whether all texts of the batch that are not known to belong to an anchor are its
            negatives, or only those of its rows.
        symmetric: whether anchor and positive are of the same kind, so that either could be the other. If
            not, anchors have the role ``"query"`` and the others the role ``"document"``.
        positive_from: the least score of a positive pair; any above 0 if None.

    Raises:
        DataError: when options contradict each other.
    """

    anchor: str | None = None
    positive: str | None = None
    negative: str | list[str] | None = None
    score: str | None = None
    group: str | None = None
    split: str | None = AUTO
    in_batch_negatives: bool = True
    symmetric: bool = True
    positive_from: float | None = None

    def __post_init__(self) -> None:
        if self.score and self.negative:
            raise DataError(
                f"score={self.score!r} and negative={self.negative!r} were both given: put negatives among "
                "the scored pairs, with a low score, or leave the scores out"
            )

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        columns = {name: reading.columns(table) for name, table in tables.items() if name != "predict"}
        rows: RowsBySplit = {}
        texts, fingerprints, graded, guesses = list[Texts](), list[Integers](), {}, []
        for name, each in columns.items():
            chosen, guessed = self._choose_columns(each.table)
            rows[name] = self._check_rows(name, each, texts, fingerprints, **chosen)
            guesses.append((each.table, guessed))
            if chosen["score"]:
                graded[name] = chosen["score"]
        log_guesses(guesses)
        splits = {}
        for split, (name, places) in rows_by_split(columns, self.split).items():
            kept = torch.from_numpy(np.array(places, dtype=np.int64))
            splits[split] = rows[name].select(torch.searchsorted(rows[name].rows, kept))
        data = JudgedData(
            columns,
            reading,
            self._roles,
            Texts.joined(texts),
            np.concatenate([np.empty(0, dtype=np.int64), *fingerprints]),
            symmetric=self.symmetric,
            graded=graded,
            relations={
                "positive_from": self.positive_from,
                "unjudged": "negative" if self.in_batch_negatives else "ignored",
            },
        )
        del texts, fingerprints  # `data` frees them when it no longer needs them
        data.hold_out(splits, least=2)
        trained = "train" if "train" in columns else next(iter(columns), "")
        planned: Plans = "scores" if trained in graded else "pairs"
        return data.build(splits, tables.get("predict"), self.anchor, planned)

    @property
    def _roles(self) -> tuple[str, str]:
        """Of anchors, and of what they are compared with."""
        return ("", "") if self.symmetric else (QUERY, DOCUMENT)

    def items_to_encode(self, table: Table, other: Table | None = None) -> ReadItems:
        return texts_to_encode(table, self.anchor, self._roles)

    def _choose_columns(self, table: Table) -> tuple[dict[str, Any], str]:
        """The columns of a table, and the guessed ones in words."""
        usual = usual_pair(table) or ("", "", True)
        anchor = table.named(self.anchor or usual[0], (), "anchor", "anchors")
        positive = table.named(self.positive or usual[1], (), "positive", "positives")
        negative = [self.negative] if isinstance(self.negative, str) else self.negative
        score, note = self.score, ""
        if not (self.anchor or self.positive or negative or score):
            matches = [(NEGATIVE.fullmatch(column.lower()), column) for column in table.columns]
            numbered = [(int(match[4] or 0), column) for match, column in matches if match]
            negative = [column for _, column in sorted(numbered, key=lambda each: each[0])] or None
            if not negative:
                score, note = self._guess_score(table)
        shown = negative[0] if negative and len(negative) == 1 else negative
        found = {"anchor": anchor, "positive": positive, "negative": shown, "score": score}
        guessed = guesses_of(vars(self), found)
        if guessed and not self.symmetric:
            guessed += ", symmetric=False"
        columns = {"anchor": anchor, "positive": positive, "negative": negative or [], "score": score}
        return columns, "; ".join(filter(None, [guessed, note]))

    def _guess_score(self, table: Table) -> tuple[str | None, str]:
        """The column that usually holds scores, if its values are scores, and a note for the log.

        Raises:
            DataError: when its values are names or numbers of classes, such as those of textual entailment.
        """
        column = table.guess(SCORE_NAMES)
        if column is None:
            return None, ""
        given = [value for value in table.peek(column) if not cells.missing(value) and value != ""]
        numbers = [number for number, problem in map(cells.number, given) if not problem]
        distinct = set(numbers)
        found = ""
        if 2 * len(numbers) < len(given):
            found = listed(list(dict.fromkeys(str(value) for value in given)), 3)
        elif "label" in column.lower() and 2 in distinct and distinct <= {-1, 0, 1, 2}:
            found = ", ".join(f"{number:g}" for number in sorted(distinct))
        if found:
            raise DataError(
                f"column {column!r} of {table.name} holds {found}: classes of pairs, as of textual "
                "entailment, not scores. Keep the rows whose texts belong together and drop the column, or "
                "name a column of numbers, more for what is more similar, with supervision=Pairs(score=...)"
            )
        if len(distinct) == 1 and numbers[0] > 0:
            table.used.add(column)
            return None, f"{column!r} is {numbers[0]:g} in every row, so all pairs belong together"
        return column, ""

    def _check_rows(
        self,
        name: str,
        columns: Columns,
        all_texts: list[Texts],
        all_fingerprints: list[Integers],
        anchor: str,
        positive: str,
        negative: list[str],
        score: str | None,
    ) -> JudgedRows:
        """The rows of a table; what is wrong with others is noted.

        Args:
            name: of the table.
            columns: of the table.
            all_texts: of the tables before; those of this one are added.
            all_fingerprints: the same of their fingerprints.
            anchor: column of anchors.
            positive: column of positives.
            negative: columns of negatives.
            score: column of scores, or None.
        """
        anchors = columns.texts(anchor)
        lists = [columns.lists(positive, partial(_passages, what="positives"))]
        lists += [columns.lists(each, partial(_passages, what="negatives")) for each in negative]
        scores = None if score is None else columns.numbers(score)
        groups = None if self.group is None else columns.read(self.group, cells.name)
        counts = lists[0][1]
        kept = columns.kept_rows
        for row in kept[counts[kept] == 0].tolist():
            columns.note(row, positive, "no text", cells.FILL)
        texts = Texts.joined([anchors, *(found for found, _ in lists)])
        fingerprints = texts.fingerprints()
        places = torch.arange(len(texts)).split([len(anchors), *(len(found) for found, _ in lists)])
        others = Ragged.from_lengths(places[1], counts)
        negatives = None
        if negative or groups is not None:
            contents = torch.from_numpy(distinct(texts, fingerprints, np.arange(len(texts)))[1])
            if negative:
                negatives = _joined_rows(places[2:], [lengths for _, lengths in lists[1:]])
                negatives = once_in_row(negatives, contents[negatives.values])
                self._note_wrong_negatives(columns, negative, contents, others, negatives)
            elif groups is not None:
                self._note_groups(columns, contents, groups)
        kept, start = columns.kept_rows, sum(map(len, all_texts))
        all_texts.append(texts)
        all_fingerprints.append(fingerprints)
        return JudgedRows(
            name,
            kept,
            start + kept,
            _moved(others.select(kept), start),
            None if negatives is None else _moved(negatives.select(kept), start),
            None if scores is None else scores[kept],
            groups=None if groups is None else [groups[row] for row in kept.tolist()],
        )

    def _note_groups(self, columns: Columns, contents: Tensor, groups: list[str | None]) -> None:
        """Note rows with another group than the first row of their anchor."""
        kept = columns.kept_rows.numpy()
        first, numbers = by_first_appearance(contents.numpy()[kept])
        for row, earlier in zip(kept.tolist(), kept[first[numbers]].tolist(), strict=True):
            if groups[row] != groups[earlier]:
                where = columns.table.call_row(earlier, columns.table.place(row))
                problem = f"another group for the anchor of {where}"
                columns.note(row, self.group or "", problem, "Give an anchor one group.")

    @staticmethod
    def _note_wrong_negatives(
        columns: Columns, names: list[str], contents: Tensor, others: Ragged, negatives: Ragged
    ) -> None:
        """Note negatives that are the same text as the anchor or a positive of their row."""
        owners, found = negatives.segment_ids, contents[negatives.values]
        of_anchors = found == contents[owners]
        positives = PairSet.of(others.segment_ids, contents[others.values], len(contents))
        wrong = (of_anchors | positives.contains(owners, found)).nonzero()[:, 0]
        good = {*columns.kept} if len(wrong) else ()
        for row, is_anchor in zip(owners[wrong].tolist(), of_anchors[wrong].tolist(), strict=True):
            if row in good:
                problem = f"the negative is the same text as the {'anchor' if is_anchor else 'positive'}"
                columns.note(row, ", ".join(names), problem, "Give another, or drop the row.")


def _joined_rows(places: Sequence[Tensor], lengths: Sequence[Tensor]) -> Ragged:
    """For each row the texts of several columns, one column after the other.

    Args:
        places: of the texts of each column.
        lengths: ``[n]`` for each column, how many texts each row has.
    """
    if len(places) == 1:
        return Ragged.from_lengths(places[0], lengths[0])
    owners = torch.cat([torch.arange(len(each)).repeat_interleave(each) for each in lengths])
    order = stable_sort(owners, len(lengths[0]))[1]
    return Ragged.from_lengths(torch.cat([*places])[order], torch.stack([*lengths]).sum(0))


def _moved(rows: Ragged, start: int) -> Ragged:
    return Ragged(rows.values + start, rows.offsets)


def usual_pair(table: Table) -> tuple[str, str, bool] | None:
    """Two columns that usually hold pairs, and whether their texts are of the same kind."""
    names = {column.lower(): column for column in table.columns}
    answered = [(first, second) for first in ("query", "question") for second in ANSWERS]
    for first, second in (*SAME_KIND, *answered):
        if first in names and second in names:
            return names[first], names[second], (first, second) in SAME_KIND
    return None


def _passages(value: Any, what: str) -> cells.Checked:
    """Check a text, or a list of texts that may be empty; a text may be a dict of ``title`` and ``text``.

    Example:
        >>> _passages([{"docid": "7", "title": "Ink", "text": "Black."}, "a text"], "positives")
        (['Ink Black.', 'a text'], None)
    """
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        text, problem = cells.text(value)
        return ([] if problem else [text]), problem
    passages = []
    for each in value:
        if isinstance(each, dict):
            parts = [each.get(name) for name in ("title", "text")]
            each = " ".join(part for part in parts if isinstance(part, str) and part.strip())
        passages.append(each)
    return cells.short_texts(passages, None, empty=True, what=what)
