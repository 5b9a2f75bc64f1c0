"""Encode a corpus once, and search it many times."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lit_metric.cli.ranks import start_ranks
from lit_metric.commands.encode import SHARD_ROWS, EncodeJob
from lit_metric.commands.items import BadRowsOption, RoleEncoder
from lit_metric.data import CsvOptions, Labels, Problems
from lit_metric.data.blocks import RowBlocks
from lit_metric.data.progress import track
from lit_metric.encoders.base import Precision
from lit_metric.hub import load
from lit_metric.index import FaissIndex
from lit_metric.index.mapped import CODES
from lit_metric.index.on_disk import SHARDS, DataType, check_folder, new_manifest
from lit_metric.search_index import SearchIndex

log = logging.getLogger(__name__)

VECTOR = "vector of lit-metric"
"""The column of vectors in shards, a name that no file has."""


def index(
    model: str,
    input: str,
    output: str,
    add: bool = False,
    kind: str | None = None,
    dtype: DataType | None = None,
    oversampling: int | None = None,
    nprobe: int | None = None,
    ef_search: int | None = None,
    text: str | None = None,
    tags: str | None = None,
    tag_separator: str | None = None,
    weights: str | None = None,
    field: dict[str, str] | None = None,
    role: str | None = None,
    csv: CsvOptions | None = None,
    bad_rows: BadRowsOption = "error",
    max_tokens: int = 16384,
    precision: Precision = "float32",
    shard_rows: int = SHARD_ROWS,
    trust_remote_code: bool = False,
) -> None:
    """Encode a corpus once and save it, to be searched many times by ``search --index``.

    The folder holds the vectors, all columns of the input, and what finds near vectors fast. Each row of the
    input is a row of the index. A call that was interrupted continues when it is repeated.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        input: Parquet, CSV or JSON Lines file, data set folder, or id of a data set on the hub.
        output: folder of the index.
        add: add the rows of the input to an index that is there.
        kind: exact compares a query with all vectors (the default); int8 and binary with a byte or a bit for
            each component, and then the best candidates with their vectors; or a factory string of FAISS,
            such as IVF1024,Flat.
        dtype: of the vectors on the disk, float32 (the default) or float16.
        oversampling: candidates for each result, of any kind but exact (10, and at least 100 in all).
        nprobe: cells that are searched, for IVF.
        ef_search: candidates during the search, for HNSW.
        text: column of texts; guessed if it has a usual name.
        tags: column of tags, for a model of sets.
        tag_separator: what stands between tags in a string.
        weights: column of lists of numbers, how much each tag counts.
        field: column by role, for a model of items of several fields, such as --field.title name.
        role: of the items; document if the model has that.
        csv: how CSV files are written, such as --csv.separator or --csv.encoding; found if not given.
        bad_rows: refuse a file with rows that can't be used, or leave them out: they are listed in
            rejected.parquet in the folder, and the others get a column "row" (from 1, without a header).
        max_tokens: tokens per batch.
        precision: of matrix products.
        shard_rows: rows of the input that are encoded together; a finished shard is not encoded again.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when the file can't be used.
        ValueError: when options and model don't fit together, or the index to add to is of another model.
        FileExistsError: when the folder holds something already, or an unfinished index of another input.

    Example:
        lit-metric index --model runs/triplet --input questions.csv --output questions.index
    """
    if shard_rows < 1:
        raise ValueError(f"--shard_rows {shard_rows}: at least 1 is needed")
    folder = Path(output)
    settings = {"kind": kind, "dtype": dtype, "oversampling": oversampling, "nprobe": nprobe}
    given = {name: each for name, each in {**settings, "ef_search": ef_search}.items() if each is not None}
    chosen: dict[str, Any] = {
        "kind": "exact",
        "dtype": "float32",
        "oversampling": 10,
        "nprobe": None,
        "ef_search": None,
        **given,
    }
    if add and given:
        raise ValueError(f"--add takes the settings of the index: leave --{next(iter(given))} out")
    if not add:
        new_manifest(**chosen, model=None, role=None, text_columns=())  # refuses settings before any work
        check_folder(folder)
    encoder = RoleEncoder(load(model, trust_remote_code), role, "--role", "document")
    there = SearchIndex.open(folder, encoder.encoder) if add else None
    if there is None and chosen["kind"] not in ("exact", *CODES):
        FaissIndex(str(chosen["kind"])).empty(encoder.encoder.dimension)  # refuses it before any work
    if there is not None and encoder.role != there.role:
        raise ValueError(f"--role {encoder.role}: the rows of {folder} have the role {there.role}")
    if there is not None:
        known, source = there.columns.column_names, RowBlocks(input, shard_rows, Problems(True), csv).source
        if new := [name for name in source.columns if name not in known]:
            raise ValueError(f"{source.name} has a column {new[0]!r}, and {folder} has {', '.join(known)}")
    shards = folder / f"{SHARDS}{0 if there is None else len(there)}"
    for old in folder.glob(f"{SHARDS}*"):
        if old != shards:  # of a call that was cut off after it had added them
            shutil.rmtree(old)
    job = EncodeJob(encoder, input, shards, "", VECTOR, csv, bad_rows, shard_rows, max_tokens, precision)
    columns: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator}
    labels = job.run(start_ranks(), {**columns, "weights": weights, "field": field})
    if there is None:
        about: dict[str, Any] = {"role": encoder.role, "text_columns": _named(labels), **chosen}
        built = SearchIndex.build_blocks(folder, _blocks(shards), encoder=encoder.encoder, **about)
    else:
        built = there
        built.add_blocks(_blocks(shards, "row" not in there.columns.column_names))
    shutil.rmtree(shards)
    recall = "" if built.recall is None else f"; recall@10 {built.recall:.3f} beside exact search"
    log.info("%s holds %d rows, %s%s", folder, len(built), built.kind, recall)


def _named(labels: Labels) -> list[str]:
    """The columns of the items."""
    names = labels.text or labels.tags or [*(labels.fields or {}).values()]
    return [names] if isinstance(names, str) else [*names]


def _blocks(shards: Path, without_row: bool = False) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Vectors and columns of each shard, without the numbers of rows if an index has none."""
    for path in track(sorted(shards.glob("*.parquet")), "indexing", "shard"):
        table = pq.read_table(path, partitioning=None)
        if len(table):
            vectors = table[VECTOR].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
            left_out = {VECTOR, "row"} if without_row else {VECTOR}
            yield vectors, table.select([name for name in table.column_names if name not in left_out])
