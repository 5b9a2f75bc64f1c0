"""The usual columns of pairs, and what the values of a column of scores mean."""

from __future__ import annotations

import re
from typing import Any

from lit_metric.data.errors import DataError, listed
from lit_metric.data.formats import columns as values
from lit_metric.data.formats.columns import guess
from lit_metric.data.table import Table

ALIKE = (
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
ANSWERED = tuple(
    (first, second)
    for first in ("query", "question")
    for second in (
        "positive",
        "positives",
        "pos",
        "positive_passages",
        "positive_passage",
        "passage",
        "document",
        "answer",
    )
)
NEGATIVE = re.compile(r"(hard_?)?neg(ative)?s?(_passages?)?[_-]?(\d*)")
SCORE_NAMES = ("score", "similarity", "similarity_score", "is_duplicate", "label", "gold_label")


def couple(table: Table) -> tuple[str, str, bool] | None:
    """Two columns that usually hold pairs, and whether they hold texts of the same kind."""
    names = {column.lower(): column for column in table.columns}
    for first, second in (*ALIKE, *ANSWERED):
        if first in names and second in names:
            return names[first], names[second], (first, second) in ALIKE
    return None


def negatives_of(table: Table) -> list[str]:
    """The columns that usually hold negatives: ``negative``, ``neg``, ``negative_1``, ``negative_2``, …

    Example:
        >>> from lit_metric.data import read_table
        >>> negatives_of(read_table({"negative_10": ["c"], "negative_2": ["b"], "neg_scores": [0.5]}))
        ['negative_2', 'negative_10']
    """
    found = [(NEGATIVE.fullmatch(column.lower()), column) for column in table.columns]
    numbered = [(int(match[4] or 0), column) for match, column in found if match]
    return [column for _, column in sorted(numbered, key=lambda each: each[0])]


def scores_of(table: Table) -> tuple[str | None, str]:
    """The column that usually holds scores, if its values are some; and what else they say, in words.

    Raises:
        DataError: when they are names or numbers of classes, such as those of textual entailment.
    """
    column = guess(table, SCORE_NAMES)
    if column is None:
        return None, ""
    given = [value for value in table.peek(column) if not values.missing(value) and value != ""]
    numbers = [number for number, problem in map(values.number, given) if not problem]
    distinct = set(numbers)
    if 2 * len(numbers) < len(given):
        found = listed(list(dict.fromkeys(str(value) for value in given)), 3)
        raise _no_scores(table, column, found)
    if "label" in column.lower() and 2 in distinct and distinct <= {-1, 0, 1, 2}:
        raise _no_scores(table, column, ", ".join(f"{number:g}" for number in sorted(distinct)))
    if len(distinct) == 1 and numbers[0] > 0:
        table.used.add(column)
        return None, f"{column!r} is {numbers[0]:g} in every row, so all pairs belong together"
    return column, ""


def _no_scores(table: Table, column: str, found: str) -> DataError:
    return DataError(
        f"column {column!r} of {table.name} holds {found}: classes of pairs, as of textual entailment, not "
        "scores. Keep the rows whose texts belong together and drop the column, or name a column of numbers, "
        "more for what is more similar, with supervision=Pairs(score=...)"
    )


def texts(value: Any, what: str) -> values.Checked:
    """A text, or a list of texts that may be empty; a text may be a dict of ``title`` and ``text``.

    Args:
        value: of a cell.
        what: what messages call the texts.

    Example:
        >>> texts([{"docid": "7", "title": "Ink", "text": "Black."}, "a text"], "positives")
        (['Ink Black.', 'a text'], None)
    """
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return values.short_texts([_passage(each) for each in value], None, empty=True, what=what)
    text, problem = values.text(value)
    return ([] if problem else [text]), problem


def _passage(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    parts = [value.get(name) for name in ("title", "text")]
    return " ".join(part for part in parts if isinstance(part, str) and part.strip())
