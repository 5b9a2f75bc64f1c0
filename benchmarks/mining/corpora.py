"""Labelled texts to train and test on, all of them or a sample."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peer import read
from benchmarks.results import BenchmarkError, digest
from benchmarks.splits import bucket
from lit_metric.batching import BatchPlanner, PKPlanner, ShufflePlanner

BATCH = 128
PER_CLASS = 4
Rows = list[tuple[str, str]]


class Corpus(NamedTuple):
    """What is trained and tested on.

    Args:
        name: of the data, with the number of texts where they are a sample, and the batch if not as usual.
        train, test: Parquet files with the columns ``text`` and ``label``; no text occurs twice.
        texts: to train on.
        kind: one of ``CORPORA``.
        batch: texts that a batch is planned with; mined negatives come on top.
    """

    name: str
    train: Path
    test: Path
    texts: int
    kind: str
    batch: int = BATCH

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return -(-self.texts // self.batch)

    @property
    def settings(self) -> dict[str, Any]:
        """What a result depends on."""
        return {
            "data": self.name,
            "digest": digest(self.train, self.test),
            "texts": self.texts,
            "batch": self.batch,
        }


def banking77(root: Path) -> tuple[Rows, Rows]:
    """Customer questions, to be found by their intent."""
    parts = []
    for name in ("train", "test"):
        texts, labels = read(_file(root / "banking77" / f"{name}.parquet"))
        parts.append(list(zip(texts, labels, strict=True)))
    return parts[0], parts[1]


def debian(root: Path) -> tuple[Rows, Rows]:
    """One-line descriptions of Debian packages, to be found by their section; a tenth is for the test."""
    table = pq.read_table(_file(root / "debian" / "packages.parquet"), columns=["synopsis", "section"])
    rows = list(zip(table["synopsis"].to_pylist(), table["section"].to_pylist(), strict=True))
    held = [number(text) < 0.1 for text, _ in rows]
    return (
        [row for row, out in zip(rows, held, strict=True) if not out],
        [row for row, out in zip(rows, held, strict=True) if out],
    )


CORPORA: dict[str, Callable[[Path], tuple[Rows, Rows]]] = {"banking77": banking77, "debian": debian}


def planner(kind: str, batch: int) -> BatchPlanner:
    """What makes batches of ``batch`` texts that hold all of them in an epoch, or nearly so.

    Every batch of Banking77 has four members of each of its classes. The sections of packages are too unequal
    for that: the largest would hardly come, so packages come in random order.
    """
    if kind == "banking77":
        return PKPlanner(classes=batch // PER_CLASS, per_class=PER_CLASS)
    return ShufflePlanner(batch)


def prepare(name: str, texts: int | None, out: Path, batch: int = BATCH) -> Corpus:
    """Write what is trained and tested on.

    Args:
        name: one of ``CORPORA``.
        texts: how many to train on, chosen by their sha256, and half as many for the test; all if None.
        out: where the files go.
        batch: see :class:`Corpus`.

    Raises:
        BenchmarkError: the data are not there, or fewer than that.
    """
    root = os.environ.get("LIT_METRIC_DATA")
    if not root:
        raise BenchmarkError(f"set LIT_METRIC_DATA to a folder that holds {name}")
    train, test = map(distinct, CORPORA[name](Path(root)))
    known = {text for text, _ in train}
    test = [row for row in test if row[0] not in known]
    if texts is not None:
        if len(train) < texts:
            raise BenchmarkError(
                f"--texts {texts} are more than the {len(train)} that {name} has to train on"
            )
        train, test = sample(train, texts), sample(test, texts // 2)
    label = name if texts is None else f"{name}-{texts}"
    paths = [out / "data" / f"{label}-{part}.parquet" for part in ("train", "test")]
    for path, rows in zip(paths, (train, test), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        pq.write_table(pa.table(columns), path)
    run = label if batch == BATCH else f"{label}-by-{batch}"
    return Corpus(run, paths[0], paths[1], len(train), name, batch)


def distinct(rows: Rows) -> Rows:
    """The first row of each text.

    Example:
        >>> distinct([("a", "1"), ("b", "1"), ("a", "2")])
        [('a', '1'), ('b', '1')]
    """
    first: dict[str, str] = {}
    for text, label in rows:
        first.setdefault(text, label)
    return list(first.items())


def sample(rows: Sequence[tuple[str, str]], count: int) -> Rows:
    """``count`` rows, those of the least :func:`number`, in the order in which they stand; all if fewer."""
    chosen = sorted(range(len(rows)), key=lambda place: number(rows[place][0]))[:count]
    return [rows[place] for place in sorted(chosen)]


def number(text: str) -> float:
    """Between 0 and 1, by the sha256 of ``text``; evenly spread."""
    return bucket(text, 16**13) / 16**13


def _file(path: Path) -> Path:
    if not path.is_file():
        raise BenchmarkError(f"set LIT_METRIC_DATA to a folder that holds {path.parent.name}/{path.name}")
    return path
