"""What a person knows about items, and how files say it: labels, pairs, judgements, triples."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_metric.data.errors import DataError
from lit_metric.data.formats.base import AUTO, ReadOptions, Supervision
from lit_metric.data.formats.classes import LabelledItems
from lit_metric.data.formats.judgements import DOCUMENT_NAMES, QUERY_NAMES, Judgements, fold_of
from lit_metric.data.formats.labels import Labels
from lit_metric.data.formats.pairs import Pairs, usual_pair
from lit_metric.data.formats.triples import Triples
from lit_metric.data.readers import READERS
from lit_metric.data.table import Table

__all__ = [
    "AUTO",
    "Judgements",
    "LabelledItems",
    "Labels",
    "Pairs",
    "ReadOptions",
    "Supervision",
    "Triples",
    "fold_of",
    "guess_supervision",
]

logger = logging.getLogger(__name__)


def guess_supervision(table: Table, split: str | None = AUTO) -> Supervision:
    """The supervision that the usual names of columns suggest: pairs or judgements, or else labels.

    Judgements name texts by their ids. The texts are searched next to the file, or one folder up, as in BEIR:
    ``queries.jsonl`` and ``corpus.jsonl``, or with another suffix.

    Args:
        table: the first of the sources.
        split: the column that names the split of each row; see :class:`Labels`.

    Raises:
        DataError: for triples, and for judgements without files of texts: only the caller can say where the
            texts are.
    """

    def holds_texts(column: str) -> bool:  # not ids, which are single words
        values = table.peek(column)[:100]
        return any(" " in value if isinstance(value, str) else isinstance(value, list) for value in values)

    needs = "Judgements(queries=..., corpus=...)"
    pair = usual_pair(table)
    if pair is None:
        if {"head", "relation", "tail"} <= {name.lower() for name in table.columns}:
            needs = "Triples(entities=...)"
        elif not (table.guess(QUERY_NAMES) and table.guess(DOCUMENT_NAMES)):
            return Labels(split=split)
    elif pair[2] or any(map(holds_texts, pair[:2])):
        return Pairs(symmetric=pair[2], split=split)
    path = Path(table.name)
    folders = (path.parent, path.parent.parent) if path.is_file() and needs.startswith("Judgements") else ()
    for folder in folders:
        files = {name: [folder / f"{name}{suffix}" for suffix in READERS] for name in ("queries", "corpus")}
        found = [next(filter(Path.is_file, paths), None) for paths in files.values()]
        if found[0] and found[1]:
            if split not in (AUTO, None):
                raise DataError(f"split={split!r}: judgements are split by folds= or by one source each")
            logger.info("%s holds ids of texts, which are taken from %s and %s", table.name, *found)
            return Judgements(str(found[0]), str(found[1]))
    raise DataError(
        f"{table.layout}, ids of texts that stand elsewhere: say where by "
        f"supervision: lit_metric.data.{needs}"
    )
