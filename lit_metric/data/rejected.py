"""A file of the rows that can't be used, and why."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lit_metric.data.table import Problems
from lit_metric.store import replacing

REJECTED = "rejected.parquet"
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("problem", pa.string()),
        ("remedy", pa.string()),
    ]
)


def write_rejected(problems: Problems, folder: Path) -> Path:
    """Write ``rejected.parquet`` into ``folder``: a row for each problem, counted from 1 without a header."""
    path = folder / REJECTED
    with replacing(path) as unfinished:
        pq.write_table(pa.Table.from_pylist(problems.rows(), SCHEMA), unfinished, compression="zstd")
    return path
