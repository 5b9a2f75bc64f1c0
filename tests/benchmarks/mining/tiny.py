"""Corpora, for runs on the tiny backbone."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.mining.corpora import Corpus, distinct
from tests.small import Small


def corpus(small: Small, folder: Path, prefix: str = "many_") -> Corpus:
    """400 texts of 80 classes to train on, 160 to test on; 72 and 30 of 6 without the ``prefix``."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = []
    for name in ("train", "test"):
        with open(small / f"{prefix}{name}.csv", newline="") as file:
            rows = distinct([(row["text"], row["label"]) for row in csv.DictReader(file)])
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        counts.append(len(rows))
    return Corpus("tiny", folder / "train.parquet", folder / "test.parquet", counts[0], "banking77")


def naive_map(vectors: np.ndarray, labels: list[str]) -> float:
    """MAP@R by its definition."""
    values = []
    for row, own in enumerate(labels):
        order = np.argsort(-(vectors @ vectors[row]), kind="stable")
        hits = [labels[place] == own for place in order if place != row]
        relevant = sum(hits)
        precisions = [sum(hits[: k + 1]) / (k + 1) for k in range(relevant) if hits[k]]
        values.append(sum(precisions) / relevant)
    return float(np.mean(values))
