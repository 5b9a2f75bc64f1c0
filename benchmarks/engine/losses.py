"""Losses alone, forward and backward, beside pytorch-metric-learning: time, and memory at the peak.

Embeddings of 384 components, four of each class, every one an anchor and a candidate of all others. Each
loss that both libraries have is compared, with the same arguments; ``tests/peers`` shows that the values
agree.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.engine.measures import OURS, compared, growth, in_turn, measured
from benchmarks.results import BenchmarkError
from lit_metric import losses
from lit_metric.losses import LossContext, ProxyLoss

PEER = "pytorch-metric-learning"
DIMENSION = 384
PER_CLASS = 4
FEWER = {"InfoNCE": 256}
"""Embeddings at most, where the peer compares every positive pair with every negative pair of the batch: at
2,048 embeddings that takes more than 100 GB."""
ByLabels = Callable[[Tensor, Tensor], Tensor]


def contenders(classes: int) -> dict[str, tuple[ByLabels, ByLabels]]:
    """Ours and the peer's by the name of the loss, both with embeddings and labels as arguments.

    Args:
        classes: how many; those with proxies learn them.

    Raises:
        BenchmarkError: pytorch-metric-learning is missing.
    """
    try:
        from pytorch_metric_learning import losses as peer
        from pytorch_metric_learning.distances import CosineSimilarity
        from pytorch_metric_learning.miners import BatchHardMiner, MultiSimilarityMiner
        from pytorch_metric_learning.reducers import MeanReducer
    except ImportError as error:
        raise BenchmarkError(f"{error}: pip install pytorch-metric-learning") from error

    def mined(loss: Any, miner: Any) -> ByLabels:
        return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))

    cosine, mean = CosineSimilarity(), MeanReducer()
    triplets = peer.TripletMarginLoss(0.2, distance=cosine, reducer=mean)
    both: dict[str, tuple[nn.Module, Any]] = {
        "InfoNCE": (losses.InfoNCELoss(0.1), peer.NTXentLoss(0.1)),
        "SupCon": (losses.InfoNCELoss(0.1, positives_in_denominator=True), peer.SupConLoss(0.1)),
        "NCA": (losses.NCALoss(0.1), peer.NCALoss(10, distance=cosine)),
        "multi-similarity": (
            losses.MultiSimilarityLoss(2, 50, 0.5, 0.1),
            mined(peer.MultiSimilarityLoss(2, 50, 0.5), MultiSimilarityMiner(0.1)),
        ),
        "circle": (losses.CircleLoss(0.4, 80.0), peer.CircleLoss(0.4, 80)),
        "lifted structure": (
            losses.LiftedStructureLoss(1.0, normalize=True),
            peer.GeneralizedLiftedStructureLoss(1),
        ),
        "contrastive": (losses.ContrastiveLoss(1.0), peer.ContrastiveLoss(0, 1)),
        "triplet, hard": (
            losses.TripletLoss(0.2, "hard"),
            mined(triplets, BatchHardMiner(distance=cosine)),
        ),
        "triplet, all": (losses.TripletLoss(0.2), triplets),
        "angular": (losses.AngularLoss(40.0), peer.AngularLoss(40)),
        "proxy anchor": (
            losses.ProxyAnchorLoss(0.1, 32.0),
            peer.ProxyAnchorLoss(classes, DIMENSION, 0.1, 32),
        ),
        "proxy NCA": (losses.ProxyNCALoss(1.0), peer.ProxyNCALoss(classes, DIMENSION, softmax_scale=1)),
        "SoftTriple": (losses.SoftTripleLoss(10), peer.SoftTripleLoss(classes, DIMENSION, 10)),
    }
    counts = torch.full((classes,), PER_CLASS)
    for loss, _ in both.values():
        if isinstance(loss, ProxyLoss):
            loss.setup(LossContext(DIMENSION, counts))
    return {name: (partial(by_labels, loss), theirs) for name, (loss, theirs) in both.items()}


def by_labels(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> Tensor:
    """One of our losses."""
    value: Tensor = loss(embeddings, labels=labels)
    return value


def batch(rows: int) -> tuple[Tensor, Tensor]:
    """Embeddings ``[rows, DIMENSION]`` near the centres of their classes, and labels ``[rows]``, shuffled."""
    draw = torch.Generator().manual_seed(0)
    labels = (torch.arange(rows) // PER_CLASS)[torch.randperm(rows, generator=draw)]
    centres = torch.randn(rows // PER_CLASS + 1, DIMENSION, generator=draw)
    embeddings = centres[labels] + 2 * torch.randn(rows, DIMENSION, generator=draw)
    return embeddings.requires_grad_(), labels


def both_ways(loss: ByLabels, embeddings: Tensor, labels: Tensor) -> None:
    """Forward and backward."""
    embeddings.grad = None
    loss(embeddings, labels).backward()


@contextmanager
def peak(found: list[float]) -> Iterator[None]:
    """Append the MiB by which the resident memory of this process has grown at its peak within the block.

    Raises:
        BenchmarkError: the system isn't Linux, which alone lets a process forget an earlier peak.
    """
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(name: str) -> float:
        line = next(each for each in status.read_text().splitlines() if each.startswith(f"{name}:"))
        return int(line.split()[1]) / 1024

    if not forget.exists():
        raise BenchmarkError("the memory of losses is measured on Linux only")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    forget.write_text("5")
    before = read("VmRSS")
    yield
    found.append(max(read("VmHWM") - before, 0.0))


def times(name: str, sizes: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Milliseconds at the largest of ``sizes``, and how they grow."""
    curves: dict[str, dict[int, float]] = {OURS: {}, PEER: {}}
    for rows in sizes:
        pair = contenders(rows // PER_CLASS)[name]
        given = batch(rows)
        work = {who: partial(both_ways, loss, *given) for who, loss in zip(curves, pair, strict=True)}
        seconds = in_turn(work, rounds)
        for who, values in seconds.items():
            curves[who][rows] = statistics.median(values)
    milliseconds = {who: [1000 * each for each in seconds[who]] for who in curves}
    return {
        **compared(milliseconds[OURS], milliseconds[PEER], target=1.0, higher=False),
        "growth": growth("embeddings", "seconds", curves),
    }


def memory(name: str, sizes: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """MiB at the peak, beyond what was there before, at the largest of ``sizes``, and how they grow."""
    curves: dict[str, dict[int, float]] = {OURS: {}, PEER: {}}
    for rows in sizes:
        pair, given = contenders(rows // PER_CLASS)[name], batch(rows)
        peaks: dict[str, list[float]] = {who: [] for who in curves}
        for turn in range(rounds + 1):
            for found, loss in zip(peaks.values(), pair, strict=True):
                with peak(found):
                    both_ways(loss, *given)
                if not turn:
                    found.clear()
        for who, found in peaks.items():
            curves[who][rows] = max(statistics.median(found), 0.01)
    return {
        **compared(peaks[OURS], peaks[PEER], target=1.0, higher=False),
        "growth": growth("embeddings", "MiB", curves),
    }


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """Time and memory of each loss; see the module.

    Args:
        out: the folder of results.
        quick: 128 embeddings in place of 2,048.
    """
    largest, rounds = (128, 1) if quick else (2048, 5)
    ways: Mapping[str, tuple[str, Any]] = {"ms": ("time", times), "MiB": ("memory", memory)}
    results = []
    for loss in contenders(classes=2):
        most = min(largest, FEWER.get(loss, largest))
        sizes = (most // 4, most // 2, most)
        for unit, (what, way) in ways.items():
            settings = {
                "both": {"rows": sizes, "dimension": DIMENSION, "rounds": rounds, "of_class": PER_CLASS}
            }
            title = f"loss {loss}, {sizes[-1]:,} x {sizes[-1]:,}: {unit}"
            file = f"loss-{loss.lower().replace(', ', '-').replace(' ', '-')}-{what}"
            results.append(measured(out, file, title, settings, partial(way, loss, sizes, rounds)))
    return results
