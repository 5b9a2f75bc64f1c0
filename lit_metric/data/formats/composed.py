"""Queries made of a reference and of what is to be different, with the targets that they search for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from lit_metric.data.dataset import Dataset
from lit_metric.data.formats import columns as cells
from lit_metric.data.formats.base import (
    AUTO,
    DOCUMENT,
    ReadItems,
    ReadOptions,
    Supervision,
    rows_by_split,
)
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.judged import JudgedData, texts_to_encode
from lit_metric.data.formats.judged_rows import JudgedRows, RowsBySplit
from lit_metric.data.items import QUERY, Items, Vocabulary
from lit_metric.data.ragged import Ragged
from lit_metric.data.table import Table
from lit_metric.data.texts import Texts


@dataclass(eq=False)
class Composed(Supervision):
    """Each row has a reference, an edit, and one or several targets: "like this package, but for KDE".

    A query is an item of two texts, the reference first and the edit second, for a
    :class:`~lit_metric.encoders.SetEncoder` with :class:`~lit_metric.encoders.ComposedPooling`. A target is
    an item of one text. Rows with the same reference and edit are one query. The targets of all splits are
    one corpus, which the queries of every split search. A reference that is a target of other rows stays in
    that corpus, as the hardest of all negatives.

    Queries have the role ``"query"`` and targets ``"document"``. Of a query's texts, the edit has the role
    ``"query"`` and the reference ``"document"``, so that it gets the same prompt as targets.

    Args:
        reference: the column of references.
        edit: the column of what is to be different.
        target: a column of texts, or of lists of texts.
        split: as of :class:`Pairs`.
    """

    reference: str = "reference"
    edit: str = "edit"
    target: str = "target"
    split: str | None = AUTO

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        """See :meth:`Supervision.read`."""
        columns = {name: reading.columns(table) for name, table in tables.items() if name != "predict"}
        texts: list[Texts] = []
        of_tables: RowsBySplit = {}
        for name, each in columns.items():
            of_tables[name] = self._check_rows(name, each, texts)
        rows: RowsBySplit = {}
        for split, (name, places) in rows_by_split(columns, self.split).items():
            if split != "predict":
                kept = torch.from_numpy(np.array(places, dtype=np.int64))
                rows[split] = of_tables[name].select(torch.searchsorted(of_tables[name].rows, kept))
        targets = [each.others.values for each in rows.values()]
        data = JudgedData(
            columns,
            reading,
            (QUERY, DOCUMENT),
            Texts.joined(texts),
            corpus=torch.cat(targets) if targets else None,
        )
        data.hold_out(rows)
        dataset = data.build(rows, tables.get("predict"), self.target)
        items, vocabulary = _with_two_texts(dataset.items, dataset.vocabulary)
        return replace(dataset, items=items, vocabulary=vocabulary)

    def items_to_encode(self, table: Table, other: Table | None = None) -> ReadItems:
        """See :meth:`Supervision.items_to_encode`."""
        read = texts_to_encode(table, self.target, (QUERY, DOCUMENT))

        def items(columns: Columns) -> tuple[Items, Vocabulary]:
            found, vocabulary = read(columns)
            return replace(found, kind="set"), vocabulary

        return items

    def _check_rows(self, name: str, columns: Columns, all_texts: list[Texts]) -> JudgedRows:
        """The rows of a table; what is wrong with others is noted. Its texts are added to ``all_texts``."""
        for column in (self.reference, self.edit, self.target):
            columns.table.named(column, (), column, column)
        references, edits = columns.texts(self.reference), columns.texts(self.edit)
        targets, counts = columns.lists(self.target, partial(_texts, what="targets"))
        queries = []
        for row, (reference, edit) in enumerate(zip(references, edits, strict=True)):
            queries.append(_joined(reference, edit))
            if row not in columns.bad and reference == edit:
                columns.note(row, self.edit, "the edit is the same text as the reference", "Give another.")
        ends = counts.cumsum(0).tolist()
        for row in columns.kept:
            if references[row] in targets[ends[row] - int(counts[row]) : ends[row]]:
                problem = "a target is the same text as the reference"
                columns.note(row, self.target, problem, "Give another, or drop the row.")
        start, kept = sum(map(len, all_texts)), columns.kept_rows
        all_texts += [Texts.of(queries), targets]
        others = Ragged.from_lengths(torch.arange(len(targets)) + start + len(queries), counts)
        return JudgedRows(name, kept, start + kept, others.select(kept))


def _texts(value: object, what: str) -> cells.Checked:
    """Check a text, or a list of texts."""
    if isinstance(value, list):
        return cells.short_texts(value, None, empty=False, what=what)
    found, problem = cells.text(value)
    return [found] if problem is None else [], problem


def _joined(reference: str, edit: str) -> str:
    """Both in one text, from which :func:`_parted` gets them back whatever they hold.

    Example:
        >>> _joined("a b", "c"), _parted(_joined("a b", "c"))
        ('3 a bc', ['a b', 'c'])
    """
    return f"{len(reference)} {reference}{edit}"


def _parted(query: str) -> list[str]:
    length, _, rest = query.partition(" ")
    return [rest[: int(length)], rest[int(length) :]]


def _with_two_texts(items: Items, vocabulary: Vocabulary) -> tuple[Items, Vocabulary]:
    """The items with a reference and an edit in the place of each joined text. Fingerprints stay those of the
    joined texts, so that the order counts."""
    assert items.roles is not None
    number = items.role_names.index(QUERY)
    rows, roles = [], []
    for place, role in zip(items.texts.values.tolist(), items.roles.tolist(), strict=True):
        is_query = role == number
        rows.append(_parted(vocabulary.texts[place]) if is_query else [vocabulary.texts[place]])
        roles.append([DOCUMENT, QUERY] if is_query else [DOCUMENT])
    parted, texts = Vocabulary.encode(rows, roles)
    return replace(items, texts=texts, kind="set"), parted
