"""Encode a file."""

from __future__ import annotations

import logging

import numpy as np

from lit_metric.commands.items import ENDINGS, BadRowsOption, RoleEncoder, check_output, write_table
from lit_metric.data import CsvOptions, DataError
from lit_metric.encoders.base import Precision
from lit_metric.hub import load
from lit_metric.store import write_array

log = logging.getLogger(__name__)


def encode(
    model: str,
    input: str,
    output: str,
    text: str | None = None,
    tags: str | None = None,
    tag_separator: str | None = None,
    weights: str | None = None,
    field: dict[str, str] | None = None,
    role: str | None = None,
    column: str = "embedding",
    csv: CsvOptions | None = None,
    bad_rows: BadRowsOption = "error",
    max_tokens: int = 16384,
    precision: Precision = "float32",
    trust_remote_code: bool = False,
) -> None:
    """Write the vector of each row of a file.

    A ``.npy`` file holds one array, row i for row i of the file. Parquet, CSV and JSON Lines hold all columns
    of the file and one more with the vectors.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        input: Parquet, CSV or JSON Lines file, data set folder, or id of a data set on the hub.
        output: file to write: .npy, .parquet, .csv or .jsonl.
        text: column of texts; guessed if it has a usual name.
        tags: column of tags, for a model of sets.
        tag_separator: what stands between tags in a string.
        weights: column of lists of numbers, how much each tag counts.
        field: column by role, for a model of items of several fields, such as --field.title name.
        role: what the items are, such as query or document, if the model has roles.
        column: name of the column of vectors.
        csv: how CSV files are written, such as --csv.separator or --csv.encoding; found if not given.
        bad_rows: refuse a file with rows that can't be used, or leave them out: they are listed in
            rejected.parquet next to the output, tables get a column "row" (from 1, without a header), and in
            .npy files their vectors are NaN.
        max_tokens: tokens per batch.
        precision: of matrix products.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when the file can't be used.
        ValueError: when options and model don't fit together.

    Example:
        lit-metric encode --model runs/triplet --input questions.csv --output vectors.npy
    """
    path = check_output(output, [".npy", *ENDINGS])
    encoder = RoleEncoder(load(model, trust_remote_code), role, "--role")
    read = encoder.read(
        input,
        bad_rows,
        path.parent,
        text=text,
        tags=tags,
        tag_separator=tag_separator,
        weights=weights,
        field=field,
        csv=csv,
    )
    numbers = {"row": [row + 1 for row in read.rows]} if bad_rows == "skip" else {}
    if path.suffix != ".npy":
        for name in (column, *numbers):
            if name in read.table.columns:
                remedy = "rename it" if name == "row" else "give the vectors another name with --column"
                raise DataError(f"{read.table.name} has a column {name!r} already; {remedy}")
    vectors = encoder.encode(read, max_tokens, precision)
    if path.suffix != ".npy":
        write_table(path, {**read.columns(), **numbers, column: vectors})
    else:
        whole = np.full((len(read.table), vectors.shape[1]), np.nan, np.float32)
        whole[read.rows] = vectors
        write_array(path, whole)
        if len(read) < len(whole):
            log.warning("Their vectors are NaN, so that row i of %s is row i of the input", path)
    log.info("Wrote %d embeddings of %d components to %s", *vectors.shape, path)
