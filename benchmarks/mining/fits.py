"""Training runs that keep the time of each epoch, in a process of their own, and what they were worth.

    python -m benchmarks.mining.fits --spec SPEC.json --report REPORT.json

Weights are kept in memory as training goes on, and measured when it has ended: an evaluation between two
epochs would give the mining process time that nobody counts.
"""

from __future__ import annotations

import csv
import resource
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.mining import corpora
from benchmarks.mining.clock import Clock, Kept
from benchmarks.mining.corpora import Corpus
from benchmarks.mining.process import in_process, main_of
from benchmarks.peer import BACKBONE, read
from benchmarks.results import BenchmarkError
from lit_metric.index import Embeddings
from lit_metric.refresh import Refresh

KS = (1, 10, 50)
LEARNING_RATE = 4e-4
MODES = ("none", "free", "scheduled", "inline")


class Runs(NamedTuple):
    """What several runs have in common.

    Args:
        out: the folder to write to.
        common: settings that every result depends on.
        corpus: what is trained on.
        seeds: runs of each kind.
        epochs: of each.
        threads: of the training process.
        delay: batches until a table mined from vectors at hand is used; what ``Refresh`` chooses by itself if
            None. Training leaves a thread to the mining process meanwhile.
        backbone: a pretrained text encoder.
        precision: of Lightning's trainer.
        only: those of ``modes`` to be run, the control among them.
        peer_lr: peak learning rate of the peer's training; its default if None.
        accelerator: of Lightning's trainer.
    """

    out: Path
    common: Mapping[str, Any]
    corpus: Corpus
    seeds: int
    epochs: int
    threads: int
    delay: int | None = None
    backbone: str = BACKBONE
    precision: str = "32-true"
    only: tuple[str, ...] = MODES
    peer_lr: float | None = None
    accelerator: str = "cpu"

    @property
    def soon(self) -> int:
        """``delay``, or what ``Refresh`` with vectors at hand chooses by itself."""
        per_epoch = self.corpus.batches
        return self.delay or Refresh().timetable(per_epoch, 1, reused=self.corpus.texts).delay

    @property
    def kinds(self) -> dict[str, dict[str, Any]]:
        """The arguments of ``Refresh`` by the name of what is compared."""
        # A machine with other work to do may be late: that is to be seen in the numbers, and not given up.
        scheduled = {"mode": "scheduled", "timeout": 3600.0, "reuse_training_embeddings": False}
        return {
            "none": {"mode": "inline", "every": "never"},
            "inline": {"mode": "inline", "every": "epoch"},
            "scheduled": scheduled,
            "free": {**scheduled, "reuse_training_embeddings": True, "delay": self.soon},
            "full": {**scheduled, "delay": self.soon},
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What is told beside the numbers."""
        return {
            **self.corpus.settings,
            "batches": self.corpus.batches,
            "seeds": self.seeds,
            "epochs": self.epochs,
            "threads": self.threads,
            "lr": LEARNING_RATE,
            "backbone": self.backbone,
            "precision": self.precision,
        }

    def check(self) -> None:
        """Raise a BenchmarkError if no table is ever renewed."""
        if self.epochs < 2:
            raise BenchmarkError(
                f"--epochs {self.epochs}: the table is renewed after the first; take 2 or more"
            )


def child(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One run.

    Args:
        spec: see :func:`fit`.
        folder: of the run.

    Returns:
        ``epoch_seconds``, ``epoch_cpu_seconds`` (of the training process) and ``epoch_tokens`` by epoch;
        ``worker_cpu_seconds``; ``cold_start_seconds`` of the first table; ``refreshes``, what was logged of
        each later one; ``alone``, see :func:`alone`, by epoch; ``map@r`` of the test texts among themselves
        by ``step`` and ``seconds``, beginning with the untrained encoder; ``overlaps``, see :func:`overlaps`,
        where they are asked for.
    """
    torch.set_num_threads(spec["threads"])
    pl.seed_everything(spec["seed"], verbose=False)
    clock = Clock(spec["marks"])
    learner, data, trainer = _parts(spec, folder, clock)
    encoder: Any = learner.encoder
    texts, labels = read(spec["test"])
    first = Kept(0, 0.0, {})
    before = map_at_r(encoder.encode, texts, labels)
    children = _children()
    trainer.fit(learner, data)
    children = _children() - children
    torch.set_num_threads(spec["threads"])
    scores = [before]
    for state in clock.kept:
        _load(encoder, state.weights)
        scores.append(map_at_r(encoder.encode, texts, labels))
    moments, batches = [first, *clock.kept], clock.batches[: len(clock.seconds)]
    mining = logged(folder / "metrics.csv")
    return {
        "epoch_seconds": clock.seconds,
        "epoch_cpu_seconds": clock.cpu,
        "epoch_tokens": [sum(tokens for _, tokens in epoch) for epoch in batches],
        "worker_cpu_seconds": children,
        **mining,
        "alone": alone(batches[1:], mining["refreshes"]),
        "map@r": scores,
        "step": [moment.step for moment in moments],
        "seconds": [moment.seconds for moment in moments],
        **({"overlaps": overlaps(clock, encoder, data)} if spec["compare"] else {}),
    }


def alone(
    epochs: Sequence[Sequence[tuple[float, int]]], refreshes: Sequence[Mapping[str, float]]
) -> list[tuple[float, int]]:
    """Seconds and tokens of those batches of each epoch during which nothing was mined, after the delay of
    the refresh at its start; nothing where there is not one in the background for each epoch.

    Example:
        >>> alone([[(3.0, 10), (1.0, 9), (1.0, 8)]], [{"delay": 1.0}])
        [(2.0, 17)]
    """
    if len(refreshes) != len(epochs) or not all("delay" in each for each in refreshes):
        return []
    after = [epoch[int(each["delay"]) :] for epoch, each in zip(epochs, refreshes, strict=True)]
    return [(sum(seconds for seconds, _ in part), sum(tokens for _, tokens in part)) for part in after]


def _parts(spec: Mapping[str, Any], folder: Path, clock: Clock) -> tuple[Any, Any, Trainer]:
    """What is trained, on what, and by whom."""
    from lit_metric import MetricDataModule, MetricLearner, TextEncoder
    from lit_metric.loggers import RunLogger
    from lit_metric.losses import InfoNCELoss
    from lit_metric.mining import Miner

    data = MetricDataModule(
        train=spec["train"],
        validation=spec["test"],
        text="text",
        label="label",
        planner=corpora.planner(spec["kind"], spec["batch"]),
        miner=Miner(),
        refresh=Refresh(**spec["refresh"]),
        seed=spec["seed"],
        cache_dir=str(folder / "cache"),
    )
    encoder = TextEncoder(spec["backbone"], freeze=["embeddings"], dropout=0.0, max_length=64)
    learner = MetricLearner(encoder, InfoNCELoss(0.05), lr=LEARNING_RATE)
    trainer = Trainer(
        accelerator=spec.get("accelerator", "cpu"),
        devices=1,
        max_epochs=spec["epochs"],
        precision=spec["precision"],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        logger=RunLogger(folder.name, str(folder.parent)),
        callbacks=[clock],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return learner, data, trainer


def _children() -> float:
    """The processor's seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _load(encoder: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = dict(encoder.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def map_at_r(encode: Callable[[list[str]], Any], texts: list[str], labels: list[str]) -> float:
    """MAP@R of texts that search each other, leave-one-out.

    Args:
        encode: ``n`` texts to float32 ``[n, d]``.
        texts: ``n``.
        labels: the class of each.
    """
    from lit_metric.data import LabelRelations
    from lit_metric.metrics import NeighbourMetrics

    ids = torch.arange(len(texts))
    metric = NeighbourMetrics(LabelRelations.from_names(labels, ids), ks=(1,), knn=())
    metric.update(torch.from_numpy(encode(texts)), ids)
    return float(metric.compute()["map@r"])


def logged(path: Path) -> dict[str, Any]:
    """What a run logged of its mining.

    Args:
        path: ``metrics.csv`` of the run.

    Returns:
        ``cold_start_seconds`` of the first table; ``refreshes``: the numbers of each later one;
        ``snapshot_seconds`` of all copies of weights.

    Raises:
        BenchmarkError: a refresh was given up.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            {
                name.removeprefix("mining/"): float(value)
                for name, value in row.items()
                if name.startswith("mining/") and value
            }
            for row in csv.DictReader(file)
        ]
    if any(row.get("skipped") for row in rows):
        raise BenchmarkError(f"a refresh was given up, see {path.parent / 'negatives' / 'skipped.json'}")
    tables = [row for row in rows if "seconds" in row]
    return {
        "cold_start_seconds": tables[0]["seconds"],
        "refreshes": tables[1:],
        "snapshot_seconds": [row["snapshot_seconds"] for row in rows if "snapshot_seconds" in row],
    }


@torch.no_grad()
def overlaps(clock: Clock, encoder: Any, data: Any) -> list[dict[str, float]]:
    """How alike the tables that a run used are to those that come of encoding everything anew, with the
    weights of the same step.

    Args:
        clock: of the run; its tables, and its weights at the same steps.
        encoder: takes these weights.
        data: whose training items are mined.

    Returns:
        For each table after the first, by rising step: ``overlap@k``, see :func:`overlap`, ``stale@k`` of the
        table that was mined anew for the step before, and ``step``.
    """
    ids = data.splits["train"].sort().values
    texts = [" ".join(data.texts_of(item)) for item in ids.tolist()]
    weights = {state.step: state.weights for state in clock.kept}
    [first, *later] = sorted(clock.tables)
    before, found = clock.tables[first], []
    for step in later:
        _load(encoder, weights[step])
        anew = data.miner.mine(Embeddings(ids, encoder.encode(texts)), data.relations, data.seed).ids
        row = {"step": float(step)}
        for k in KS:
            row[f"overlap@{k}"] = overlap(clock.tables[step], anew, k)
            row[f"stale@{k}"] = overlap(before, anew, k)
        found.append(row)
        before = anew
    return found


def overlap(table: NDArray[Any], other: NDArray[Any], k: int) -> float:
    """The mean share of the first ``k`` of each row of ``other`` that are among the first ``k`` of the same
    row of ``table``; rows of ``other`` without any are left out.

    Args:
        table, other: ``[N, K]`` ids, -1 behind the last.
        k: at least 1.

    Example:
        >>> import numpy as np
        >>> overlap(np.array([[1, 2, 3], [4, -1, -1]]), np.array([[2, 9, 1], [-1, -1, -1]]), 2)
        0.5
    """
    mine, theirs = table[:, :k], other[:, :k]
    there = theirs >= 0
    found = ((theirs[:, :, None] == mine[:, None, :]).any(axis=2) & there).sum(axis=1)
    rows = there.any(axis=1)
    return float((found[rows] / there[rows].sum(axis=1)).mean()) if rows.any() else float("nan")


def fit(runs: Runs, name: str, refresh: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run, or what ``OUT`` holds of it.

    Args:
        runs: what it has in common with others.
        name: of the kind of run.
        refresh: arguments of ``Refresh``.
        seed: of batches, draws and dropout.

    Returns:
        See :func:`child`, and ``settings``.
    """
    corpus = runs.corpus
    own = {
        **corpus.settings,
        "refresh": dict(refresh),
        "seed": seed,
        "epochs": runs.epochs,
        "threads": runs.threads,
        "backbone": runs.backbone,
        "precision": runs.precision,
        "lr": LEARNING_RATE,
        "compare": name in ("free", "full"),
        "marks": 2 if name == "free" else 1,
    }
    numbers = "" if runs.precision == "32-true" else f"-{runs.precision}"
    label = f"fit-{corpus.name}-{runs.epochs}-epochs{numbers}-{name}-{seed}"
    if runs.accelerator != "cpu":
        own["accelerator"] = runs.accelerator
    spec = {**own, "train": str(corpus.train), "test": str(corpus.test), "kind": corpus.kind}
    return in_process("benchmarks.mining.fits", runs.out, label, {**runs.common, **own}, spec)


def main(arguments: Sequence[str] | None = None) -> None:
    """One run."""
    warnings.filterwarnings("ignore", ".*num_workers.*|.*does not have many workers.*")
    main_of("benchmarks.mining.fits", child, arguments)


if __name__ == "__main__":
    main()
