"""What kind of supervision a table holds, by the names of its columns."""

from __future__ import annotations

from lit_metric.data.errors import DataError
from lit_metric.data.formats.base import Supervision
from lit_metric.data.formats.columns import guess
from lit_metric.data.formats.judgements import DOCUMENT_NAMES, QUERY_NAMES
from lit_metric.data.formats.labels import Labels
from lit_metric.data.formats.pairs import Pairs, couple
from lit_metric.data.table import Table

JUDGEMENTS = "Judgements(queries=..., corpus=...)"


def guessed(table: Table) -> Supervision:
    """The supervision that the usual names of columns suggest: pairs, or else labels.

    Raises:
        DataError: for judgements and triples, whose texts are in other files that only the caller can name.
    """
    if found := couple(table):
        anchor, _, alike = found
        if not (alike or _is_text(table, anchor)):
            return _elsewhere(table, JUDGEMENTS)
        return Pairs(symmetric=alike)
    if {"head", "relation", "tail"} <= {name.lower() for name in table.columns}:
        return _elsewhere(table, "Triples(entities=...)")
    if guess(table, QUERY_NAMES) and guess(table, DOCUMENT_NAMES):
        return _elsewhere(table, JUDGEMENTS)
    return Labels()


def _elsewhere(table: Table, needs: str) -> Supervision:
    raise DataError(
        f"{table.layout}, ids of texts that stand elsewhere: say where by "
        f"supervision: lit_metric.data.{needs}"
    )


def _is_text(table: Table, column: str) -> bool:
    """Whether a column that could be of ids or of texts holds more than single words."""
    return any(" " in value for value in table.column(column)[:100] if isinstance(value, str))
