"""Tables and files for the tests of formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_metric.data import Dataset, LabelledItems, Labels, Problems, ReadOptions, Supervision, Table
from lit_metric.data.formats.columns import Columns
from lit_metric.data.table import Part


def table(name: str = "items.csv", /, **columns: list[Any]) -> Table:
    """A table in memory."""
    rows = len(next(iter(columns.values())))
    return Table([Part(name, rows, list(columns), columns.__getitem__)])


def read(
    format: Supervision, skip: bool = False, share: float = 0.5, seed: int = 0, **tables: Table
) -> Dataset:
    """What a format makes of some tables."""
    return format.read(tables, ReadOptions(Problems(skip), share, seed))


def labelled_items(table: Table, labelled: bool = True, **columns: Any) -> LabelledItems:
    """The items of one table, every row checked; see ``Labels`` for the columns."""
    read = Columns(table, Problems())
    items = Labels(**columns).items(read, labelled)
    read.problems.refuse()
    return items


def write(path: Path, *rows: dict[str, Any]) -> str:
    """Write JSON Lines and say where."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(content: Dataset, split: str) -> list[str]:
    """The texts of a split whose items have one each."""
    rows = content.items.texts.select(content.splits[split]).tolist()
    return [content.vocabulary.texts[text] for (text,) in rows]


def text_of(content: Dataset, item: int) -> str:
    """The text of an item that has one."""
    [text] = content.items.texts[item].tolist()
    return content.vocabulary.texts[text]


def known(content: Dataset, split: str) -> set[tuple[str, str, float]]:
    """What the relations know of a split's anchors and their corpus, in words."""
    anchors = content.splits[split]
    others = content.splits[content.corpus_of(split) or split]
    targets = content.relations.targets(anchors, others)
    return {
        (
            text_of(content, int(anchors[row])),
            text_of(content, int(others[column])),
            float(targets[row, column]),
        )
        for row, column in (~targets.isnan()).nonzero().tolist()
    }
