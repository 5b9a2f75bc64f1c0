"""Where the time of training and encoding goes, by kind of work.

    LIT_METRIC_DATA=DIR python -m benchmarks.engine.profile

prints a table: for each case the seconds on one thread, and the share of matrix products, attention,
activations and norms, copies, the optimizer, and of what is no operation of torch (Python, tokenising). The
cases are training steps on texts of Banking77 with dropout 0.1 and all trained, a step with the frozen tower
and the sets of ``configs/debtags.yaml``, and encoding.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks import throughput
from benchmarks.engine.measures import banking77
from benchmarks.engine.training import batches, on
from benchmarks.peer import BACKBONE
from lit_metric import AttentionPooling, SetEncoder, TextEncoder
from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders import Projection
from lit_metric.losses import DensePairs, NCALoss

KINDS = {
    "attention": ("scaled_dot_product", "flash_attention"),
    "matrix products": ("addmm", "::mm", "::bmm", "baddbmm", "linear_pointwise", "mkldnn_linear", "::matmul"),
    "activations, norms, dropout": ("gelu", "tanh", "layer_norm", "softmax", "dropout", "bernoulli", "erf"),
    "embeddings": ("embedding",),
    "copies": (
        "copy_",
        "index_select",
        "index_copy",
        "::cat",
        "fill_",
        "index_add",
        "clone",
        "zero_",
        "::index",
    ),
    "optimizer": ("adam",),
}
"""Parts of names of operations, by kind; the first kind that fits counts."""

OTHER, PYTHON = "other operations", "Python and tokenising"


def kind_of(name: str) -> str:
    """The kind of an operation.

    Example:
        >>> kind_of("aten::addmm"), kind_of("aten::sub")
        ('matrix products', 'other operations')
    """
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)


def shares(work: Callable[[], Any]) -> tuple[float, dict[str, float]]:
    """Seconds of processor time of ``work`` on its second call, and the share of each kind in it."""
    work()
    begin = time.process_time()
    work()
    seconds = time.process_time() - begin
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        begin = time.perf_counter()  # as the profiler measures
        work()
        whole = time.perf_counter() - begin
    found = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in seen.key_averages():
        found[kind_of(event.key.lower())] += event.self_cpu_time_total / 1e6
    found[PYTHON] = max(0.0, whole - sum(found.values()))
    total = sum(found.values())
    return seconds, {kind: value / total for kind, value in found.items()}


def sets(items: int = 1024, texts: int = 600) -> Callable[[], None]:
    """A step of the sets of `configs/debtags.yaml`, whose frozen tower has encoded its texts before."""
    draw = torch.Generator().manual_seed(0)
    words = Ragged.from_lengths(
        torch.randint(1000, 20000, (4 * texts,), generator=draw), torch.full((texts,), 4, dtype=torch.int64)
    )
    layers = [Projection(1024, activation="gelu"), Projection(384, dropout=0.3)]
    pooling = AttentionPooling(4, hidden=128, context=True)
    encoder = SetEncoder(TextEncoder(BACKBONE, freeze=True), pooling, layers, tag_dropout=0.2)
    encoder.train()
    optimizer, loss = throughput.adamw(encoder), NCALoss(temperature=0.05)
    labels = torch.randint(0, 49, (items,), generator=draw)
    lengths = torch.randint(2, 14, (items,), generator=draw)
    members = Ragged.from_lengths(torch.randint(0, texts, (int(lengths.sum()),), generator=draw), lengths)
    inputs = EncoderInput(words, members, torch.arange(texts))
    same = labels[:, None] == labels
    pairs = DensePairs(same & ~torch.eye(items, dtype=torch.bool), ~same)

    def step() -> None:
        vectors = encoder(inputs)
        throughput.update(loss.on_pairs(vectors, vectors, pairs)["loss"], optimizer)

    return step


def cases(count: int) -> dict[str, Callable[[], Any]]:
    """What is profiled, by name.

    Args:
        count: texts that are encoded.
    """
    texts, labels = banking77()
    drawn = batches(texts, labels, 128, 1)
    encoder, rows = TextEncoder(BACKBONE), list(texts[:count])
    return {
        "training, fp32": on(throughput.ours({"backbone": BACKBONE, "dropout": 0.1}), drawn),
        "training, bf16": on(throughput.half(throughput.ours({"backbone": BACKBONE, "dropout": 0.1})), drawn),
        "frozen tower, sets": sets(),
        "encoding, fp32": partial(encoder.encode, rows),
        "encoding, bf16": partial(encoder.encode, rows, precision="bfloat16"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("benchmarks.engine.profile", description=__doc__)
    parser.add_argument("--texts", type=int, default=600, help="to encode (%(default)s)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    found = {name: shares(work) for name, work in cases(given.texts).items()}
    table = Table("", *found)
    table.add_row("seconds", *(f"{seconds:.2f}" for seconds, _ in found.values()))
    for kind in [*KINDS, OTHER, PYTHON]:
        table.add_row(kind, *(f"{of[kind]:.0%}" for _, of in found.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
