"""Texts of a run's training data for its model card, for those who ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lit_metric.configurable import find_class
from lit_metric.data import CsvOptions, DataError, Judgements, Labels, Pairs, Problems, Supervision, Triples
from lit_metric.data.formats.columns import AbsentTexts, Columns
from lit_metric.data.formats.pairs import usual_pair
from lit_metric.data.rows_to_encode import head_of
from lit_metric.data.sources import guess_supervision

COLUMNS = ("text", "tags", "tag_separator")
SHOWN = 200
"""Characters of a text that the card shows."""


def examples_of(run: Path | None, count: int) -> list[str]:
    """``count`` items of the training data, evenly over the first thousand rows; tags are joined by " | ".

    Args:
        run: the folder of the run, whose ``config.yaml`` names the data.

    Raises:
        DataError: when there is no run, or its training data can't be read.
    """
    if run is None:
        raise DataError("--card_examples needs the folder of the run, which names its training data")
    content = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    data: Mapping[str, Any] = (content or {}).get("data") or {}
    data = data.get("init_args", data)
    source: Any = data.get("train")
    if source is None:
        raise DataError(f"--card_examples: {run / 'config.yaml'} names no training data under data.train")
    csv = data.get("csv")
    options = CsvOptions(**csv.get("init_args", csv)) if isinstance(csv, Mapping) else None
    given = {name: data[name] for name in COLUMNS if data.get(name)}
    supervision = Labels(**given) if given else _supervision(data.get("supervision"))
    supervision = supervision or guess_supervision(head_of(source, options))
    if isinstance(supervision, Judgements | Triples):  # whose table names texts by their ids
        source = supervision.corpus if isinstance(supervision, Judgements) else supervision.entities
    table = head_of(source, options)
    if isinstance(supervision, Pairs) and supervision.anchor is None and (pair := usual_pair(table)):
        supervision = replace(supervision, anchor=pair[0])
    columns = Columns(table, Problems(skip=True), AbsentTexts())
    read = supervision.items_to_encode(table)
    if read is None:
        raise DataError(f"--card_examples: {type(supervision).__name__} can't read single rows")
    items, vocabulary = read(columns)
    rows = list(dict.fromkeys(map(tuple, items.texts.tolist())))
    chosen = [rows[place * len(rows) // count] for place in range(count)] if count < len(rows) else rows
    texts = (" | ".join(vocabulary.texts[number] for number in row) for row in chosen)
    return [text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…" for text in texts]


def _supervision(described: Any) -> Supervision | None:
    """The supervision of a config."""
    if not isinstance(described, Mapping):
        return None
    path = str(described["class_path"])
    kind = find_class(path if "." in path else f"lit_metric.data.{path}")
    if not (isinstance(kind, type) and issubclass(kind, Supervision)):
        raise DataError(f"--card_examples: {path} is no supervision")
    return kind(**(described.get("init_args") or {}))
