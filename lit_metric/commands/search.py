"""Search a file."""

from __future__ import annotations

import logging
import unicodedata
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lit_metric.commands.items import (
    ENDINGS,
    BadRowsOption,
    FileItems,
    RoleEncoder,
    check_output,
    write_table,
)
from lit_metric.data import CsvOptions, read_table
from lit_metric.encoders.base import Precision
from lit_metric.hub import load
from lit_metric.index import ExactIndex

log = logging.getLogger(__name__)

SHOWN = 240
"""Characters of an item that are shown; files have all."""


def search(
    model: str,
    corpus: str,
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
) -> None:
    """Show the rows of a file that are nearest to a query, by cosine.

    Rows of equal content are one result, with the number of its copies.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        corpus: Parquet, CSV or JSON Lines file, data set folder, or id of a data set on the hub.
        query: a text, or tags with commas between them; several as a list.
        queries: file of queries, instead of query or in addition.
        k: how many results each query gets.
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
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when a file can't be used.
        ValueError: when options and model don't fit together.

    Example:
        lit-metric search --model runs/triplet --corpus questions.csv --query "my card has not arrived"
    """
    if k < 1:
        raise ValueError(f"-k {k}: at least 1 is needed")
    if not query and queries is None:
        raise ValueError("no query: give --query TEXT, or a file of them with --queries")
    path = None if output is None else check_output(output, ENDINGS)
    encoder = load(model, trust_remote_code)
    items = RoleEncoder(encoder, role, "--role", "document")
    asking = RoleEncoder(encoder, query_role, "--query_role", "query")
    columns: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator}
    asked = _queries(asking, query or [], queries, bad_rows, csv, **columns)
    read, copies = items.read(
        corpus, bad_rows, key=key, field=field, weights=weights, csv=csv, **columns
    ).distinct()
    index = ExactIndex()
    index.add(items.encode(read, max_tokens, precision), np.arange(len(read)))
    vectors = encoder.encode([each for each, _ in asked], max_tokens, role=asking.role, precision=precision)
    scores, places = (each.tolist() for each in index.search(vectors, min(k, len(read))))
    names = [name for _, name in asked]
    if path is None:
        _show(read, copies, names, scores, places, key)
        return
    found = [
        (query, rank, score, place)
        for query, *result in zip(names, scores, places, strict=True)
        for rank, (score, place) in enumerate(zip(*result, strict=True), 1)
    ]
    results: dict[str, list[Any]] = {
        "query": [query for query, _, _, _ in found],
        "rank": [rank for _, rank, _, _ in found],
        "cosine": [round(score, 6) for _, _, score, _ in found],
        "row": [read.rows[place] + 1 for *_, place in found],
        "copies": [copies[place] for *_, place in found],
    }
    for name, values in read.columns().items():
        results[name if name not in results else f"corpus_{name}"] = [values[place] for *_, place in found]
    write_table(path, results)
    log.info("Wrote %d results of %d queries to %s", len(found), len(names), path)


def _queries(
    encoder: RoleEncoder,
    query: list[str],
    queries: str | None,
    bad_rows: BadRowsOption,
    csv: CsvOptions | None,
    **columns: Any,
) -> list[tuple[Any, str]]:
    """What to encode for each query, and its name."""
    asked: list[tuple[Any, str]] = [(each, each) for each in query]
    if encoder.kind == "set":
        separator = columns["tag_separator"] or ","
        tags = [[tag.strip() for tag in each.split(separator) if tag.strip()] for each in query]
        asked = [(list(dict.fromkeys(each)), name) for each, name in zip(tags, query, strict=True)]
    if not all(items if isinstance(items, list) else items.strip() for items, _ in asked):
        raise ValueError("--query is empty: give a text, or tags with commas between them")
    if queries is not None:
        there = read_table(queries, csv=csv).columns
        absent = [name for name, each in columns.items() if name != "tag_separator" and each not in there]
        columns |= dict.fromkeys(absent)
        read = encoder.read(queries, bad_rows, csv=csv, **columns)
        asked += zip(read.inputs(), map(", ".join, read.items.rows), strict=True)
    return asked


def _show(
    read: FileItems,
    copies: list[int],
    queries: list[str],
    scores: list[list[float]],
    places: list[list[int]],
    key: str | None,
) -> None:
    """Print a table for each query."""
    console = Console()
    for query, near, found in zip(queries, scores, places, strict=True):
        repeated = any(copies[place] > 1 for place in found)
        table = RichTable(title=Text(f"nearest to: {_line(query)}"), title_justify="left")
        for name in ("cosine", "row", *["copies"] * repeated):
            table.add_column(name, justify="right", no_wrap=True)
        if read.items.keys:
            table.add_column(Text(key or ""), overflow="fold", max_width=24)
        table.add_column("item", overflow="fold")
        for score, place in zip(near, found, strict=True):
            cells = [f"{score:.3f}", str(read.rows[place] + 1), *[str(copies[place])] * repeated]
            if read.items.keys:
                cells.append(_line(read.items.keys[place]))
            cells.append(_line(", ".join(read.items.rows[place])))
            table.add_row(*map(Text, cells))
        console.print(table)


def _line(text: str) -> str:
    """A text on one line, without what would steer a terminal, and cut if it is long."""
    plain = "".join(" " if unicodedata.category(each) == "Cc" else each for each in text[: SHOWN + 1])
    return plain if len(plain) <= SHOWN else plain[: SHOWN - 1] + "…"
