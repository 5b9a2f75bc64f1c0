"""Fits whose negatives are mined by a process of its own; also to be started, and killed, as a process.

python -m tests.refresh.fits SMALL FOLDER '{"resume": "7.ckpt", "save": 7}'
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from subprocess import Popen
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_metric import MetricDataModule, MetricLearner, Miner, Refresh
from lit_metric.callbacks import MiningCallback
from lit_metric.data import Batch
from lit_metric.encoders.pretrained import fingerprint
from lit_metric.loggers import RunLogger
from lit_metric.mining import NegativeTable
from lit_metric.refresh import client
from tests import forked
from tests.refresh import faulty
from tests.small import Small, Watch, trainer

EPOCH = 5
"""Batches of an epoch, and of a refresh period."""
DELAY = 3


def version_at(batch: int) -> int:
    """Which version a batch uses if every refresh does well: the second from batch 8 on, a third from 13."""
    return 1 + max(0, (batch - DELAY) // EPOCH)


class Tables(pl.Callback):
    """Opens the tables as they come into use, and draws from them what each batch should have met."""

    def __init__(self) -> None:
        self.opened: dict[int, NegativeTable] = {}
        self.versions: list[int] = []
        self.drawn: list[list[int]] = []
        self.threads: list[int] = []
        self.weights: dict[int, str] = {}
        self.states: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        data: MetricDataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert data.miner is not None
        assert data.refresher is not None
        epoch = trainer.current_epoch
        number = epoch * EPOCH + batch_idx
        if number % EPOCH == 0:
            self.weights[number] = fingerprint(pl_module.encoder)
            self.states[number] = {name: value.clone() for name, value in pl_module.state_dict().items()}
        version = data.refresher.version(number)
        if version and version not in self.opened:
            self.opened[version] = data.refresher.task.open(version)
        self.versions.append(version)
        self.threads.append(torch.get_num_threads())
        plan = data.planner.plan(data.splits["train"], data.relations, data.seed, epoch)
        drawn = torch.empty(0, dtype=torch.int64)
        if version:
            drawn = self.opened[version].draw(
                data.miner.draw,
                data.miner.negatives,
                batch.anchor_ids,
                data.relations,
                data.seed,
                epoch,
                batch_idx,
            )
        self.drawn.append(sorted({*plan.candidates[batch_idx].tolist(), *drawn[drawn >= 0].tolist()}))


@dataclass
class Fit:
    """What became of a fit."""

    weights: str
    learner: MetricLearner
    data: MetricDataModule
    watch: Watch
    tables: Tables
    folder: Path
    refresher: Any

    @property
    def negatives(self) -> Path:
        return self.folder / "run" / "negatives"


class Pause(pl.Callback):
    """Says at which batch training is, and then waits a little, so that it can be killed there."""

    def __init__(self, batch: int, folder: Path) -> None:
        self.batch = batch
        self.mark = folder / "paused"

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if trainer.current_epoch * EPOCH + batch_idx == self.batch:
            self.mark.touch()
            time.sleep(600)


def fit(small: Small, folder: Path, **options: Any) -> Fit:
    """Three epochs with dropout.

    Args:
        small: the small world.
        folder: of the run.
        options: ``resume`` from this checkpoint, ``save`` after this number of steps, ``pause`` at this
            batch, ``workers``, ``prefetch``, ``epochs``, ``callbacks``, ``places``, ``learner``,
            ``max_tokens``, and arguments of the miner and of ``Refresh``; ``interpreter`` starts one for the
            miner, which otherwise is a fork.
    """
    resume, save, pause = (options.pop(name, None) for name in ("resume", "save", "pause"))
    workers, prefetch = options.pop("workers", 0), options.pop("prefetch", 1)
    epochs = options.pop("epochs", 3)
    callbacks: list[Any] = options.pop("callbacks", [])
    places, interpreter = options.pop("places", {}), options.pop("interpreter", False)
    encoded = {"max_tokens": options.pop("max_tokens")} if "max_tokens" in options else {}
    learner = options.pop("learner", None) or small.learner(dropout=0.1)
    usual = {"top_k": 6, "negatives": 2, "delay": DELAY, "reuse_training_embeddings": False}
    miner, refresh = split({**usual, **options})
    data = small.data(miner=miner, refresh=refresh, num_workers=workers, prefetch_factor=prefetch, **encoded)
    watch, tables = Watch(), Tables()
    callbacks = [MiningCallback(), watch, tables, *callbacks]  # it sets the threads that Tables notes
    if save is not None:
        saving = {"every_n_train_steps": save, "save_top_k": -1, "auto_insert_metric_name": False}
        callbacks.append(ModelCheckpoint(folder / "checkpoints", "{step}", **saving))
    if pause is not None:
        callbacks.append(Pause(pause, folder))
    logger = RunLogger("run", str(folder))
    run = trainer(folder, *callbacks, max_epochs=epochs, logger=logger, log_every_n_steps=1, **places)
    with mock.patch.object(client, "Popen", Popen if interpreter else forked.popen):
        run.fit(learner, data, ckpt_path=None if resume is None else folder / "checkpoints" / resume)
    return Fit(fingerprint(learner), learner, data, watch, tables, folder, data.refresher)


def split(options: dict[str, Any]) -> tuple[Miner, Refresh]:
    """A miner and the times at which it mines, out of the arguments of both."""
    names = {each.name for each in fields(Refresh)}
    times = {name: value for name, value in options.items() if name in names}
    return Miner(**{name: value for name, value in options.items() if name not in names}), Refresh(**times)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of the files that make a table."""
    names = ("anchors", "ids", "scores", "positives")
    return {name: hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest() for name in names}


def children(pid: int) -> set[int]:
    """The living processes that descend from ``pid``."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if stat[0] != "Z":
            parents[int(folder.name)] = int(stat[1])
    found, before = {pid}, 0
    while len(found) > before:
        before = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


def main() -> None:
    """Fit, and write down with which weights it ended."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if faulty.VARIABLE in os.environ:
        faulty.arm_from_environment()
    root, folder, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    done = fit(Small(root), folder, **options)
    (folder / "weights").write_text(done.weights)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
