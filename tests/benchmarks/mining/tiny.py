"""A corpus of many small classes, for runs on the tiny backbone."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.mining.corpora import Corpus, distinct
from tests.small import Small


def corpus(small: Small, folder: Path) -> Corpus:
    """400 texts of 80 classes to train on, 160 to test on."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = []
    for name in ("train", "test"):
        with open(small / f"many_{name}.csv", newline="") as file:
            rows = distinct([(row["text"], row["label"]) for row in csv.DictReader(file)])
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        counts.append(len(rows))
    return Corpus("tiny", folder / "train.parquet", folder / "test.parquet", counts[0], "banking77")
