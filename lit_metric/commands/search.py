"""Search a file or an index."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lit_metric.commands.items import (
    ENDINGS,
    STANDARD_INPUT,
    BadRowsOption,
    RoleEncoder,
    check_output,
    input_lines,
    one_line,
    split_tags,
    write_table,
)
from lit_metric.data import CsvOptions, read_table
from lit_metric.encoders import Encoder
from lit_metric.encoders.base import Precision
from lit_metric.hub import load
from lit_metric.index import ExactIndex
from lit_metric.search_index import SearchIndex

log = logging.getLogger(__name__)


def search(
    model: str,
    corpus: str | None = None,
    query: list[str] | None = None,
    queries: str | None = None,
    k: int = 10,
    output: str | None = None,
    key: str | None = None,
    text: str | None = None,
    tags: str | None = None,
    tag_separator: str | None = None,
    weights: str | None = None,
    field: dict[str, str] | None = None,
    role: str | None = None,
    query_role: str | None = None,
    csv: CsvOptions | None = None,
    bad_rows: BadRowsOption = "error",
    max_tokens: int = 16384,
    precision: Precision = "float32",
    trust_remote_code: bool = False,
    index: str | None = None,
    where: list[str] | None = None,
    verify: bool = False,
) -> None:
    """Show the rows of a file, or of an index, that are nearest to a query, by cosine.

    Without a query, a terminal asks for one after the other. Rows of a file that are equal in content are one
    result, with the number of copies. An index has a result for each row.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        corpus: Parquet, CSV or JSON Lines file, data set folder, or id of a data set on the hub.
        index: folder that the command index wrote, instead of a corpus.
        query: a text, or tags with commas between them; several as a list.
        queries: file of queries, instead of query or in addition; - reads a query from each line of standard
            input.
        k: how many results each query gets.
        where: values that results have, COLUMN=VALUE each; for an index. The search among such rows is exact.
        output: file to write results into, in place of showing them: .parquet, .csv or .jsonl.
        key: column of names to show.
        text: column of texts; guessed if it has a usual name.
        tags: column of tags, for a model of sets.
        tag_separator: what stands between tags in a string.
        weights: column of lists of numbers, how much each tag counts.
        field: column by role, for a model of items of several fields, such as --field.title name.
        role: of the items; document if the model has that.
        query_role: of the queries; query if the model has that.
        csv: how CSV files are written, such as --csv.separator or --csv.encoding; found if not given.
        bad_rows: refuse a file with rows that can't be used, or leave them out and say how many.
        max_tokens: tokens per batch.
        precision: of matrix products.
        verify: compare the sha256 of all files of the index first.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when a file can't be used.
        ValueError: when options and model don't fit together, or the index is of another model.

    Example:
        lit-metric search --model runs/triplet --corpus questions.csv --query "my card has not arrived"
    """
    if k < 1:
        raise ValueError(f"-k {k}: at least 1 is needed")
    if (corpus is None) == (index is None):
        raise ValueError("give --corpus FILE to search, or --index FOLDER, and not both")
    asks = not query and queries is None
    if asks and (output is not None or not sys.stdin.isatty()):
        raise ValueError(
            "no query: give --query TEXT, or a file of them with --queries; --queries - reads standard input"
        )
    path = None if output is None else check_output(output, ENDINGS)
    encoder = load(model, trust_remote_code)
    asking = RoleEncoder(encoder, query_role, "--query_role", "query")
    columns: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator}
    if corpus is not None:
        if where:
            raise ValueError("--where is for an index: write one with lit-metric index, and give --index")
        items = RoleEncoder(encoder, role, "--role", "document")
        how = {"key": key, "field": field, "weights": weights, "csv": csv, **columns}
        searched: _File | _Folder = _File(items, corpus, bad_rows, how, max_tokens, precision)
    else:
        if given := [
            name for name, each in {"role": role, "field": field, "weights": weights}.items() if each
        ]:
            raise ValueError(f"--{given[0]} is for a corpus: the rows of an index are encoded already")
        searched = _Folder(Path(str(index)), encoder, where or [], key, verify)

    def find(asked: list[tuple[Any, str]]) -> list[list[Hit]]:
        items = [each for each, _ in asked]
        return searched.find(encoder.encode(items, max_tokens, role=asking.role, precision=precision), k)

    asked = _given(asking, query or [], tag_separator)
    if queries not in (None, STANDARD_INPUT):
        asked += _read(asking, str(queries), bad_rows, csv, columns)
    if path is not None:
        asked += _given(asking, _lines(queries), tag_separator)
        _write(path, asked, find(asked), searched.names)
        return
    if asked:
        _show(asked, find(asked), key)
    for line in _prompts() if asks else _lines(queries):
        try:
            one = _given(asking, [line], tag_separator)
        except ValueError as error:
            log.warning("%s", error)
            continue
        _show(one, find(one), key)


@dataclass(frozen=True)
class Hit:
    """A result.

    Args:
        score: cosine.
        row: of the file or the index, from 1.
        copies: rows of equal content, if they are one result; else None.
        name: of the item, if a column of names was given.
        text: what is shown.
        values: of all columns, by name.
    """

    score: float
    row: int
    copies: int | None
    name: str | None
    text: str
    values: dict[str, Any] = fields(repr=False)


class _File:
    """The distinct rows of a file, encoded now."""

    def __init__(
        self,
        encoder: RoleEncoder,
        corpus: str,
        bad_rows: BadRowsOption,
        how: dict[str, Any],
        max_tokens: int,
        precision: Precision,
    ) -> None:
        self.read, self.copies = encoder.read(corpus, bad_rows, **how).distinct()
        self.index = ExactIndex()
        vectors = encoder.encode(self.read, max_tokens, precision)
        self.index.add(vectors, np.arange(len(self.read)))
        self.columns = self.read.columns()
        self.names = [*self.columns]

    def find(self, vectors: np.ndarray, k: int) -> list[list[Hit]]:
        scores, places = self.index.search(vectors, min(k, len(self.read)))
        return [[*map(self._hit, *row)] for row in zip(scores.tolist(), places.tolist(), strict=True)]

    def _hit(self, score: float, place: int) -> Hit:
        items = self.read.items
        name = items.keys[place] if items.keys else None
        values = {name: column[place] for name, column in self.columns.items()}
        text = ", ".join(items.rows[place])
        return Hit(score, self.read.rows[place] + 1, self.copies[place], name, text, values)


class _Folder:
    """The rows of an index."""

    def __init__(
        self, folder: Path, encoder: Encoder, where: list[str], key: str | None, verify: bool
    ) -> None:
        self.index = SearchIndex.open(folder, encoder, verify)
        self.where = [_condition(each) for each in where]
        self.names = self.index.columns.column_names
        if key is not None and key not in self.names:
            raise ValueError(f"--key {key}: the index has the columns {', '.join(self.names) or 'none'}")
        self.key = key
        self.shown = self.index.text_columns or self.names

    def find(self, vectors: np.ndarray, k: int) -> list[list[Hit]]:
        scores, ids = self.index.search(vectors, min(k, len(self.index)), self.where)
        return [self._hits(*row) for row in zip(scores, ids, strict=True)]

    def _hits(self, scores: np.ndarray, ids: np.ndarray) -> list[Hit]:
        found = ids[ids >= 0]
        hits = []
        for score, place, values in zip(
            scores.tolist(), found.tolist(), self.index.rows(found), strict=False
        ):
            cells = [values[name] for name in self.shown if values[name] is not None]
            text = ", ".join(
                ", ".join(map(str, each)) if isinstance(each, list) else str(each) for each in cells
            )
            name = None if self.key is None else str(values[self.key])
            hits.append(Hit(score, place + 1, None, name, text, values))
        return hits


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"--where {text}: write COLUMN=VALUE")
    return name, value


def _given(encoder: RoleEncoder, queries: Iterable[str], separator: str | None) -> list[tuple[Any, str]]:
    """What to encode for each query, and its name.

    Raises:
        ValueError: when a query is empty.
    """
    asked: list[tuple[Any, str]] = [(each, each) for each in queries]
    if encoder.kind == "set":
        asked = [(list(dict.fromkeys(split_tags(name, separator))), name) for _, name in asked]
    if not all(items if isinstance(items, list) else items.strip() for items, _ in asked):
        raise ValueError("--query is empty: give a text, or tags with commas between them")
    return asked


def _read(
    encoder: RoleEncoder,
    queries: str,
    bad_rows: BadRowsOption,
    csv: CsvOptions | None,
    columns: dict[str, Any],
) -> Iterator[tuple[Any, str]]:
    """What to encode for each row of a file of queries, and its name."""
    there = read_table(queries, csv=csv).columns
    absent = [name for name, each in columns.items() if name != "tag_separator" and each not in there]
    read = encoder.read(queries, bad_rows, csv=csv, **{**columns, **dict.fromkeys(absent)})
    return zip(read.inputs(), map(", ".join, read.items.rows), strict=True)


def _lines(queries: str | None) -> Iterator[str]:
    """The lines of standard input, if queries are read from there."""
    return input_lines() if queries == STANDARD_INPUT else iter(())


def _prompts() -> Iterator[str]:
    """What a person types, until the end of input."""
    print("A query in each line; Ctrl-D ends.")
    while True:
        try:
            line = input("query: ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _write(path: Path, asked: list[tuple[Any, str]], hits: list[list[Hit]], names: list[str]) -> None:
    """Write a row for each result."""
    found = [
        (query, rank, hit)
        for (_, query), some in zip(asked, hits, strict=True)
        for rank, hit in enumerate(some, 1)
    ]
    results: dict[str, list[Any]] = {
        "query": [query for query, _, _ in found],
        "rank": [rank for _, rank, _ in found],
        "cosine": [round(hit.score, 6) for *_, hit in found],
        "row": [hit.row for *_, hit in found],
    }
    if any(hit.copies is not None for *_, hit in found):
        results["copies"] = [hit.copies for *_, hit in found]
    for name in names:
        results[name if name not in results else f"corpus_{name}"] = [hit.values[name] for *_, hit in found]
    write_table(path, results)
    log.info("Wrote %d results of %d queries to %s", len(found), len(asked), path)


def _show(asked: list[tuple[Any, str]], hits: list[list[Hit]], key: str | None) -> None:
    """Print a table for each query."""
    console = Console()
    for (_, query), found in zip(asked, hits, strict=True):
        repeated = any((hit.copies or 1) > 1 for hit in found)
        table = RichTable(title=Text(f"nearest to: {one_line(query)}"), title_justify="left")
        for name in ("cosine", "row", *["copies"] * repeated):
            table.add_column(name, justify="right", no_wrap=True)
        if key is not None:
            table.add_column(Text(key), overflow="fold", max_width=24)
        table.add_column("item", overflow="fold")
        for hit in found:
            cells = [f"{hit.score:.3f}", str(hit.row), *[str(hit.copies)] * repeated]
            if key is not None:
                cells.append(one_line(hit.name or ""))
            table.add_row(*map(Text, [*cells, one_line(hit.text)]))
        console.print(table)
