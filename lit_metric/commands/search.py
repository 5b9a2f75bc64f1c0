"""Search a file."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lit_metric.commands.items import (
    WRITERS,
    BadRowsOption,
    Read,
    check_output,
    encode_items,
    inputs,
    read_items,
    role_of,
    tower,
    write_table,
)
from lit_metric.data import CsvOptions, read_table
from lit_metric.encoders import Encoder, SetEncoder
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
        queries: file of queries, in place of query or beside it.
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
    path = None if output is None else check_output(output, list(WRITERS))
    encoder = load(model, trust_remote_code)
    role = role_of(encoder, "--role", role, "document")
    query_role = role_of(encoder, "--query_role", query_role, "query")
    columns: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator}
    asked = _asked(tower(encoder, query_role), query or [], queries, bad_rows, csv, **columns)
    read = read_items(
        tower(encoder, role), corpus, bad_rows, key=key, field=field, weights=weights, csv=csv, **columns
    )
    read, copies = _distinct(read)
    index = ExactIndex()
    index.add(encode_items(encoder, read.items, role, max_tokens, precision), np.arange(len(read)))
    vectors = encoder.encode([items for items, _ in asked], max_tokens, role=query_role, precision=precision)
    scores, found = index.search(vectors, min(k, len(read)))
    results = [
        [*zip(row, places, strict=True)] for row, places in zip(scores.tolist(), found.tolist(), strict=True)
    ]
    if path is None:
        _show(read, [name for _, name in asked], copies, results, key)
    else:
        _write(path, read, [name for _, name in asked], copies, results)


def _distinct(read: Read) -> tuple[Read, list[int]]:
    """The first of each group of equal items, and how many each stands for."""
    places: dict[Any, list[int]] = {}
    for place, content in enumerate(read.contents()):
        places.setdefault(content, []).append(place)
    return read.select([first for first, *_ in places.values()]), [*map(len, places.values())]


def _asked(
    encoder: Encoder,
    query: list[str],
    queries: str | None,
    bad_rows: BadRowsOption,
    csv: CsvOptions | None,
    **columns: Any,
) -> list[tuple[Any, str]]:
    """What to encode for each query, and how to call it."""
    asked: list[tuple[Any, str]] = [(each, each) for each in query]
    if isinstance(encoder, SetEncoder):
        cut = columns["tag_separator"] or ","
        asked = [
            (list(dict.fromkeys(tag.strip() for tag in each.split(cut) if tag.strip())), each)
            for each in query
        ]
    if not all(items if isinstance(items, list) else items.strip() for items, _ in asked):
        raise ValueError("--query is empty: give a text, or tags with commas between them")
    if queries is not None:
        there = read_table(queries, csv=csv).columns
        own = {
            name: each if each in there or name == "tag_separator" else None for name, each in columns.items()
        }
        read = read_items(encoder, queries, bad_rows, csv=csv, **own)
        asked += zip(inputs(read.items), map(", ".join, read.items.rows), strict=True)
    return asked


def _show(
    read: Read, queries: list[str], copies: list[int], results: list[list[tuple[float, int]]], key: str | None
) -> None:
    console = Console()
    for query, found in zip(queries, results, strict=True):
        repeated = any(copies[place] > 1 for _, place in found)
        table = RichTable(title=Text(f"nearest to: {_line(query)}"), title_justify="left")
        for name in ("cosine", "row", *["copies"] * repeated):
            table.add_column(name, justify="right", no_wrap=True)
        if read.items.keys:
            table.add_column(Text(key or ""), overflow="fold", max_width=24)
        table.add_column("item", overflow="fold")
        for score, place in found:
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


def _write(
    path: Path, read: Read, queries: list[str], copies: list[int], results: list[list[tuple[float, int]]]
) -> None:
    flat = [
        (query, rank, score, place)
        for query, found in zip(queries, results, strict=True)
        for rank, (score, place) in enumerate(found, 1)
    ]
    columns: dict[str, list[Any]] = {
        "query": [query for query, _, _, _ in flat],
        "rank": [rank for _, rank, _, _ in flat],
        "cosine": [round(score, 6) for _, _, score, _ in flat],
        "row": [read.rows[place] + 1 for _, _, _, place in flat],
        "copies": [copies[place] for _, _, _, place in flat],
    }
    for name, values in read.columns().items():
        columns[name if name not in columns else f"corpus_{name}"] = [values[place] for *_, place in flat]
    write_table(path, columns)
    log.info("Wrote %d results of %d queries to %s", len(flat), len(queries), path)
