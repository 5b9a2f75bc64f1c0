"""How search grows: the 100 nearest of every row among 10 thousand, 100 thousand, 1 million vectors.

Each measurement is a process of its own, so that its peak memory is known:

    python -m benchmarks.mining.scale --vectors FILE.npy --kind exact --rows 1000 --report FILE.json
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results import Finished, kept, read_json, run, write_json
from lit_metric.index import ExactIndex, FaissIndex, Index
from lit_metric.store import replacing

Array = NDArray[Any]

COUNTS = (10_000, 100_000, 1_000_000)
DIMENSION = 384
K = 100
PROBES = 16
KINDS = ("exact", "ivf", "peer")
SAMPLE = 1000
BLOCK = 65_536


def cells(count: int) -> int:
    """IVF cells for so many vectors: the power of two nearest to twice their square root.

    Example:
        >>> [cells(count) for count in COUNTS]
        [256, 512, 2048]
    """
    return int(2 ** round(math.log2(2 * math.sqrt(count))))


def rows_within(budget: float, count: int, kind: str) -> int:
    """How many rows are searched, so that no more than ``budget`` pairs of vectors are compared.

    Example:
        >>> rows_within(4e9, 10_000, "exact"), rows_within(4e9, 1_000_000, "exact")
        (10000, 4000)
    """
    share = min(1.0, PROBES / cells(count)) if kind == "ivf" else 1.0
    return max(1, min(count, int(budget / (count * share))))


def spread_over(count: int, rows: int) -> NDArray[np.int64]:
    """So many of ``count`` places, evenly spread.

    Example:
        >>> spread_over(10, 4).tolist()
        [0, 3, 6, 9]
    """
    return np.linspace(0, count - 1, min(rows, count)).round().astype(np.int64)


def write_vectors(path: Path, count: int, dimension: int = DIMENSION, seed: int = 0) -> None:
    """A file of float32 vectors around √count centres, which never stand in memory together."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(max(1, math.isqrt(count)), dimension)).astype(np.float32)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            noise = draw.standard_normal((size, dimension), dtype=np.float32)
            (centres[draw.integers(len(centres), size=size)] + noise).tofile(file)


