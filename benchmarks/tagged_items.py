"""Items described by tags, as the benchmarks read and write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

SHIPPED = Path(__file__).parents[1] / "data" / "debtags.parquet"
SPLITS = ("train", "validation", "test")


class TaggedItems(NamedTuple):
    """``n`` items: their names, each one's tags, and each one's label (the column ``section``)."""

    names: list[str]
    tags: list[list[str]]
    sections: list[str]

    def with_tags(self, tags: Sequence[Sequence[str]]) -> TaggedItems:
        """The same items under other tags; those that have none left are dropped."""
        rows = [
            (name, list(row), section)
            for name, row, section in zip(self.names, tags, self.sections, strict=True)
            if row
        ]
        return TaggedItems([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def read_splits(path: str | Path = SHIPPED) -> dict[str, TaggedItems]:
    """Read a Parquet file with the columns ``name``, ``tags``, ``section`` and ``split``, by split.

    Raises:
        ValueError: a column is missing, or a split has another name than train, validation and test.
    """
    table = pq.read_table(path)
    missing = {"name", "tags", "section", "split"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; it has {table.column_names}")
    splits: dict[str, TaggedItems] = {split: TaggedItems([], [], []) for split in SPLITS}
    for row in table.to_pylist():
        if row["split"] not in splits:
            raise ValueError(f"{path}, {row['name']}: split {row['split']!r} is none of {', '.join(SPLITS)}")
        items = splits[row["split"]]
        items.names.append(row["name"])
        items.tags.append(row["tags"])
        items.sections.append(row["section"])
    return splits


def write_splits(path: str | Path, splits: dict[str, TaggedItems]) -> None:
    """Write what ``read_splits`` reads."""
    columns = {
        "name": [name for items in splits.values() for name in items.names],
        "tags": [tags for items in splits.values() for tags in items.tags],
        "section": [section for items in splits.values() for section in items.sections],
        "split": [split for split, items in splits.items() for _ in items.names],
    }
    pq.write_table(pa.table(columns), path, compression="zstd")
