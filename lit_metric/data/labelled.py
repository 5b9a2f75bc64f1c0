"""From a table's columns to items with a class label each."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lit_metric.data.errors import DataError
from lit_metric.data.items import Kind
from lit_metric.data.table import Problems, Table, listed
from lit_metric.data.vocabulary import surrogate_at

logger = logging.getLogger(__name__)

TEXT_NAMES = ("text", "sentence", "question", "utterance", "query", "title", "content", "document", "body")
TAG_NAMES = ("tags", "keywords", "tag", "terms")
LABEL_NAMES = ("label", "intent", "category", "section", "class", "topic", "target")

Problem = tuple[str, str]  # what is wrong, what to do


@dataclass(frozen=True, eq=False)
class LabelledItems:
    """The items of one source, checked.

    Args:
        rows: ``[n]`` the texts of each item: one if ``kind`` is ``"text"``, distinct tags if it is ``"set"``.
        labels: ``[n]`` class names, None where there is none.
        kind: what an item is.
        keys: ``[n]`` names to show to people, or None.
    """

    rows: list[list[str]]
    labels: list[str | None]
    kind: Kind
    keys: list[str] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def by(self, table: Table, column: str, names: Sequence[str]) -> dict[str, LabelledItems]:
        """Part the items by the values of another column of their table.

        Args:
            table: that the items came from.
            column: whose values are all among ``names``.
            names: of the parts; those without rows are left out.

        Raises:
            DataError: when the column is missing or holds something else; all such rows are reported
                together.
        """
        problems = Problems()
        parts: dict[str, list[int]] = {name: [] for name in names}
        for row, value in enumerate(table.column(column)):
            if value in parts:
                parts[value].append(row)
            else:
                problems.add(table.place(row), column, f"{value!r}", f"Use one of {listed(list(names))}.")
        problems.refuse()
        return {
            name: LabelledItems(
                [self.rows[row] for row in rows],
                [self.labels[row] for row in rows],
                self.kind,
                None if self.keys is None else [self.keys[row] for row in rows],
            )
            for name, rows in parts.items()
            if rows
        }


def labelled_items(
    table: Table,
    text: str | None = None,
    tags: str | None = None,
    tag_separator: str | None = None,
    label: str | None = None,
    key: str | None = None,
    labelled: bool = True,
    allow_unlabelled: bool = False,
    allow_empty: bool = False,
) -> LabelledItems:
    """Take items and labels from named columns, and check every row of them.

    Columns that are not named are guessed from usual names, and one log line says what was taken.

    Args:
        table: from :func:`~lit_metric.data.read_table`.
        text: the column of texts, if an item is one text.
        tags: the column of tags, if an item is a set of short texts: lists, or strings cut by
            ``tag_separator``.
        tag_separator: what stands between tags, such as ``","``; white space around tags is dropped.
        label: the column of class labels, strings or whole numbers.
        key: a column of names for the items.
        labelled: whether there are labels at all; if not, all are None.
        allow_unlabelled: accept rows whose label is missing; they belong to no class.
        allow_empty: accept items without any tag.

    Raises:
        DataError: when a column is missing or cannot be guessed, or when values cannot be used: an empty
            text, a missing label, an empty list of tags, a wrong type, broken characters. All bad rows are
            reported together, with file, column and row.
    """
    text, tags, label = _columns(table, text, tags, label if labelled else "")
    column = text or tags
    assert column is not None
    problems = Problems()
    if text:
        rows = _checked(table, text, _text, problems)
    else:
        rows = _checked(table, column, lambda value: _tags(value, tag_separator, allow_empty), problems)
    labels: list[str | None] = [None] * len(table)
    if label:
        labels = _checked(table, label, lambda value: _label(value, allow_unlabelled), problems)
    problems.refuse()
    keys = None if key is None else ["" if _missing(value) else str(value) for value in table.column(key)]
    return LabelledItems(rows, labels, "text" if text else "set", keys)


def _columns(
    table: Table, text: str | None, tags: str | None, label: str | None
) -> tuple[str | None, str | None, str | None]:
    """The names of the three columns, guessed where they are None; an empty ``label`` stays empty."""
    if text and tags:
        raise DataError(f"text={text!r} and tags={tags!r} were both given; an item is one or the other")
    guessed = []
    if not (text or tags):
        text = _guess(table, TEXT_NAMES)
        tags = None if text else _guess(table, TAG_NAMES)
        if not (text or tags):
            raise DataError(
                "no column of texts or tags has a usual name; name it with text= or tags=. "
                f"{table.parts[0].name} has {listed(table.columns)}"
            )
        guessed.append(f"text={text!r}" if text else f"tags={tags!r}")
    if label is None:
        label = _guess(table, LABEL_NAMES)
        if label is None:
            raise DataError(
                f"no column of labels has a usual name; name it with label=. {table.parts[0].name} has "
                f"{listed(table.columns)}"
            )
        guessed.append(f"label={label!r}")
    if guessed:
        logger.info("columns of %s taken by their usual names: %s", table.parts[0].name, ", ".join(guessed))
    return text, tags, label


def _guess(table: Table, names: tuple[str, ...]) -> str | None:
    found = {column.lower(): column for column in reversed(table.columns)}
    return next((found[name] for name in names if name in found), None)


def _checked(
    table: Table, column: str, check: Callable[[Any], tuple[Any, Problem | None]], problems: Problems
) -> list[Any]:
    values = []
    for row, value in enumerate(table.column(column)):
        result, problem = check(value)
        values.append(result)
        if problem is not None:
            problems.add(table.place(row), column, *problem)
    return values


def _text(value: Any) -> tuple[list[str], Problem | None]:
    problem = _problem_of(value)
    return ([], problem) if problem else ([value], None)


def _problem_of(text: Any) -> Problem | None:
    if _missing(text):
        return "no text", "Fill it in, or drop the row."
    if not isinstance(text, str):
        return f"{_kind(text)} instead of text", "Convert the column to strings, or name another."
    if not text.strip():
        return "empty text", "Fill it in, or drop the row."
    if surrogate_at(text) is not None:
        return "broken characters (not valid UTF-8)", "Save the file as UTF-8."
    return None


def _tags(value: Any, separator: str | None, allow_empty: bool) -> tuple[list[str], Problem | None]:
    if isinstance(value, str):
        if separator is None:
            return [], ("a string instead of a list of tags", "Name what separates them: tag_separator=','.")
        value = [piece.strip() for piece in value.split(separator) if piece.strip()]
    elif _missing(value):
        value = []
    elif not isinstance(value, list):
        return [], (f"{_kind(value)} instead of a list of tags", "Give a list of strings.")
    for tag in value:
        problem = _problem_of(tag)
        if problem:
            return [], (f"{problem[0]} among the tags", problem[1])
    if not value and not allow_empty:
        return [], ("no tags", "Fill them in, or drop the row.")
    return list(dict.fromkeys(value)), None


def _label(value: Any, allow_unlabelled: bool) -> tuple[str | None, Problem | None]:
    if _missing(value) or value == "":
        remedy = "Fill it in, or drop the row."
        return None, (None if allow_unlabelled else ("no label", remedy))
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers become floats in tables that have missing ones
    if not isinstance(value, str | int):
        return None, (f"{_kind(value)} instead of a label", "Give one string or whole number per row.")
    label = str(value)
    if surrogate_at(label) is not None:
        return None, ("broken characters (not valid UTF-8)", "Save the file as UTF-8.")
    return label, None


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
