"""What kind of supervision a table holds, by the names of its columns."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_metric.data.errors import DataError
from lit_metric.data.formats.base import Supervision
from lit_metric.data.formats.columns import guess
from lit_metric.data.formats.judgements import DOCUMENT_NAMES, QUERY_NAMES, Judgements
from lit_metric.data.formats.labels import Labels
from lit_metric.data.formats.layouts import couple
from lit_metric.data.formats.pairs import Pairs
from lit_metric.data.readers import READERS
from lit_metric.data.table import Table

logger = logging.getLogger(__name__)

JUDGEMENTS = "Judgements(queries=..., corpus=...)"


def guessed(table: Table) -> Supervision:
    """The supervision that the usual names of columns suggest: pairs, or else labels.

    Raises:
        DataError: for triples, and for judgements without ``queries`` and ``corpus`` files beside them: only
            the caller can say where their texts are.
    """
    if found := couple(table):
        anchor, positive, alike = found
        if not (alike or _is_text(table, anchor) or _is_text(table, positive)):
            return _judgements(table)
        return Pairs(symmetric=alike)
    if {"head", "relation", "tail"} <= {name.lower() for name in table.columns}:
        return _elsewhere(table, "Triples(entities=...)")
    if guess(table, QUERY_NAMES) and guess(table, DOCUMENT_NAMES):
        return _judgements(table)
    return Labels()


def _judgements(table: Table) -> Supervision:
    """With the texts beside the file, or one folder up, as BEIR has them in ``queries.jsonl``."""
    path = Path(table.name)
    for folder in (path.parent, path.parent.parent) if path.is_file() else ():
        found = [
            next(
                (folder / f"{name}{suffix}" for suffix in READERS if (folder / f"{name}{suffix}").is_file()),
                None,
            )
            for name in ("queries", "corpus")
        ]
        if found[0] and found[1]:
            logger.info("%s holds ids of texts, which are taken from %s and %s", table.name, *found)
            return Judgements(str(found[0]), str(found[1]))
    return _elsewhere(table, JUDGEMENTS)


def _elsewhere(table: Table, needs: str) -> Supervision:
    raise DataError(
        f"{table.layout}, ids of texts that stand elsewhere: say where by "
        f"supervision: lit_metric.data.{needs}"
    )


def _is_text(table: Table, column: str) -> bool:
    """Whether a column that could be of ids or of texts holds more than single words."""
    values = table.peek(column)[:100]
    return any(" " in value if isinstance(value, str) else isinstance(value, list) for value in values)
