"""Items with class labels: one each, or several."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.errors import DataError
from lit_metric.data.formats import columns as cells
from lit_metric.data.formats.base import (
    AUTO,
    TEXT_NAMES,
    ReadItems,
    ReadOptions,
    Supervision,
    apart,
    guesses_of,
    log_guesses,
    rows_by_split,
)
from lit_metric.data.formats.classes import LabelledItems, hold_out_items, unify_names
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.listed_rows import CorrectedLabels
from lit_metric.data.items import Items, Kind, Vocabulary
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import LabelRelations, MultiLabelRelations, Relations
from lit_metric.data.table import Table
from lit_metric.data.text_sets import TextSets, taken
from lit_metric.data.texts import OneTextEach, Texts

logger = logging.getLogger(__name__)

TAG_NAMES = ("tags", "keywords", "tag", "terms")
LABEL_NAMES = ("label", "intent", "category", "section", "class", "topic", "target")
LABELS_NAMES = ("labels", "genres", "categories", "classes", "topics")
Unlabelled = Literal["error", "negatives_if_mined", "ignore"]


@dataclass(eq=False)
class Labels(Supervision):
    """Items that belong together when they share a class.

    Columns that are not named are guessed from usual names, and one log line lists them. Other splits use the
    columns of the first split, or a guess of their own where they lack one. An item is one text, or a set of
    short texts: tags, or the contents of several fields.

    Args:
        text: the column of texts; of several columns, the texts are joined.
        tags: the column of tags: lists, or strings that ``tag_separator`` divides.
        tag_separator: between tags, and between the texts of ``fields``, such as ``","``; blanks around tags
            are dropped.
        weights: a column of lists of numbers above 0, how much each tag counts.
        fields: columns by role, such as ``{"title": "name", "tag": "keywords"}``: an item is the set of their
            contents, a text or a list of texts each. A prompt may be given for each role.
        label: the column of class labels, strings or whole numbers.
        labels: the column of several labels each: lists, or strings that ``labels_separator`` divides.
        labels_separator: between labels.
        overlap: with ``labels``, the least Jaccard overlap of two items' labels that makes them belong
            together, in [0, 1]; 0: one label in common is enough.
        key: a column of names for the items.
        split: a column of ``train`` that says which split each row belongs to: ``train``, ``validation`` or
            ``test``. There are no other sources then. ``"auto"``: a column ``split`` of the only source, if
            it holds nothing but names of splits. None: there is no such column.
        unlabelled: what to do with rows without a label. ``"error"``: refuse them. ``"ignore"``: leave them
            out. ``"negatives_if_mined"``: a miner may propose them as negatives, and its filters decide which
            are safe; without a miner they are in no batch. They are never anchors or positives.
        normalize_labels: make one class of labels that differ only in case, blanks or Unicode form. False:
            such labels are only logged.
        group: a column of names, which may be empty; recall is measured for each group of items, too.

    Raises:
        DataError: when options contradict each other.
        ValueError: when a value is out of range.
    """

    text: str | list[str] | None = None
    tags: str | None = None
    tag_separator: str | None = None
    weights: str | None = None
    fields: dict[str, str] | None = None
    label: str | None = None
    labels: str | None = None
    labels_separator: str | None = None
    overlap: float = 0.0
    key: str | None = None
    split: str | None = AUTO
    unlabelled: Unlabelled = "error"
    normalize_labels: bool = False
    group: str | None = None

    def __post_init__(self) -> None:
        given = {"text": self.text, "tags": self.tags, "fields": self.fields}
        if sum(map(bool, given.values())) > 1:
            names = " and ".join(f"{name}={value!r}" for name, value in given.items() if value)
            raise DataError(f"{names} were both given; an item is one or the other")
        if self.label and self.labels:
            raise DataError(
                f"label={self.label!r} and labels={self.labels!r} were both given; items have one label or "
                "several"
            )
        if self.weights and not self.tags:
            raise DataError(f"weights={self.weights!r} need tags; name the column of tags with tags=")
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"overlap is a share of labels, in [0, 1], not {self.overlap}")
        if self.unlabelled not in get_args(Unlabelled):
            raise ValueError(
                f"unlabelled must be 'error', 'negatives_if_mined' or 'ignore', not {self.unlabelled!r}"
            )

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        columns = {name: reading.columns(table) for name, table in tables.items()}
        for name, each in columns.items():
            if reading.excluded is not None and name != "predict":
                each.leave_out(reading.excluded.of(each.table))
        chosen: dict[str, _Chosen] = {}
        for name, table in tables.items():
            first, labelled = next(iter(chosen.values()), None), name != "predict"
            if first is None or not first.columns(labelled) <= {*table.columns}:
                first = self._choose_columns(table, labelled)
            chosen[name] = first
        log_guesses((tables[name], each.guessed) for name, each in chosen.items())
        checked = {
            name: self._check_items(each, chosen[name], name != "predict", reading.corrected)
            for name, each in columns.items()
        }
        if len({items.kind for items in checked.values()}) > 1:
            kinds = ", ".join(f"{name}: {items.kind}" for name, items in checked.items())
            raise DataError(f"items must be texts in all splits or sets in all splits, not {kinds}")
        places = rows_by_split(columns, self.split)
        reading.refuse_empty({name: rows for name, (_, rows) in places.items()})
        parts = {name: checked[table].select(rows) for name, (table, rows) in places.items()}
        if self.unlabelled != "error":
            parts = {name: self._without_unlabelled(items, name) for name, items in parts.items()}
        dataset = self._build(self._unify_labels(parts), reading)
        if parts.keys() <= tables.keys():  # and not by a column
            divided = {"train", "validation"} if dataset.held_out else set()
            dataset.row_counts.update({name: len(tables[name]) for name in parts if name not in divided})
        return dataset

    def _unify_labels(self, parts: dict[str, LabelledItems]) -> dict[str, LabelledItems]:
        """The same items, with one name for each class."""
        counts: Counter[str] = Counter()
        for part in parts.values():
            if isinstance(part.labels, TextSets):
                used, found = part.labels.numbered()
                names = taken(part.labels.names, used)
                counts.update(dict(zip(names, np.bincount(found).tolist(), strict=True)))
            else:
                counts.update(name for name in part.labels if name is not None)
        renamed = unify_names(counts, self.normalize_labels)
        if not renamed:
            return parts

        def rename(labels: TextSets | Sequence[str | None]) -> TextSets | list[str | None]:
            if isinstance(labels, TextSets):
                return labels.renamed(renamed)
            return [None if name is None else renamed.get(name, name) for name in labels]

        return {split: replace(part, labels=rename(part.labels)) for split, part in parts.items()}

    def items_to_encode(self, table: Table, other: Table | None = None) -> ReadItems:
        chosen = self._choose_columns(table if other is None else other, labelled=False)
        if other is not None and not chosen.columns(labelled=False) <= {*table.columns}:
            expected, chosen = chosen, self._choose_columns(table, labelled=False)
            if bool(expected.text) != bool(chosen.text):
                raise DataError(
                    f"items must be texts in all splits or sets in all splits, and {table.layout}, while "
                    f"{other.layout}: name the column with text= or tags="
                )
        log_guesses([(table, chosen.guessed)])
        labels = replace(self, text=chosen.text or None, tags=chosen.tags or None, key=None, group=None)

        def read(columns: Columns) -> tuple[Items, Vocabulary]:
            return _items_of([labels.items(columns, labelled=False).select(columns.kept)])

        return read

    def named(self, table: Table) -> Labels:
        """The same for items without labels, with the columns of ``table`` in place of guesses; logs them."""
        chosen = self._choose_columns(table, labelled=False)
        log_guesses([(table, chosen.guessed)])
        return replace(self, text=chosen.text or None, tags=chosen.tags or None)

    def items(self, columns: Columns, labelled: bool = True) -> LabelledItems:
        """All rows of a table, checked; what is bad is noted in ``columns``.

        Args:
            columns: of the table.
            labelled: whether to read labels; if not, all are None.
        """
        chosen = self._choose_columns(columns.table, labelled)
        log_guesses([(columns.table, chosen.guessed)])
        return self._check_items(columns, chosen, labelled)

    def _check_items(
        self, columns: Columns, chosen: _Chosen, labelled: bool, corrected: CorrectedLabels | None = None
    ) -> LabelledItems:
        kind: Kind = "set"
        rows: OneTextEach | TextSets
        if chosen.text:
            rows, kind = OneTextEach(columns.texts(chosen.text)), "text"
        elif self.fields:
            rows = self._fields(columns)
        else:

            def check(value: object) -> cells.Checked:
                return cells.short_texts(value, self.tag_separator, empty=False)

            rows = columns.sets(chosen.tags, check, repeats=self.weights is not None)
            if self.weights is not None:
                numbers = partial(cells.numbers, separator=self.tag_separator)
                rows = rows.weighted(columns.weights(self.weights, numbers, rows))
        labels = self._labels(columns, chosen, corrected) if labelled else [None] * len(rows)
        keys = None
        if self.key is not None:
            keys = ["" if cells.missing(value) else str(value) for value in columns.table.column(self.key)]
        groups = None
        if self.group is not None and labelled:
            groups = columns.read(self.group, lambda value: cells.name(value, empty=True))
        return LabelledItems(rows, labels, kind, keys, groups, range(len(rows)))

    def _fields(self, columns: Columns) -> TextSets:
        fields = self.fields or {}
        rows = TextSets.fields(
            {role: columns.sets(column, self._check_field) for role, column in fields.items()}
        )
        for row in np.flatnonzero(np.diff(rows.offsets) == 0).tolist():
            if row not in columns.bad:
                columns.note(row, " + ".join(fields.values()), "no text in any", cells.FILL)
        return rows

    def _check_field(self, value: object) -> cells.Checked:
        """A text, or a list of texts, or nothing."""
        if isinstance(value, str) and self.tag_separator is None:
            text, problem = cells.text(value, empty=True)
            return ([text] if text else []), problem
        return cells.short_texts(value, self.tag_separator, empty=True, what="texts")

    def _labels(
        self, columns: Columns, chosen: _Chosen, corrected: CorrectedLabels | None
    ) -> TextSets | Sequence[str | None]:
        optional = self.unlabelled != "error"
        labels: TextSets | Sequence[str | None]
        if chosen.labels:
            labels = columns.sets(
                chosen.labels,
                lambda value: cells.short_texts(value, self.labels_separator, optional, "labels"),
            )
            return labels if corrected is None else corrected.of(columns.table, labels)
        found = columns.read(chosen.label, partial(_label, optional=optional))
        wrong = {row: each for row, each in enumerate(found) if isinstance(each, tuple)}
        labels = [each if isinstance(each, str) else None for each in found] if wrong else found
        if corrected is not None:
            labels = corrected.of(columns.table, labels)
        for row, problem in wrong.items():
            if labels[row] is None:
                columns.note(row, chosen.label, *problem)
        columns.one_type(chosen.label)
        return labels

    def _choose_columns(self, table: Table, labelled: bool) -> _Chosen:
        """The columns to read, guessed where no name was given."""
        text, tags = self.text, self.tags
        if not (text or tags or self.fields):
            text = table.guess(TEXT_NAMES)
            tags = None if text else table.guess(TAG_NAMES)
            if not (text or tags):
                raise DataError(
                    "no column of texts or tags has a usual name; name it with text= or tags=. "
                    f"{table.layout}"
                )
        label, labels = self.label or "", self.labels or ""
        if labelled and not (label or labels):
            label, labels = table.guess(LABEL_NAMES) or "", table.guess(LABELS_NAMES) or ""
            if not (label or labels):
                raise DataError(f"no column of labels has a usual name; name it with label=. {table.layout}")
            labels = "" if label else labels
        found = {"text": text, "tags": tags, "label": label, "labels": labels}
        return _Chosen(text or "", tags or "", label, labels, guesses_of(vars(self), found))

    def _without_unlabelled(self, items: LabelledItems, split: str) -> LabelledItems:
        """Log how many items have no label, and leave them out if they are to be ignored."""
        labelled = [place for place, label in enumerate(items.labels) if label]
        count = len(items) - len(labelled)
        if split == "predict" or not count:
            return items
        if self.unlabelled == "negatives_if_mined":
            logger.info("%d items of %s have no label: only a miner can make negatives of them", count, split)
            return items
        logger.info("%d items of %s have no label and are left out", count, split)
        return items.select(labelled)

    def _build(self, parts: dict[str, LabelledItems], reading: ReadOptions) -> Dataset:
        each = list(parts.values())
        items, vocabulary = _items_of(each, reading.cache_dir)
        ends = np.cumsum([0, *map(len, each)]).tolist()
        splits = {name: torch.arange(ends[at], ends[at + 1]) for at, name in enumerate(parts)}
        labels = _labels_of(each)
        relations = self._relations(labels, items.fingerprints)
        held_out = "train" in splits and "validation" not in splits
        if held_out:
            splits |= hold_out_items(splits["train"], relations, reading)
        if self.unlabelled == "negatives_if_mined":
            relations = self._relations(labels, apart(items.fingerprints, splits), "negative")
        groups = [name for part in each for name in part.groups or [None] * len(part)]
        return Dataset(
            items,
            vocabulary,
            relations,
            splits,
            groups=groups if any(groups) else None,
            held_out=held_out and "validation" in splits,
            rows=torch.from_numpy(np.concatenate([np.array(part.places, dtype=np.int64) for part in each])),
        )

    def _relations(
        self,
        labels: TextSets | list[str | None],
        fingerprints: Tensor,
        unlabelled: Literal["ignored", "negative"] = "ignored",
    ) -> Relations:
        """Relations by class names: multi-label ones of sets of names."""
        if not isinstance(labels, TextSets):
            return LabelRelations.from_names(labels, fingerprints, unlabelled)
        used, found = labels.numbered()
        names = taken(labels.names, used)
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(len(names))
        ragged = Ragged(torch.from_numpy(rank[found]), torch.from_numpy(labels.offsets))
        keys = (ragged.segment_ids * len(names) + ragged.values).sort().values  # ascending in each row
        ragged = Ragged(keys % max(len(names), 1), ragged.offsets)
        classes = [names[place] for place in order]
        return MultiLabelRelations(ragged, classes, fingerprints, self.overlap, unlabelled)


def _label(value: object, optional: bool) -> cells.Checked:
    """The name of a class, or in its place what is wrong with it, which a correction may mend."""
    found, problem = cells.name(value, empty=optional)
    return problem or found, None


def _labels_of(parts: Sequence[LabelledItems]) -> TextSets | list[str | None]:
    """The labels of all parts: sets if any part has some that are not empty. Other parts then have none."""
    several = [part.labels for part in parts if isinstance(part.labels, TextSets)]
    if not any(len(each.numbers) for each in several):
        return [label for part in parts for label in _one_each(part)]
    none = (TextSets.of([[]] * len(part)) for part in parts)
    return TextSets.joined(
        [
            part.labels if isinstance(part.labels, TextSets) else empty
            for part, empty in zip(parts, none, strict=True)
        ]
    )


def _one_each(part: LabelledItems) -> Sequence[str | None]:
    return [None] * len(part) if isinstance(part.labels, TextSets) else part.labels


def _items_of(parts: Sequence[LabelledItems], folder: str | None = None) -> tuple[Items, Vocabulary]:
    """All items of ``parts`` with their vocabulary; texts beyond 64 MB go to ``folder``."""
    keys = [key for part in parts for key in part.keys or [""] * len(part)]
    named = keys if any(keys) else None
    if parts[0].kind == "text":
        texts = Texts.joined(part.rows.texts for part in parts if isinstance(part.rows, OneTextEach))
        return Items.of_texts(texts, keys=named, folder=folder)
    rows = TextSets.joined([part.rows for part in parts if isinstance(part.rows, TextSets)], folder)
    return Items.encode(rows, "set", named, folder=folder)


@dataclass(frozen=True)
class _Chosen:
    """The columns to read, empty where there is none, and the guessed ones in words."""

    text: str | list[str]
    tags: str
    label: str
    labels: str
    guessed: str

    def columns(self, labelled: bool) -> set[str]:
        """Their names, without those of labels if there are none to read."""
        texts = [self.text] if isinstance(self.text, str) else self.text
        return {*texts, self.tags, *((self.label, self.labels) if labelled else ())} - {""}
