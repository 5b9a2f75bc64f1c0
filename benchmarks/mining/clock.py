"""Keeps the times of a run, and what it was at these times."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor


class Kept(NamedTuple):
    """The state of a run at one moment.

    Args:
        step: steps trained.
        seconds: of training since the first batch, with all that it waited for.
        weights: of what is trained.
    """

    step: int
    seconds: float
    weights: dict[str, Tensor]


class Clock(Callback):
    """Keeps times and tokens, weights and tables of a run.

    Args:
        marks: how often in an epoch weights are kept, evenly spread; the last time at its end.
    """

    def __init__(self, marks: int = 1) -> None:
        self.marks = marks
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        self.batches: list[list[tuple[float, int]]] = []
        """Seconds and tokens of each batch of each epoch, with what was waited for before it."""
        self.kept: list[Kept] = []
        self.tables: dict[int, NDArray[np.int32]] = {}
        """Candidates ``[N, K]`` of each table that an epoch ended with, by the step of its weights."""
        self._aside = 0.0
        self._began: tuple[float, float] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock at the first batch of all, when the first table is there."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()
            self.batches.append([])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch's time and tokens, and weights within an epoch."""
        assert self._began is not None
        so_far = time.perf_counter() - self._began[0] - self._aside
        before = sum(seconds for seconds, _ in self.batches[-1])
        self.batches[-1].append((so_far - before, len(batch.tokens.values)))
        batches = int(trainer.num_training_batches)
        done = batch_idx + 1
        if done < batches and done * self.marks // batches > batch_idx * self.marks // batches:
            self._keep(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch's time, the weights and the table, and start the next one."""
        assert self._began is not None
        wall, cpu = self._began
        self.seconds.append(time.perf_counter() - wall - self._aside)
        self.cpu.append(time.process_time() - cpu)
        self._aside = 0.0
        self._began = time.perf_counter(), time.process_time()
        self.kept.append(Kept(trainer.global_step, sum(self.seconds), _copy(pl_module)))
        self._keep_table(trainer)
        self.batches.append([])
        self._began = time.perf_counter(), time.process_time()

    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._began is not None
        now = time.perf_counter()
        seconds = sum(self.seconds) + now - self._began[0] - self._aside
        self.kept.append(Kept(trainer.global_step, seconds, _copy(pl_module)))
        self._aside += time.perf_counter() - now

    def _keep_table(self, trainer: Trainer) -> None:
        refresher = trainer.datamodule.refresher  # type: ignore[attr-defined]
        table = refresher.task.open(refresher.version(refresher.trained - 1), verify=False)
        self.tables[int(table.manifest["step"])] = np.array(table.ids)


def _copy(module: LightningModule) -> dict[str, Tensor]:
    return {
        name: value.detach().cpu().clone()
        for name, value in module.encoder.named_parameters()  # type: ignore[union-attr]
        if value.requires_grad
    }
