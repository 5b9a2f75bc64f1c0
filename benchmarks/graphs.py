"""Encoding by the graphs of ``lit-metric export --onnx`` beside lit-metric: time, neighbours and size.

    LIT_METRIC_DATA=DIR python -m benchmarks.graphs

Encodes 1,500 questions of Banking77 on one thread, tokenising included, each way in turn. Times are of the
processor, so other work on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

import lit_metric
from benchmarks.engine.measures import banking77, in_turn, processor
from benchmarks.peer import BACKBONE
from lit_metric.encoders.base import Precision
from lit_metric.hub import export_onnx
from lit_metric.hub.check import neighbour_recall

TEXTS = 1500


def main(arguments: list[str] | None = None) -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    texts, _ = banking77()
    texts = texts[: given.texts]
    encoder = lit_metric.load(BACKBONE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "onnx")
        export_onnx(encoder, folder, "both", texts)

        from lit_metric.hub.run_onnx import GRAPHS, OnnxEncoder

        sizes = {name: (folder / file).stat().st_size for name, file in GRAPHS.items()}
        graphs = {name: OnnxEncoder(folder, name, threads=1) for name in GRAPHS}
    ways: dict[str, Callable[[], Any]] = {
        f"lit-metric, {precision}": partial(encoder.encode, texts, precision=precision)
        for precision in get_args(Precision)
        if precision != "float16"
    } | {f"graph, {name}": partial(graph.encode, texts) for name, graph in graphs.items()}
    reference = encoder.encode(texts)
    seconds = in_turn(ways, given.rounds, time.process_time)
    first = next(iter(ways))
    print(f"{len(texts)} texts, {processor()['model']}", flush=True)
    for name, encode in ways.items():
        ratios = [a / b for a, b in zip(seconds[first], seconds[name], strict=True)]
        size = sizes.get(name.removeprefix("graph, "), 0)
        print(
            f"{name:24}{len(texts) / statistics.median(seconds[name]):8.0f} texts a second, "
            f"{statistics.median(ratios):.2f} times the first ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"recall@10 {neighbour_recall(reference, encode()):.3f}"
            + (f", {size / 1e6:.0f} MB" if name.startswith("graph") else "")
        )


if __name__ == "__main__":
    main()
