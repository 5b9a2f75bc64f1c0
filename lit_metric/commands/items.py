"""Items of a file for an encoder, and tables of results."""

from __future__ import annotations

import csv as tables
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lit_metric.data import CsvOptions, DataError, LabelledItems, Labels, Problems, read_table
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.labels import TAG_NAMES
from lit_metric.data.items import without_repeats
from lit_metric.data.table import Table
from lit_metric.encoders import Encoder, SetEncoder, TwoTowerEncoder
from lit_metric.encoders.base import Precision
from lit_metric.store import replacing

log = logging.getLogger(__name__)

BadRowsOption = Literal["error", "skip"]


@dataclass(frozen=True, eq=False)
class Read:
    """The items of a file.

    Args:
        table: the file.
        rows: ``[n]`` the row of each item, from 0; those that are missing could not be used.
        items: ``[n]``.
    """

    table: Table
    rows: list[int]
    items: LabelledItems

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """``[n]`` the values of any column of the file."""
        values = self.table.column(name)
        return [values[row] for row in self.rows]

    def columns(self) -> dict[str, list[Any]]:
        """All columns of the file."""
        return {name: self.column(name) for name in self.table.columns}

    def contents(self) -> list[Any]:
        """``[n]`` what makes two items the same for an encoder: equal texts, for sets in any order."""
        items = self.items
        if items.kind == "text":
            return [row[0] for row in items.rows]
        roles = items.roles or [[""] * len(row) for row in items.rows]
        weights = items.weights or [[1.0] * len(row) for row in items.rows]
        return [frozenset(zip(*each, strict=True)) for each in zip(items.rows, roles, weights, strict=True)]

    def select(self, places: Sequence[int]) -> Read:
        """The items at some places."""
        return Read(self.table, [self.rows[place] for place in places], self.items.select(places))


def read_items(
    encoder: Encoder,
    source: Any,
    bad_rows: BadRowsOption = "error",
    folder: Path | None = None,
    key: str | None = None,
    field: Mapping[str, str] | None = None,
    csv: CsvOptions | None = None,
    **columns: Any,
) -> Read:
    """Items of the kind that the encoder takes: texts, or lists of tags or of the texts of several fields.

    Args:
        encoder: says which kind.
        source: see :func:`~lit_metric.data.read_table`.
        bad_rows: refuse rows that can't be used, or leave them out and say so.
        folder: where those that are left out are listed; only some are named if None.
        key: a column of names.
        field: the column of each role, if items have fields.
        csv: how CSV files are written.
        columns: ``text``, ``tags``, ``tag_separator`` and ``weights`` of :class:`~lit_metric.data.Labels`.

    Raises:
        DataError: when the source can't be used, holds no items, or holds the other kind.
    """
    problems = Problems(bad_rows == "skip", "give --bad_rows skip to leave them out")
    table = read_table(source, problems=problems, csv=csv)
    wanted = "set" if isinstance(encoder, SetEncoder) else "text"
    if wanted == "set" and not (field or columns.get("text") or columns.get("tags")):
        columns["tags"] = next((name for name in TAG_NAMES if name in table.columns), None)
    reading = Columns(table, problems)
    items = Labels(key=key, fields=dict(field) if field else None, **columns).items(reading, labelled=False)
    problems.refuse()
    if items.kind != wanted:
        raise DataError(
            f"{table.name} gives items of kind {items.kind!r}, but this model encodes {wanted!r}: "
            + ("name the column with --tags" if wanted == "set" else "name the column with --text")
        )
    kept = reading.kept
    if not kept:
        raise DataError(f"{table.name} has {len(table)} rows, and none that can be used")
    if len(problems) and folder is None:
        log.warning("Left out %s", problems.report())
    elif len(problems) and folder is not None:
        log.warning("%d bad rows are left out, and listed in %s", len(problems), problems.write(folder))
    return Read(table, kept, items.select(kept))


