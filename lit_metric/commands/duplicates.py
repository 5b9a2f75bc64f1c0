"""Find duplicates in a file, and rows that two files have in common."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from lit_metric.commands.items import (
    BAD_ROWS,
    ENDINGS,
    BadRowsOption,
    FileItems,
    RoleEncoder,
    check_output,
    log_left_out,
    print_table,
    with_results,
    write_table,
)
from lit_metric.data import CsvOptions, Labels, Problems, read_table
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.labels import LABEL_NAMES, LABELS_NAMES
from lit_metric.encoders.base import Precision
from lit_metric.hub import load
from lit_metric.neighbours.duplicates import Pair, common_items, duplicate_groups

log = logging.getLogger(__name__)

SHOWN_ROWS = 40
"""Rows that are shown; files have all."""


def duplicates(
    input: str,
    against: str | None = None,
    model: str | None = None,
    threshold: float = 0.95,
    output: str | None = None,
    text: str | None = None,
    tags: str | None = None,
    tag_separator: str | None = None,
    role: str | None = None,
    csv: CsvOptions | None = None,
    bad_rows: BadRowsOption = "error",
    max_tokens: int = 16384,
    precision: Precision = "float32",
    trust_remote_code: bool = False,
) -> None:
    """Show groups of duplicates in a file, or rows of one file that another has, too.

    Texts are duplicates if they are equal but for case, blanks, Unicode form and punctuation at their end.
    With a model, those whose cosine is at least the threshold are near duplicates.

    Args:
        input: Parquet, CSV or JSON Lines file, data set folder, or id of a data set on the hub.
        against: such a file; its rows that are in the input, too, are shown, such as test rows in training.
        model: run folder, checkpoint, saved encoder, model folder, or hub id; without one, only equal texts
            are found.
        threshold: the least cosine of near duplicates, in (0, 1].
        output: file to write, .parquet, .csv or .jsonl, in place of showing the first groups.
        text: column of texts; guessed if it has a usual name.
        tags: column of tags, for a model of sets.
        tag_separator: what stands between tags in a string.
        role: of the rows, for a model that has roles.
        csv: how CSV files are written, such as --csv.separator or --csv.encoding; found if not given.
        bad_rows: refuse a file with rows that can't be used, or leave them out and say how many.
        max_tokens: tokens per batch.
        precision: of matrix products.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when a file can't be used.
        ValueError: when options and model don't fit together.

    Example:
        lit-metric duplicates --input train.csv --against test.csv --model runs/questions
    """
    path = None if output is None else check_output(output, ENDINGS)
    encoder = None if model is None else RoleEncoder(load(model, trust_remote_code), role, "--role")
    columns: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator}
    sources = [each for each in (input, against) if each is not None]
    read = [_read(each, encoder, bad_rows, csv, columns) for each in sources]
    items = [each.inputs() for each in read]
    vectors = [] if encoder is None else [encoder.encode(each, max_tokens, precision) for each in read]
    if against is None:
        first = vectors[0] if vectors else None
        groups = duplicate_groups(items[0], first, threshold, progress=True)
        results = _of_groups(read[0], groups, first)
        count = sum(map(len, groups))
        summary = f"{len(groups)} groups of duplicates, with {count} of the {len(read[0])} rows"
    else:
        both = (vectors[0], vectors[1]) if vectors else None
        pairs = common_items(items[0], items[1], both, threshold, progress=True)
        results = _of_pairs(read[0], read[1], pairs)
        count = len({other for _, other, _ in pairs})
        summary = f"{count} of the {len(read[1])} rows of {against} are in {input}, too"
    log.info("Found %s", summary)
    if path is not None:
        write_table(path, results)
    elif results["row"]:
        _show(results)


def _read(
    source: str,
    encoder: RoleEncoder | None,
    bad_rows: BadRowsOption,
    csv: CsvOptions | None,
    columns: dict[str, Any],
) -> FileItems:
    """The items of a file, of the kind that the encoder takes, or of any kind without one."""
    if encoder is not None:
        return encoder.read(source, bad_rows, csv=csv, **columns)
    problems = Problems(bad_rows == "skip", BAD_ROWS)
    table = read_table(source, problems=problems, csv=csv)
    read = RoleEncoder.items(Columns(table, problems), Labels(**columns).named(table))
    problems.refuse()
    log_left_out(problems, None)
    return read


def _of_groups(read: FileItems, groups: list[list[int]], vectors: np.ndarray | None) -> dict[str, list[Any]]:
    """A row for each item of a group, with the cosine to the first one."""
    label = read.table.guess([*LABEL_NAMES, *LABELS_NAMES])
    given = None if label is None else [str(value) for value in read.table.column(label)]
    results: dict[str, list[Any]] = {"group": [], "copies": []}
    places = [place for group in groups for place in group]
    for number, group in enumerate(groups, start=1):
        results["group"] += [number] * len(group)
        results["copies"] += [len(group)] * len(group)
        if given is not None:
            differ = len({given[read.rows[place]] for place in group}) > 1
            results.setdefault("labels_differ", []).extend([differ] * len(group))
        if vectors is not None:
            results.setdefault("cosine", []).extend(_cosines(vectors[group[:1]], vectors[group]))
    return with_results(_rows(read, places), results)


def _of_pairs(read: FileItems, others: FileItems, pairs: list[Pair]) -> dict[str, list[Any]]:
    """A row for each pair of an item and one of the other file."""
    theirs = _rows(others, [other for _, other, _ in pairs])
    results = {f"against_{name}": values for name, values in theirs.items()}
    if not any(math.isnan(cosine) for _, _, cosine in pairs):
        results["cosine"] = [round(cosine, 6) for _, _, cosine in pairs]
    return with_results(_rows(read, [place for place, _, _ in pairs]), results)


def _rows(read: FileItems, places: list[int]) -> dict[str, list[Any]]:
    """The file, the row from 1, and all columns of some items."""
    chosen = read.select(places)
    return with_results(chosen.columns(), chosen.origins())


def _cosines(first: np.ndarray, others: np.ndarray) -> list[float]:
    """``[n]`` cosines of ``first [1, d]`` to ``others [n, d]``."""
    products = others @ first[0] / np.linalg.norm(first) / np.linalg.norm(others, axis=1)
    return [round(float(cosine), 6) for cosine in products]


def _show(results: dict[str, list[Any]]) -> None:
    """Print the first rows of results."""
    rows = [*zip(*results.values(), strict=True)]
    print_table(results, (map(str, row) for row in rows[:SHOWN_ROWS]))
    if len(rows) > SHOWN_ROWS:
        log.info("These are the first %d of %d rows; --output FILE writes all of them", SHOWN_ROWS, len(rows))
