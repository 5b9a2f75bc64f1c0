"""Items of a file for an encoder, and tables of results."""

from __future__ import annotations

import csv as tables
import json
import logging
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lit_metric.data import CsvOptions, DataError, LabelledItems, Labels, Problems, read_table
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.labels import TAG_NAMES
from lit_metric.data.table import Table
from lit_metric.encoders import Encoder, SetEncoder, TwoTowerEncoder
from lit_metric.encoders.base import Precision
from lit_metric.store import replacing

log = logging.getLogger(__name__)

BadRowsOption = Literal["error", "skip"]


@dataclass(frozen=True, eq=False)
class FileItems:
    """The items of a file.

    Args:
        table: the file.
        rows: ``[n]`` the row of each item, from 0. Rows that could not be used are missing.
        items: ``[n]``.
    """

    table: Table
    rows: Sequence[int]
    items: LabelledItems

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self) -> dict[str, list[Any]]:
        """``[n]`` values of each column of the file."""
        columns = {name: self.table.column(name) for name in self.table.columns}
        return {name: [values[row] for row in self.rows] for name, values in columns.items()}

    def origins(self) -> dict[str, list[Any]]:
        """``[n]`` the file of each item, and its row there, from 1."""
        where = [self.table.place(row) for row in self.rows]
        return {"file": [file for file, _ in where], "row": [row for _, row in where]}

    def select(self, places: Sequence[int]) -> FileItems:
        """The items at these places, in this order."""
        return FileItems(self.table, [self.rows[place] for place in places], self.items.select(places))

    def inputs(self) -> list[Any]:
        """``[n]`` what :meth:`Encoder.encode` takes for the items."""
        rows = self.items.rows
        return list(rows) if self.items.kind == "set" else [texts[0] for texts in rows]

    def distinct(self) -> tuple[FileItems, list[int]]:
        """The first of each group of items that are equal for an encoder, and the size of each group.

        Texts are equal if they are the same text, sets if they hold the same texts in any order.
        """
        items, rows = self.items, self.items.rows
        contents: list[Any] = [row[0] for row in rows]
        if items.kind == "set":
            roles = items.roles or [[""] * len(row) for row in rows]
            weights = items.weights or [[1.0] * len(row) for row in rows]
            contents = [frozenset(zip(*each, strict=True)) for each in zip(rows, roles, weights, strict=True)]
        places: dict[Any, list[int]] = {}
        for place, content in enumerate(contents):
            places.setdefault(content, []).append(place)
        firsts = [first for first, *_ in places.values()]
        return self.select(firsts), [len(group) for group in places.values()]


class RoleEncoder:
    """An encoder in one role: it reads the items of a file, and encodes them.

    Args:
        encoder: of texts, of sets, or of two towers.
        role: as a user gave it by ``option``.
        option: its name, for messages.
        default: the role where none is given and the model knows this one.

    Raises:
        ValueError: when the model doesn't know the role, or needs one.
    """

    def __init__(self, encoder: Encoder, role: str | None, option: str, default: str | None = None) -> None:
        known = encoder.tokenizer.roles
        if role is None and default not in known and isinstance(encoder, TwoTowerEncoder):
            raise ValueError(f"{option} is needed: this model has a tower for queries and one for documents")
        if role is not None and role not in known:
            roles = f"knows {', '.join(known)}" if known else f"has no roles; leave {option} out"
            raise ValueError(f"{option} {role}: this model {roles}")
        self.encoder = encoder
        self.role = role or (default if default in known else None)
        tower = encoder.tower(self.role) if isinstance(encoder, TwoTowerEncoder) else encoder
        self.kind = "set" if isinstance(tower, SetEncoder) else "text"

    def read(
        self,
        source: Any,
        bad_rows: BadRowsOption = "error",
        folder: Path | None = None,
        key: str | None = None,
        field: Mapping[str, str] | None = None,
        csv: CsvOptions | None = None,
        labelled: bool = False,
        **columns: Any,
    ) -> FileItems:
        """Items of the kind that the encoder takes: texts, lists of tags, or the texts of several fields.

        Args:
            source: see :func:`~lit_metric.data.read_table`.
            bad_rows: refuse rows that can't be used, or leave them out and say so.
            folder: where the rows that are left out are listed. None: a log line names some of them.
            key: a column of names.
            field: the column of each role, if items have fields.
            csv: how CSV files are written.
            labelled: whether to read labels, too; ``columns`` may name theirs.
            columns: ``text``, ``tags``, ``tag_separator``, ``weights`` of :class:`~lit_metric.data.Labels`.

        Raises:
            DataError: when the source can't be used, holds no items, or holds the other kind.
        """
        problems = Problems(bad_rows == "skip", BAD_ROWS)
        table = read_table(source, problems=problems, csv=csv)
        labels = self.columns(table, key, field, **columns)
        found = self.items(Columns(table, problems), labels, labelled)
        problems.refuse()
        if not found.rows:
            raise DataError(f"{table.name} has {len(table)} rows, and none that can be used")
        log_left_out(problems, folder)
        return found

    def columns(
        self, table: Table, key: str | None = None, field: Mapping[str, str] | None = None, **columns: Any
    ) -> Labels:
        """The columns of the items that the encoder takes, guessed where none is named; see :meth:`read`.

        Raises:
            DataError: when ``table`` has no such column, or one of items of the other kind.
            ValueError: when there is a role, and each text has another one from its field.
        """
        if self.role is not None and field:
            raise ValueError(
                f"--role {self.role}: texts have the roles of their --field; leave one of the two out"
            )
        if self.kind == "set" and not (field or columns.get("text") or columns.get("tags")):
            columns["tags"] = next((name for name in TAG_NAMES if name in table.columns), None)
        labels = Labels(key=key, fields=dict(field) if field else None, **columns).named(table)
        kind = "text" if labels.text else "set"
        if kind != self.kind:
            raise DataError(
                f"{table.name} gives items of kind {kind!r}, but this model encodes {self.kind!r}: "
                f"name the column with {'--tags' if self.kind == 'set' else '--text'}"
            )
        return labels

    @staticmethod
    def items(reading: Columns, labels: Labels, labelled: bool = False) -> FileItems:
        """The items of the rows of a table in which nothing is wrong."""
        items = labels.items(reading, labelled)
        kept = reading.kept
        return FileItems(reading.table, kept, items.select(kept))

    def encode(
        self, read: FileItems, max_tokens: int, precision: Precision, progress: bool = True
    ) -> np.ndarray:
        """``[n, dimension]`` vectors of the items of a file."""
        roles, weights = read.items.roles, read.items.weights
        return self.encoder.encode(
            read.inputs(), max_tokens, progress, role=roles or self.role, weights=weights, precision=precision
        )


