"""Items with class labels: one each, or several."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.errors import DataError, Problems
from lit_metric.data.formats import columns as values
from lit_metric.data.formats.base import (
    TEXT_NAMES,
    ReadOptions,
    Supervision,
    apart,
    refuse_empty,
    rows_by_split,
    say_guesses,
)
from lit_metric.data.formats.columns import Columns, guess
from lit_metric.data.formats.hold_out import split_off
from lit_metric.data.formats.labelled import Classes, LabelledItems
from lit_metric.data.formats.names import settle
from lit_metric.data.items import Items, Kind
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import LabelRelations, MultiLabelRelations, Relations
from lit_metric.data.table import Table

logger = logging.getLogger(__name__)

TAG_NAMES = ("tags", "keywords", "tag", "terms")
LABEL_NAMES = ("label", "intent", "category", "section", "class", "topic", "target")
LABELS_NAMES = ("labels", "genres", "categories", "classes", "topics")
Unlabelled = Literal["error", "candidates", "ignore"]


class Labels(Supervision):
    """Items that belong together when they share a class.

    Columns that are not named are guessed from usual names, and one log line says what was taken; other
    splits have the columns of the first, or a guess of their own where they lack one. An item is one text, or
    a set of short texts: tags, or the contents of several fields.

    Args:
        text: the column of texts; of several columns, the texts are put one after the other.
        tags: the column of tags: lists, or strings cut by ``tag_separator``.
        tag_separator: what stands between tags, and between those of ``fields``, such as ``","``; white space
            around tags is dropped.
        weights: a column of lists of numbers above 0, how much each tag counts.
        fields: columns by role, such as ``{"title": "name", "tag": "keywords"}``: an item is the set of what
            they hold, a text or a list of texts each. A prompt may be given for each role.
        label: the column of class labels, strings or whole numbers.
        labels: the column of several labels each, lists or strings cut by ``labels_separator``.
        labels_separator: what stands between labels.
        overlap: with ``labels``, the least Jaccard overlap of two items' labels that makes them belong
            together, in [0, 1]; 0: one label in common is enough.
        key: a column of names for the items.
        split: a column of ``train`` that says which split each row belongs to: ``train``, ``validation`` or
            ``test``; there are no other sources then.
        unlabelled: what to do with rows without a label. ``"error"``: refuse them. ``"ignore"``: leave them
            out. ``"candidates"``: a miner may propose them as negatives, and its filters decide which are
            safe; without a miner they are in no batch. They are never anchors or positives.
        normalize_labels: make one class of labels that differ only in case, blanks or Unicode form; without
            it, such labels are only logged.
        group: a column of names, which may be empty; recall is measured for each group of items, too.

    Raises:
        DataError: when options contradict each other.
        ValueError: when a value is out of range.
    """

    def __init__(
        self,
        text: str | list[str] | None = None,
        tags: str | None = None,
        tag_separator: str | None = None,
        weights: str | None = None,
        fields: dict[str, str] | None = None,
        label: str | None = None,
        labels: str | None = None,
        labels_separator: str | None = None,
        overlap: float = 0.0,
        key: str | None = None,
        split: str | None = None,
        unlabelled: Unlabelled = "error",
        normalize_labels: bool = False,
        group: str | None = None,
    ) -> None:
        given = {"text": text, "tags": tags, "fields": fields}
        if sum(map(bool, given.values())) > 1:
            told = " and ".join(f"{name}={value!r}" for name, value in given.items() if value)
            raise DataError(f"{told} were both given; an item is one or the other")
        if label and labels:
            raise DataError(
                f"label={label!r} and labels={labels!r} were both given; items have one label or several"
            )
        if weights and not tags:
            raise DataError(f"weights={weights!r} are those of tags; name the column of tags with tags=")
        if not 0 <= overlap <= 1:
            raise ValueError(f"overlap is a share of labels, in [0, 1], not {overlap}")
        if unlabelled not in ("error", "candidates", "ignore"):
            raise ValueError(f"unlabelled must be 'error', 'candidates' or 'ignore', not {unlabelled!r}")
        self.text = text
        self.tags = tags
        self.tag_separator = tag_separator
        self.weights = weights
        self.fields = fields
        self.label = label
        self.labels = labels
        self.labels_separator = labels_separator
        self.overlap = overlap
        self.key = key
        self.split = split
        self.unlabelled: Unlabelled = unlabelled
        self.normalize_labels = normalize_labels
        self.group = group

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        columns = {name: Columns(table, reading.problems) for name, table in tables.items()}
        taken = self._shared(tables)
        tables_of = {
            name: self._items(each, taken[name], name != "predict") for name, each in columns.items()
        }
        if len({items.kind for items in tables_of.values()}) > 1:
            kinds = ", ".join(f"{name}: {items.kind}" for name, items in tables_of.items())
            raise DataError(f"items must be texts in all splits or sets in all splits, not {kinds}")
        places = rows_by_split(columns, self.split)
        refuse_empty(places, reading.problems)
        parts = {
            name: tables_of[rows[0][0]].select([row for _, row in rows]) for name, rows in places.items()
        }
        if self.unlabelled != "error":
            parts = {name: self._without_label(items, name) for name, items in parts.items()}
        content = self._content(self._settled(parts), reading)
        if parts.keys() <= tables.keys():  # and not by a column
            apart = {"train", "validation"} if content.held_out else set()
            content.row_counts.update({name: len(tables[name]) for name in parts.keys() - apart})
        return content

    def _settled(self, parts: dict[str, LabelledItems]) -> dict[str, LabelledItems]:
        """With one name for each class."""
        counts = Counter(name for part in parts.values() for each in part.labels for name in _names(each))
        renamed = settle(counts, self.normalize_labels)
        if not renamed:
            return parts

        def settled(label: Classes) -> Classes:
            if isinstance(label, list):
                return list(dict.fromkeys(renamed.get(name, name) for name in label))
            return renamed.get(label, label) if label is not None else None

        return {
            split: replace(part, labels=[settled(each) for each in part.labels])
            for split, part in parts.items()
        }

    def items(self, columns: Columns, labelled: bool = True) -> LabelledItems:
        """All rows of a table, checked; what is bad is noted in ``columns``.

        Args:
            columns: of the table.
            labelled: whether there are labels at all; if not, all are None.
        """
        taken = self._taken(columns.table, labelled)
        say_guesses([(columns.table, taken.guessed)])
        return self._items(columns, taken, labelled)

    def _items(self, columns: Columns, taken: _Taken, labelled: bool) -> LabelledItems:
        roles, weights = None, None
        kind: Kind = "set"
        if taken.text:
            rows, kind = [[each] for each in columns.texts(taken.text)], "text"
        elif self.fields:
            rows, roles = self._fields(columns)
        else:
            rows = columns.read(
                taken.tags, lambda value: values.short_texts(value, self.tag_separator, empty=False)
            )
            weights = self._weights(columns, rows)
            if weights is None:
                rows = [list(dict.fromkeys(row or ())) for row in rows]
        labels = self._labels(columns, taken) if labelled else [None] * len(rows)
        keys = None
        if self.key is not None:
            keys = ["" if values.missing(value) else str(value) for value in columns.table.column(self.key)]
        groups = None
        if self.group is not None and labelled:
            groups = columns.read(self.group, lambda value: values.label(value, empty=True))
        return LabelledItems(rows, labels, kind, keys, roles, weights, groups, [*range(len(rows))])

    def _fields(self, columns: Columns) -> tuple[list[list[str]], list[list[str]]]:
        rows: list[list[str]] = [[] for _ in range(len(columns.table))]
        roles: list[list[str]] = [[] for _ in rows]
        for role, column in (self.fields or {}).items():
            found = columns.read(column, lambda value: _field(value, self.tag_separator))
            for row, texts in enumerate(found):
                rows[row] += texts or ()
                roles[row] += [role] * len(texts or ())
        for row, texts in enumerate(rows):
            if not texts and row not in columns.bad:
                columns.note(row, " + ".join((self.fields or {}).values()), "no text in any", values.FILL)
        return rows, roles

    def _weights(self, columns: Columns, rows: list[list[str]]) -> list[list[float]] | None:
        if self.weights is None:
            return None
        weights = columns.read(self.weights, lambda value: values.numbers(value, self.tag_separator))
        for row, (tags, given) in enumerate(zip(rows, weights, strict=True)):
            if row not in columns.bad and len(tags) != len(given):
                problem = f"{len(given)} weights for {len(tags)} tags"
                columns.note(row, self.weights, problem, "Give each tag its weight, in the same order.")
        return weights

    def _labels(self, columns: Columns, taken: _Taken) -> list[Classes]:
        allowed = self.unlabelled != "error"
        if taken.labels:
            found = columns.read(
                taken.labels,
                lambda value: values.short_texts(value, self.labels_separator, allowed, "labels"),
            )
            return [list(dict.fromkeys(each)) if each else None for each in found]
        labels: list[Classes] = columns.read(taken.label, lambda value: values.label(value, allowed))
        columns.one_type(taken.label)
        return labels

    def _shared(self, tables: Mapping[str, Table]) -> dict[str, _Taken]:
        """The columns to read of each table: those of the first, or a guess of its own where it lacks one."""
        taken: dict[str, _Taken] = {}
        for name, table in tables.items():
            first, labelled = next(iter(taken.values()), None), name != "predict"
            shared = first is not None and first.columns(labelled) <= {*table.columns}
            taken[name] = first if first is not None and shared else self._taken(table, labelled)
        say_guesses((tables[name], each.guessed) for name, each in taken.items())
        return taken

    def _taken(self, table: Table, labelled: bool) -> _Taken:
        """The columns to read, guessed where no name was given."""
        guessed = []
        text, tags = self.text, self.tags
        if not (text or tags or self.fields):
            text = guess(table, TEXT_NAMES)
            tags = None if text else guess(table, TAG_NAMES)
            if not (text or tags):
                raise DataError(
                    "no column of texts or tags has a usual name; name it with text= or tags=. "
                    f"{table.layout}"
                )
            guessed.append(f"text={text!r}" if text else f"tags={tags!r}")
        label, labels = self.label or "", self.labels or ""
        if labelled and not (label or labels):
            label, labels = guess(table, LABEL_NAMES) or "", guess(table, LABELS_NAMES) or ""
            if not (label or labels):
                raise DataError(f"no column of labels has a usual name; name it with label=. {table.layout}")
            labels = "" if label else labels
            guessed.append(f"label={label!r}" if label else f"labels={labels!r}")
        return _Taken(text or "", tags or "", label, labels, ", ".join(guessed))

    def _without_label(self, items: LabelledItems, split: str) -> LabelledItems:
        """Say how many have no label, and leave them out if they are to be ignored."""
        known = [place for place, label in enumerate(items.labels) if label is not None]
        count = len(items) - len(known)
        if split == "predict" or not count:
            return items
        if self.unlabelled == "candidates":
            logger.info("%d items of %s have no label: only a miner can make negatives of them", count, split)
            return items
        logger.info("%d items of %s have no label and are left out", count, split)
        return items.select(known)

    def _content(self, parts: dict[str, LabelledItems], reading: ReadOptions) -> Dataset:
        each = list(parts.values())
        keys = [key for part in each for key in part.keys or [""] * len(part)]
        roles = [row for part in each for row in part.roles or ()]
        weights = [row for part in each for row in part.weights or ()]
        items, vocabulary = Items.encode(
            [row for part in each for row in part.rows],
            each[0].kind,
            keys if any(keys) else None,
            roles=roles or None,
            weights=weights or None,
        )
        ends = np.cumsum([0, *map(len, each)]).tolist()
        splits = {name: torch.arange(ends[at], ends[at + 1]) for at, name in enumerate(parts)}
        labels = [label for part in each for label in part.labels]
        relations = relations_of(labels, items.fingerprints, self.overlap)
        held_out = "train" in splits and "validation" not in splits
        if held_out:
            splits |= split_off(splits["train"], relations, reading)
        if self.unlabelled == "candidates":
            relations = relations_of(labels, apart(items.fingerprints, splits), self.overlap, "negative")
        groups = [name for part in each for name in part.groups or [None] * len(part)]
        return Dataset(
            items,
            vocabulary,
            relations,
            splits,
            groups=groups if any(groups) else None,
            held_out=held_out and "validation" in splits,
            rows=torch.tensor([place for part in each for place in part.places], dtype=torch.int64),
        )


@dataclass(frozen=True)
class _Taken:
    """The columns that are read, empty where there is none, and what was guessed of them, to be said."""

    text: str | list[str]
    tags: str
    label: str
    labels: str
    guessed: str

    def columns(self, labelled: bool) -> set[str]:
        """Their names, without those of labels where there are none."""
        texts = [self.text] if isinstance(self.text, str) else self.text
        return {*texts, self.tags, *((self.label, self.labels) if labelled else ())} - {""}


def _names(label: Classes) -> list[str]:
    """The classes of an item."""
    return label if isinstance(label, list) else [label] if label is not None else []


def _field(value: object, separator: str | None) -> values.Checked:
    """A text, or a list of texts, or nothing."""
    if isinstance(value, str) and separator is None:
        text, problem = values.text(value, empty=True)
        return ([text] if text else []), problem
    return values.short_texts(value, separator, empty=True, what="texts")


def relations_of(
    labels: Sequence[Classes],
    fingerprints: Tensor,
    overlap: float = 0.0,
    unlabelled: Literal["ignored", "negative"] = "ignored",
) -> Relations:
    """Relations by class names: multi-label ones if any item has a list of them."""
    if not any(isinstance(label, list) for label in labels):
        return LabelRelations.from_names(labels, fingerprints, unlabelled)  # type: ignore[arg-type]
    lists = [label if isinstance(label, list) else [] for label in labels]
    classes = sorted({name for row in lists for name in row})
    numbers = {name: number for number, name in enumerate(classes)}
    ragged = Ragged.from_lists([sorted(numbers[name] for name in row) for row in lists])
    return MultiLabelRelations(ragged, classes, fingerprints, overlap, unlabelled)


def labelled_items(
    table: Table,
    text: str | None = None,
    tags: str | None = None,
    tag_separator: str | None = None,
    label: str | None = None,
    key: str | None = None,
    labelled: bool = True,
) -> LabelledItems:
    """The items of one table, every row checked; see :class:`Labels` for the columns.

    Raises:
        DataError: when a column is missing or cannot be guessed, or when values cannot be used: an empty
            text, a missing label, an empty list of tags, a wrong type, broken characters. All bad rows are
            reported together, with file, column and row.
    """
    columns = Columns(table, Problems())
    items = Labels(text, tags, tag_separator, label=label, key=key).items(columns, labelled)
    columns.problems.refuse()
    return items