def encode_items(
    encoder: Encoder, items: LabelledItems, role: str | None, max_tokens: int, precision: Precision
) -> np.ndarray:
    """``[n, dimension]`` vectors of items read from a file, with a progress bar.

    Raises:
        ValueError: when a role was asked for, but each text has one from its field.
    """
    rows, roles, weights = items.rows, items.roles, items.weights
    if role is not None and roles is not None:
        raise ValueError(f"--role {role}: texts have the roles of their --field; leave one of the two out")
    if roles is None and weights is None:
        return encoder.encode(inputs(items), max_tokens, progress=True, role=role, precision=precision)
    kept, roles, weights = without_repeats(rows, roles, weights)  # type: ignore[assignment]
    return encoder.encode(
        kept, max_tokens, progress=True, role=roles or role, weights=weights, precision=precision
    )


def inputs(items: LabelledItems) -> list[Any]:
    """What :meth:`Encoder.encode` takes for these items."""
    return list(items.rows) if items.kind == "set" else [texts[0] for texts in items.rows]


def role_of(encoder: Encoder, option: str, asked: str | None, default: str | None = None) -> str | None:
    """The role to encode in: the one that is asked for, else the default where the model knows it.

    Raises:
        ValueError: when the model doesn't know the role, or needs one.
    """
    known = encoder.tokenizer.roles
    if asked is None and default not in known and isinstance(encoder, TwoTowerEncoder):
        raise ValueError(f"{option} is needed: this model has a tower for queries and one for documents")
    if asked is None:
        return default if default in known else None
    if asked not in known:
        roles = f"knows {', '.join(known)}" if known else f"has no roles; leave {option} out"
        raise ValueError(f"{option} {asked}: this model {roles}")
    return asked


def tower(encoder: Encoder, role: str | None) -> Encoder:
    """What encodes items in this role."""
    return encoder.tower(role) if isinstance(encoder, TwoTowerEncoder) else encoder


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Write columns of equal length by the ending of ``path``: ``.parquet``, ``.csv`` or ``.jsonl``.

    A column that is an array ``[n, d]`` becomes lists of fixed length in Parquet; in CSV, lists and objects
    stand as JSON, and a missing value is an empty cell.
    """
    with replacing(path) as unfinished:
        WRITERS[path.suffix](unfinished, columns)


def check_output(output: str, endings: Sequence[str]) -> Path:
    """The path, if its ending is one of those that can be written.

    Raises:
        ValueError: when it is another.
    """
    path = Path(output)
    if path.suffix not in endings:
        raise ValueError(
            f"--output {output}: the name must end in {', '.join(endings[:-1])} or {endings[-1]}"
        )
    return path


def _parquet(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    arrays = {name: _arrow(values) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path, compression="zstd")


def _arrow(values: Sequence[Any] | np.ndarray) -> pa.Array:
    if isinstance(values, np.ndarray):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, TypeError, ValueError):
        # Values of several types, as JSON Lines may have, or bytes that are no UTF-8.
        return pa.array([None if each is None else _readable(_cell(each)) for each in values], pa.string())


def _csv(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = tables.writer(file)
        writer.writerow(map(_readable, columns))
        for row in zip(*columns.values(), strict=True):
            writer.writerow("" if each is None else _readable(_cell(each)) for each in row)


def _json_lines(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in zip(*columns.values(), strict=True):
            cells = (f"{json.dumps(name)}: {_json(each)}" for name, each in zip(columns, row, strict=True))
            file.write(_readable("{" + ", ".join(cells) + "}\n"))


def _cell(value: Any) -> str:
    return _json(value) if isinstance(value, (list, dict, tuple, np.ndarray)) else str(value)


def _json(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"[{', '.join(map(str, value))}]"  # as short as float32 can be told
    return json.dumps(value, ensure_ascii=False, default=str)


def _readable(text: str) -> str:
    """Without the halves of characters that a file in another encoding leaves behind."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


WRITERS: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _json_lines,
}
