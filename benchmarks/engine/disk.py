"""Data of many rows: time and memory of reading and tokenising them, and of planning an epoch of pairs.

    python -m benchmarks.engine.disk --out DIR             # what `benchmarks.engine --only disk` runs
    python -m benchmarks.engine.disk --out DIR --largest   # five million rows, too

- ``disk-read``: labelled texts in Parquet, read and tokenised, for more and more rows;
- ``disk-pairs``: pairs of texts in JSON Lines, read and tokenised, for half as many rows;
- ``disk-plan``: an epoch of :class:`~lit_metric.batching.PairPlanner`, for more and more pairs of which two
  share each answer.

There is no peer: the measure is how time and memory grow with the rows. Each count runs in a process of its
own, as its peak of memory is that of the process; what the libraries take is subtracted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.engine import memory
from benchmarks.engine.job import MODEL, WORDS
from benchmarks.engine.measures import OURS, growth, measured
from lit_metric.batching import PairPlanner
from lit_metric.data import PairRelations
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders.pretrained import locate
from lit_metric.encoders.tokenizer import TextTokenizer

CLASS = 50
"""Rows of each class."""
BATCH = 256
"""Pairs of a batch."""


def write_rows(path: Path, count: int) -> None:
    """Texts of seven words and a number each, all distinct.

    Args:
        path: of a Parquet file of texts with their classes, or of JSON Lines of pairs, half as many.
        count: of texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(0)
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    with contextlib.ExitStack() as files:
        if path.suffix == ".jsonl":
            lines = files.enter_context(path.open("w"))
        else:
            table = files.enter_context(pq.ParquetWriter(path, schema))
        for start in range(0, count, 1 << 16):
            rows = range(start, min(start + (1 << 16), count))
            words = draw.choice(WORDS, (len(rows), 7)).tolist()
            texts = [f"{' '.join(each)} {row}" for each, row in zip(words, rows, strict=True)]
            if path.suffix == ".jsonl":
                for anchor, positive in zip(texts[::2], texts[1::2], strict=True):
                    lines.write(json.dumps({"anchor": anchor, "positive": positive}) + "\n")
            else:
                labels = [f"class {row % max(2, count // CLASS)}" for row in rows]
                table.write_table(pa.table([texts, labels], schema=schema))


def read(path: Path) -> dict[str, float]:
    """Seconds and peak MB of reading and tokenising the rows of a file, in this process."""
    tokenizer = TextTokenizer(AutoTokenizer.from_pretrained(locate(MODEL)), max_length=64)
    with tempfile.TemporaryDirectory() as cache:
        data = MetricDataModule(str(path), cache_dir=cache)
        before, begin = memory.peak(), time.perf_counter()
        data.read()
        middle, after_reading = time.perf_counter(), memory.peak()
        data.prepare(tokenizer, progress=False)
        return {
            "read_seconds": middle - begin,
            "tokenize_seconds": time.perf_counter() - middle,
            "read_mb": after_reading - before,
            "peak_mb": memory.peak() - before,
        }


def plan(count: int) -> dict[str, float]:
    """Seconds and peak MB of the relations of ``count`` pairs and of a plan, in this process."""
    anchors = torch.arange(count)
    before, begin = memory.peak(), time.perf_counter()
    relations = PairRelations(anchors, count + anchors // 2, None, torch.arange(2 * count))
    middle = time.perf_counter()
    found = PairPlanner(BATCH).plan(anchors, relations, seed=0, epoch=0)
    return {
        "relations_seconds": middle - begin,
        "plan_seconds": time.perf_counter() - middle,
        "peak_mb": memory.peak() - before,
        "placed": len(found.anchors.values),
    }


def alone(work: str, count: int) -> dict[str, float]:
    """The result of :func:`plan` for ``count`` pairs, or of :func:`read` for ``count`` texts, in a process of
    its own.

    Args:
        work: ``"read"`` labelled texts, read ``"pairs"``, or ``"plan"``.
        count: of texts; of pairs to be planned.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.engine.disk"]
        if work == "plan":
            command += ["--plan", str(count)]
        else:
            path = Path(folder, "rows.jsonl" if work == "pairs" else "rows.parquet")
            write_rows(path, count)
            command += ["--read", str(path)]
        end = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(end.stdout.splitlines()[-1])
    return found


def measure(out: Path, quick: bool, largest: bool = False) -> list[dict[str, Any]]:
    """All results; with ``largest``, reading has five million texts, too."""
    texts = [2_000, 8_000] if quick else [200_000, 1_000_000] + [5_000_000] * largest
    pairs = [2_000, 20_000] if quick else [1_000_000, 10_000_000]

    def result(work: str, counts: list[int], cost: str, unit: str) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            runs = {count: alone(work, count) for count in counts}
            costs = {count: each[cost] for count, each in runs.items()}
            return {
                "ours": costs[counts[-1]],
                "peer": costs[counts[0]],
                "ratio": None,
                "runs": runs,
                "growth": growth("pairs" if work == "plan" else "texts", unit, {OURS: costs}),
            }

        settings = {"model": MODEL, "counts": counts, "class": CLASS, "batch": BATCH}
        title = f"{work} {counts[-1]:,}: {unit} (peer: {counts[0]:,})"
        return measured(out, f"disk-{work}", title, settings, run)

    return [
        result("read", texts, "peak_mb", "peak memory, MB"),
        result("pairs", texts, "peak_mb", "peak memory, MB"),
        result("plan", pairs, "plan_seconds", "seconds of a plan"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.engine.disk", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="few rows: does it run at all?")
    parser.add_argument("--largest", action="store_true", help="also five million texts")
    # What a process of its own is to do.
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.read or given.plan:
        print(json.dumps(read(given.read) if given.read else plan(given.plan)))
        return
    if given.out is None:
        parser.error("--out is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    for each in measure(given.out.resolve(), given.quick, given.largest):
        print(json.dumps({"name": each["name"], "runs": each["runs"]}, indent=1))


if __name__ == "__main__":
    main()
