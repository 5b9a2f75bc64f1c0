"""Encode a file as a job: shard by shard, on one device or several, and where it stopped."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lit_metric.cli.ranks import Ranks, start_ranks
from lit_metric.commands.items import (
    BAD_ROWS,
    ENDINGS,
    BadRowsOption,
    FileItems,
    RoleEncoder,
    arrow,
    check_output,
    log_left_out,
    write_lines,
)
from lit_metric.data import CsvOptions, DataError, Labels, Problems
from lit_metric.data.blocks import RowBlocks
from lit_metric.data.formats.columns import AbsentTexts, Columns
from lit_metric.data.progress import Pace, stage
from lit_metric.data.shards import SHARD_ROWS, Shards
from lit_metric.data.table import Table
from lit_metric.encoders.base import Precision
from lit_metric.encoders.description import fingerprint_of
from lit_metric.encoders.tokenizer import truncation_logged_once
from lit_metric.hub import load
from lit_metric.store import check_room, replacing

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
    shard_rows: int = SHARD_ROWS,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    trust_remote_code: bool = False,
) -> None:
    """Write the vector of each row of a file.

    A ``.npy`` file holds one array, row i for row i of the file. Parquet, CSV and JSON Lines hold all columns
    of the file and one more with the vectors. A name without an ending is a folder of Parquet files, the
    shards. Rows and vectors are in memory for one shard at a time. A call that was interrupted continues
    after its last finished shard when it is repeated.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        input: Parquet, CSV or JSON Lines file, data set folder, or id of a data set on the hub.
        output: file to write, .npy, .parquet, .csv or .jsonl, or a folder of Parquet files.
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
        shard_rows: rows of the input that are encoded and written together.
        accelerator: cpu, gpu, or any other of Lightning; auto takes a GPU if there is one.
        devices: processes on each machine, which share the shards out; -1 for all GPUs.
        num_nodes: machines, under torchrun or SLURM; the output must be on a shared disk.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when the file can't be used.
        ValueError: when options and model don't fit together.
        FileExistsError: when the output is a folder that holds something else, or vectors of another job.

    Example:
        lit-metric encode --model runs/triplet --input questions.csv --output vectors.npy
    """
    if shard_rows < 1:
        raise ValueError(f"--shard_rows {shard_rows}: at least 1 is needed")
    path, ending = _check_output(output)
    encoder = RoleEncoder(load(model, trust_remote_code), role, "--role")
    ranks = start_ranks(accelerator, devices, num_nodes)
    encoder.encoder.to(ranks.device)
    job = EncodeJob(encoder, input, path, ending, column, csv, bad_rows, shard_rows, max_tokens, precision)
    columns: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator}
    job.run(ranks, {**columns, "weights": weights, "field": field})


def _check_output(output: str) -> tuple[Path, str]:
    """The path and its ending; the ending of a folder is empty."""
    if output.endswith("/") or Path(output).is_dir() or not Path(output).suffix:
        return Path(output), ""
    try:
        path = check_output(output, [".npy", *ENDINGS])
    except ValueError as error:
        raise ValueError(f"{error}; without an ending it is a folder") from None
    return path, path.suffix


@dataclass
class _Survey:
    """What one pass over the input finds.

    Args:
        labels: the columns of the items.
        rows: all.
        kept: rows that can be used.
        columns: the types of all columns, by name; for tables only.
        known: all columns of the source.
        digest: of the content, hexadecimal sha256.
    """

    labels: Labels
    rows: int = 0
    kept: int = 0
    columns: dict[str, pa.DataType] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    digest: str = ""


@dataclass
class EncodeJob:
    """Encodes ``source`` into ``path``; see :func:`encode` for the other arguments.

    Args:
        ending: of the path; empty for a folder of shards.
    """

    encoder: RoleEncoder
    source: Any
    path: Path
    ending: str
    column: str
    csv: CsvOptions | None
    bad_rows: BadRowsOption
    shard_rows: int
    max_tokens: int
    precision: Precision

    def run(self, ranks: Ranks, columns: dict[str, Any]) -> Labels:
        """Check the input, encode the shards that are missing, and put them together if it is one file.

        Returns:
            The columns of the items.
        """

        def prepare() -> tuple[_Survey, dict[str, Any], list[int]]:
            with stage("checking the input"):
                survey = self._survey(columns)
            job = {
                "model": fingerprint_of(self.encoder.encoder),
                "input": survey.digest,
                "columns": columns,
                "csv": None if self.csv is None else asdict(self.csv),
                "role": self.encoder.role,
                "precision": self.precision,
                "column": self.column,
                "bad_rows": self.bad_rows,
                "shard_rows": self.shard_rows,
            }
            shards = self._shards(survey, job)
            return survey, job, shards.start(anew=bool(self.ending))

        survey, job, missing = ranks.first(prepare)
        shards = self._shards(survey, job)
        if ranks.is_first and len(missing) < shards.count:
            log.info("%d of %d shards are done already", shards.count - len(missing), shards.count)
        began = time.monotonic()
        try:
            with truncation_logged_once():
                self._encode(survey, shards, missing[ranks.rank :: ranks.world_size], ranks)
        except BaseException:
            if ranks.world_size == 1:
                shards.discard(unless_begun=True)
            raise
        ranks.wait()
        seconds = time.monotonic() - began
        if ranks.is_first:
            dimension = self.encoder.encoder.dimension
            if self.ending:
                self._assemble(survey, shards, dimension)
                shards.discard()
            else:
                shards.finish()
            if self.ending == ".npy" and survey.kept < survey.rows:
                log.warning("Their vectors are NaN, so that row i of %s is row i of the input", self.path)
            fast = f", {survey.kept / seconds:,.0f} rows/s" if len(missing) == shards.count else ""
            message = "Wrote %d embeddings of %d components to %s%s"
            log.info(message, survey.kept, dimension, self.path, fast)
        ranks.wait()
        return survey.labels

    def _shards(self, survey: _Survey, job: dict[str, Any]) -> Shards:
        folder = self.path.with_name(f"{self.path.name}.shards") if self.ending else self.path
        count = -(-survey.rows // self.shard_rows)
        return Shards(folder, job, count, self.ending or ".parquet")

    def _survey(self, columns: dict[str, Any]) -> _Survey:
        """Read all of the input once, before anything is written."""
        problems = Problems(self.bad_rows == "skip", BAD_ROWS)
        blocks = RowBlocks(self.source, self.shard_rows, problems, self.csv)
        survey = _Survey(self.encoder.columns(blocks.source, **columns))
        digest, absent = hashlib.sha256(), AbsentTexts()
        for table in blocks.tables(problems):
            found = self._items(table, problems, survey.labels, absent)
            survey.rows += len(table)
            survey.kept += len(found)
            named = found.columns() if self.ending != ".npy" else {}
            start, items = survey.rows - len(table), found.items
            given = [each for each in (items.rows, items.roles, items.weights) if each is not None]
            for row in zip([start + row for row in found.rows], *given, *named.values(), strict=True):
                digest.update(repr(row).encode("utf-8", "surrogatepass"))
            if self.ending in ("", ".parquet"):
                for name, values in named.items():
                    survey.columns[name] = _common(survey.columns.get(name), arrow(values).type)
            else:
                survey.columns |= dict.fromkeys(named, pa.null())
        problems.refuse()
        source = blocks.source
        if not survey.kept:
            raise DataError(f"{source.name} has {survey.rows} rows, and none that can be used")
        source.log_dialects()
        absent.log()
        digest.update(repr(source.columns).encode("utf-8", "surrogatepass"))
        survey.digest, survey.known = digest.hexdigest(), source.columns
        survey.columns = {name: survey.columns[name] for name in source.columns if name in survey.columns}
        if self.ending != ".npy":
            for name in (self.column, *["row"] * (self.bad_rows == "skip")):
                if name in survey.columns:
                    remedy = "rename it" if name == "row" else "give the vectors another name with --column"
                    raise DataError(f"{source.name} has a column {name!r} already; {remedy}")
        log_left_out(problems, self.path.parent)
        return survey

    def _items(
        self, table: Table, problems: Problems, labels: Labels, absent: AbsentTexts | None = None
    ) -> FileItems:
        return self.encoder.items(Columns(table, problems, absent or AbsentTexts()), labels)

    def _encode(self, survey: _Survey, shards: Shards, mine: list[int], ranks: Ranks) -> None:
        """Make the shards ``mine``, and log how fast it goes."""
        left = set(mine)
        total = sum(min(self.shard_rows, survey.rows - number * self.shard_rows) for number in mine)
        pace = Pace(total, "rows", ranks.world_size, ranks.is_first)
        blocks = RowBlocks(self.source, self.shard_rows, Problems(), self.csv, survey.known)
        for number, table in enumerate(blocks.tables(Problems(skip=True))):
            if not left:
                break
            if number not in left:
                continue
            self._make(survey, shards, number, table, ranks.is_first)
            left.remove(number)
            pace.advance(len(table))
        if left:
            raise DataError(
                f"{self.path}: the input has fewer rows than at the start; don't change it meanwhile"
            )

    def _make(self, survey: _Survey, shards: Shards, number: int, table: Table, progress: bool) -> None:
        """Encode the rows of a shard and write it."""
        read = self._items(table, Problems(skip=True), survey.labels)
        vectors = np.empty((0, self.encoder.encoder.dimension), np.float32)
        if len(read):
            vectors = self.encoder.encode(read, self.max_tokens, self.precision, progress)
        if self.ending == ".npy":
            whole = np.full((len(table), vectors.shape[1]), np.nan, np.float32)
            whole[read.rows] = vectors
            shards.write_array(number, whole)
            return
        there = read.columns()
        columns: dict[str, Any] = {name: there.get(name, [None] * len(read)) for name in survey.columns}
        if self.bad_rows == "skip":
            columns["row"] = [number * self.shard_rows + row + 1 for row in read.rows]
        columns[self.column] = vectors
        if self.ending in (".csv", ".jsonl"):
            shards.write(number, lambda path: write_lines(path, self.ending, columns, header=number == 0))
            return
        types = {**survey.columns, "row": pa.int64()}
        arrays = {name: arrow(values, types.get(name)) for name, values in columns.items()}
        shards.write(number, lambda path: pq.write_table(pa.table(arrays), path, compression="zstd"))

    def _assemble(self, survey: _Survey, shards: Shards, dimension: int) -> None:
        """Write one file of all shards."""
        paths = [shards.path(number) for number in range(shards.count)]
        check_room(shards.folder, sum(path.stat().st_size for path in paths))
        with replacing(self.path) as unfinished:
            if self.ending == ".parquet":
                with pq.ParquetWriter(unfinished, pq.read_schema(paths[0]), compression="zstd") as writer:
                    for path in paths:
                        writer.write_table(pq.read_table(path, partitioning=None))
                return
            with unfinished.open("wb") as file:
                if self.ending == ".npy":
                    shape = survey.rows, dimension
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                for path in paths:
                    with path.open("rb") as shard:
                        if self.ending == ".npy":
                            np.lib.format.read_magic(shard)
                            np.lib.format.read_array_header_1_0(shard)
                        shutil.copyfileobj(shard, file, 1 << 20)


def _common(one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """The type of a column that has both types; text if there is no other."""
    if one is None or one == other:
        return other
    schemas = [pa.schema([("column", each)]) for each in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()