BAD_ROWS = "give --bad_rows skip to leave them out"


def log_left_out(problems: Problems, folder: Path | None) -> None:
    """Log how many rows are left out, if any. List them in ``folder``, or name some if that is None."""
    if len(problems) and folder is None:
        log.warning("Left out %s", problems.report())
    elif len(problems) and folder is not None:
        log.warning("%d bad rows are left out, and listed in %s", len(problems), problems.write(folder))


ENDINGS = [".parquet", ".csv", ".jsonl"]
"""Of the tables that :func:`write_table` writes."""


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


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Write columns of equal length by the ending of ``path``: ``.parquet``, ``.csv`` or ``.jsonl``.

    A column that is an array ``[n, d]`` becomes lists of fixed length in Parquet. In CSV, lists and objects
    become JSON, and a missing value becomes an empty cell.
    """
    if path.suffix == ".parquet":
        save_parquet(pa.table({name: arrow(values) for name, values in columns.items()}), path)
        return
    with replacing(path) as unfinished:
        write_lines(unfinished, path.suffix, columns)


def write_lines(
    path: Path, ending: str, columns: Mapping[str, Sequence[Any] | np.ndarray], header: bool = True
) -> None:
    """Write columns as ``.csv`` or ``.jsonl``, whatever the name of ``path``; see :func:`write_table`."""
    rows = zip(*columns.values(), strict=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if ending == ".csv":
            writer = tables.writer(file)
            if header:
                writer.writerow(map(_text, columns))
            writer.writerows(["" if each is None else _text(each) for each in row] for row in rows)
            return
        for row in rows:
            cells = (f"{json.dumps(name)}: {_json(each)}" for name, each in zip(columns, row, strict=True))
            file.write(_text("{" + ", ".join(cells) + "}\n"))


STANDARD_INPUT = "-"
"""What stands for standard input in place of a file."""


def input_lines() -> Iterator[str]:
    """The lines of standard input that aren't blank, without blanks around them."""
    return (line.strip() for line in sys.stdin if line.strip())


def split_tags(line: str, separator: str | None) -> list[str]:
    """The tags of a line, with commas or ``separator`` between them."""
    return [tag.strip() for tag in line.split(separator or ",") if tag.strip()]


SHOWN = 240
"""Characters of an item that are shown; files have all."""


def one_line(text: str) -> str:
    """A text on one line, without what would steer a terminal, and cut if it is long."""
    plain = "".join(" " if unicodedata.category(each) == "Cc" else each for each in text[: SHOWN + 1])
    return plain if len(plain) <= SHOWN else plain[: SHOWN - 1] + "…"


def print_table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print cells as a table, each on one line before it is folded; nothing in them is markup."""
    table = RichTable()
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    Console().print(table)


def with_results(columns: Mapping[str, list[Any]], results: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns of a file and results; ``input_`` comes before the name of a column that is taken already.

    Example:
        >>> with_results({"score": [1], "input_score": [2]}, {"score": [3]})
        {'input_score': [1], 'input_input_score': [2], 'score': [3]}
    """
    renamed: dict[str, list[Any]] = {}
    for name, values in columns.items():
        while name in results or name in renamed:
            name = f"input_{name}"
        renamed[name] = values
    return {**renamed, **results}


def save_parquet(table: pa.Table, path: Path) -> None:
    """Write an Arrow table as a whole or not at all."""
    with replacing(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")


def arrow(values: Sequence[Any] | np.ndarray, kind: pa.DataType | None = None) -> pa.Array:
    """A column as Arrow has it, of the type ``kind`` or one that suits; as texts where there is none."""
    if isinstance(values, np.ndarray):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, UnicodeEncodeError, TypeError, ValueError):
        # Values of several types, as JSON Lines may have, or bytes that are no UTF-8.
        return pa.array([None if each is None else _text(each) for each in values], pa.string())


def _text(value: Any) -> str:
    """A value as text, without lone surrogates, which a file in another encoding leaves."""
    text = _json(value) if isinstance(value, (list, dict, tuple, np.ndarray)) else str(value)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _json(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"[{', '.join(map(str, value))}]"  # the shortest digits that give the same float32
    return json.dumps(value, ensure_ascii=False, default=str)
