"""Search a file."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator
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
from lit_metric.data import read_table
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
    asked = _asked(tower(encoder, query_role), query or [], queries, bad_rows, **columns)
    read = read_items(
        tower(encoder, role), corpus, bad_rows, key=key, field=field, weights=weights, **columns
    )
    counts: dict[Any, int] = {}
    for content in read.contents():
        counts[content] = counts.get(content, 0) + 1
    first = {content: place for place, content in reversed([*enumerate(read.contents())])}
    read, copies = read.select([first[content] for content in counts]), [*counts.values()]
    index = ExactIndex()
    index.add(encode_items(encoder, read.items, role, max_tokens, precision), np.arange(len(read)))
    given = [items for items, _ in asked]
    scores, found = index.search(
        encoder.encode(given, max_tokens, role=query_role, precision=precision), min(k, len(read))
    )
    named = [name for _, name in asked]
    if path is None:
        _show(read, named, copies, scores, found, key)
    else:
        _write(path, read, named, copies, scores, found)


def _asked(
    encoder: Encoder, query: list[str], queries: str | None, bad_rows: BadRowsOption, **columns: Any
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
        there = read_table(queries).columns
        own = {
            name: each if each in there or name == "tag_separator" else None for name, each in columns.items()
        }
        read = read_items(encoder, queries, bad_rows, **own)
        asked += zip(inputs(read.items), map(", ".join, read.items.rows), strict=True)
    return asked


def _results(scores: np.ndarray, found: np.ndarray) -> Iterator[tuple[int, int, int, float]]:
    """The number of the query, the rank from 1, the place of the item, and the cosine."""
    for asked, (row, places) in enumerate(zip(scores.tolist(), found.tolist(), strict=True)):
        for rank, (score, place) in enumerate(zip(row, places, strict=True), 1):
            if place >= 0:
                yield asked, rank, place, score


def _show(
    read: Read, named: list[str], copies: list[int], scores: np.ndarray, found: np.ndarray, key: str | None
) -> None:
    results = [*_results(scores, found)]
    console = Console()
    for number, query in enumerate(named):
        own = [each for each in results if each[0] == number]
        repeated = any(copies[place] > 1 for _, _, place, _ in own)
        table = RichTable(title=Text(f"nearest to: {_line(query)}"), title_justify="left")
        table.add_column("cosine", justify="right", no_wrap=True)
        table.add_column("row", justify="right", no_wrap=True)
        if repeated:
            table.add_column("copies", justify="right", no_wrap=True)
        if read.items.keys:
            table.add_column(Text(key or ""))
        table.add_column("item", overflow="fold")
        for _, _, place, score in own:
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
    path: Path, read: Read, named: list[str], copies: list[int], scores: np.ndarray, found: np.ndarray
) -> None:
    results = [*_results(scores, found)]
    own: dict[str, list[Any]] = {
        "query": [named[asked] for asked, _, _, _ in results],
        "rank": [rank for _, rank, _, _ in results],
        "cosine": [round(score, 6) for _, _, _, score in results],
        "row": [read.rows[place] + 1 for _, _, place, _ in results],
        "copies": [copies[place] for _, _, place, _ in results],
    }
    for name, values in read.columns().items():
        own[name if name not in own else f"corpus_{name}"] = [values[place] for _, _, place, _ in results]
    write_table(path, own)
    log.info("Wrote %d results of %d queries to %s", len(results), len(named), path)