def read_blocks(path: Path) -> Iterator[Array]:
    """The vectors of a file, block by block; read, not mapped, whose pages would count as memory."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        (count, dimension), _, dtype = np.lib.format.read_array_header_1_0(file)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            yield np.fromfile(file, dtype, size * dimension).reshape(size, dimension)


def read_rows(path: Path, rows: Array) -> Array:
    """The vectors of some rows, which rise."""
    found, start = [], 0
    for block in read_blocks(path):
        own = rows[(rows >= start) & (rows < start + len(block))]
        found.append(block[own - start])
        start += len(block)
    return np.concatenate(found)


def child(path: Path, kind: str, rows: int, k: int, threads: int, found: Path) -> dict[str, Any]:
    """What one process measures.

    Args:
        path: of the vectors.
        kind: one of ``KINDS``.
        rows: how many to search.
        k: neighbours of each.
        threads: for all of it.
        found: ``.npy`` file for the neighbours of ``SAMPLE`` rows, by which recall is known.
    """
    torch.set_num_threads(threads)
    importlib.import_module({"exact": "torch", "ivf": "faiss", "peer": "sentence_transformers.util"}[kind])
    count = sum(len(block) for block in read_blocks(path))
    began = time.perf_counter()
    search = peer(path) if kind == "peer" else ours(path, kind, threads)
    search(read_rows(path, np.array([0])), 1)  # An index is built by the first search.
    build = time.perf_counter() - began
    queries = read_rows(path, spread_over(count, rows))
    began = time.perf_counter()
    for start in range(0, len(queries), 4096):
        search(queries[start : start + 4096], k)
    seconds = time.perf_counter() - began
    np.save(found, search(read_rows(path, spread_over(count, SAMPLE)), k))
    return {
        "count": count,
        "rows": len(queries),
        "build_seconds": build,
        "search_seconds": seconds,
        "seconds": build + seconds * count / len(queries),
        "sampled": len(queries) < count,
    }


def ours(path: Path, kind: str, threads: int) -> Callable[[Array, int], Array]:
    """Queries and k to neighbours, by an index of this library."""
    count = sum(len(block) for block in read_blocks(path))
    index: Index = ExactIndex(threads=threads)
    if kind == "ivf":
        nprobe = min(PROBES, cells(count))
        index = FaissIndex(f"IVF{cells(count)},Flat", nprobe=nprobe, threads=threads)
    start = 0
    for block in read_blocks(path):
        index.add(block, np.arange(start, start + len(block)))
        start += len(block)
    return lambda queries, k: index.search(queries, k)[1].numpy()


def peer(path: Path) -> Callable[[Array, int], Array]:
    """The same by ``sentence_transformers.util.semantic_search`` with its own settings."""
    from sentence_transformers.util import normalize_embeddings, semantic_search

    corpus = normalize_embeddings(torch.from_numpy(np.concatenate(list(read_blocks(path)))))

    def search(queries: Array, k: int) -> Array:
        hits = semantic_search(torch.from_numpy(queries), corpus, top_k=k)
        return np.array([[hit["corpus_id"] for hit in row] for row in hits])

    return search


def recall(found: Array, expected: Array) -> float:
    """The share of the expected neighbours ``[n, k]`` that was found, whatever the order.

    Example:
        >>> recall(np.array([[3, 1]]), np.array([[1, 2]]))
        0.5
    """
    return float((found[:, :, None] == expected[:, None, :]).any(1).mean())


def exponent(seconds: Mapping[int, float]) -> float | None:
    """The power of the number of vectors that the seconds grow with, by least squares; None for a single one.

    Example:
        >>> round(exponent({10: 5.0, 100: 500.0}), 6)
        2.0
    """
    if len(seconds) < 2:
        return None
    x, y = np.log(list(seconds)), np.log(list(seconds.values()))
    return float(np.polyfit(x, y, 1)[0])


def measure(
    out: Path, common: Mapping[str, Any], counts: Sequence[int], budget: float, threads: int, k: int = K
) -> dict[str, Any]:
    """Every kind on every number of vectors.

    Args:
        out: the folder to write to.
        common: settings that every result depends on.
        counts: numbers of vectors.
        budget: see :func:`rows_within`.
        threads: of each process.
        k: neighbours.

    Returns:
        ``runs`` by kind and count, ``exponent`` by kind, and ``ours``, ``peer`` and ``ratio``: the seconds of
        exact search for the largest number of vectors.
    """
    runs: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
    for count in counts:
        for kind in KINDS:
            runs[kind][count] = one(out, common, count, kind, budget, threads, k)
    powers = {
        kind: exponent({n: each["seconds"] for n, each in found.items()}) for kind, found in runs.items()
    }
    largest = max(counts)
    exact, theirs = (runs[kind][largest]["seconds"] for kind in ("exact", "peer"))
    return {
        "runs": {kind: {str(count): each for count, each in found.items()} for kind, found in runs.items()},
        "exponent": powers,
        "ours": exact,
        "peer": theirs,
        "ratio": exact / theirs,
        "settings": {"counts": list(counts), "k": k, "budget": budget, "threads": threads},
    }


def one(
    out: Path, common: Mapping[str, Any], count: int, kind: str, budget: float, threads: int, k: int
) -> dict[str, Any]:
    """One process's result, or what was kept of it."""
    rows = rows_within(budget, count, kind)
    own = {"count": count, "kind": kind, "rows": rows, "k": k, "threads": threads, "dimension": DIMENSION}
    if kind == "ivf":
        own |= {"cells": cells(count), "nprobe": min(PROBES, cells(count))}
    name = f"scale-{kind}-{count}"
    found = {each: out / "scale" / f"{each}-{count}.npy" for each in KINDS}

    def run_child() -> dict[str, Any]:
        print(f"{name} ...", flush=True)
        vectors = out / "scale" / f"vectors-{count}.npy"
        if not vectors.exists():
            write_vectors(vectors, count)
        report = out / "scale" / f"{name}.json"
        words = ["--vectors", vectors, "--kind", kind, "--rows", rows, "--k", k, "--threads", threads]
        command = [sys.executable, "-m", "benchmarks.mining.scale", *words]
        finished: Finished = run(
            [*map(str, command), "--report", str(report), "--found", str(found[kind])],
            log=out / f"{name}.log",
        )
        exact = np.load(found["exact"])
        return {
            **read_json(report),
            "recall": recall(np.load(found[kind]), exact),
            "peak_memory": finished.peak_memory,
        }

    return kept(out / f"{name}.json", {**common, **own}, run_child)


def main(arguments: Sequence[str] | None = None) -> None:
    """One measurement."""
    parser = argparse.ArgumentParser("benchmarks.mining.scale")
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--k", type=int, default=K)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--found", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args(arguments)
    report = child(given.vectors, given.kind, given.rows, given.k, given.threads, given.found)
    write_json(given.report, report)


if __name__ == "__main__":
    main()
