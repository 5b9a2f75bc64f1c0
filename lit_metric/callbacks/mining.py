"""Passes the hooks of training to the refresher of the table of hard negatives."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_metric.data import Batch
from lit_metric.datamodule import MetricDataModule
from lit_metric.evaluation import encode_split
from lit_metric.loggers import run_folder
from lit_metric.mining.texts import text_of_items
from lit_metric.refresh import Refresher, TrainingRun


class MiningCallback(Callback):
    """Starts the refresher of the data module before the first batch, notifies it of each batch, and ends it.

    It does nothing where the data module has no miner. Checkpoints hold the refresher's state; see
    :class:`~lit_metric.Refresh` and :class:`~lit_metric.refresh.Refresher`.

    Logs ``mining/seconds``, what the miner reports (``mining/rejected/FILTER``, ``mining/without``, ...) and
    ``mining/staleness``, the number of batches since the weights of the table in use; of refreshes in the
    background also ``mining/stall_seconds`` (training waited), ``mining/snapshot_seconds``,
    ``mining/delay``, ``mining/overlap`` (with the table before), ``mining/encoded`` (the share of items that
    was encoded for it), ``mining/restarts`` and ``mining/skipped``.
    """

    def __init__(self) -> None:
        self.refresher: Refresher | None = None
        self._saved: dict[str, Any] = {}
        self._temporary: TemporaryDirectory[str] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the refresher, and its worker if there is to be one."""
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, MetricDataModule) or data.miner is None:
            return
        folder = run_folder(trainer)
        if folder is None:  # a run that writes nothing has its tables removed when it ends
            self._temporary = TemporaryDirectory(prefix="lit-metric-") if trainer.is_global_zero else None
            folder = Path(trainer.strategy.broadcast(self._temporary.name if self._temporary else ""))
        encoder: Any = pl_module.encoder
        shown = "encoding items to mine negatives" if trainer.progress_bar_callback is not None else None
        ranks = trainer.global_rank, trainer.world_size

        def encode(ids: Tensor) -> list[tuple[Tensor, Tensor]]:
            with trainer.precision_plugin.forward_context():
                return list(encode_split(encoder, data, ids, *ranks, shown))

        def log(values: dict[str, float]) -> None:
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    named = {f"mining/{name}": value for name, value in values.items()}
                    logger.log_metrics(named, trainer.global_step)

        run = TrainingRun(
            encoder=encoder,
            folder=folder,
            per_epoch=batches_of_epoch(trainer, data),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            nodes=trainer.num_nodes,
            encode=encode,
            texts=partial(text_of_items, data.items, data.vocabulary),
            position=lambda: (trainer.global_step, trainer.current_epoch),
            log=log,
            broadcast=trainer.strategy.broadcast,
            saved=lambda: self.saved_states(trainer),
            autocast={"bf16-mixed": "bfloat16", "16-mixed": "float16"}.get(str(trainer.precision)),
            trial=bool(getattr(trainer, "fast_dev_run", False)),
        )
        self.refresher = data.start_refresher(run, self._saved)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Log how old the table is, and share out the threads."""
        if self.refresher is not None:
            number = self.refresher.timetable.batch(trainer.current_epoch, batch_idx)
            if (age := self.refresher.staleness(number)) is not None:
                pl_module.log("mining/staleness", float(age), batch_size=1)
            self.refresher.share_threads(number)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Notify the refresher of the batch."""
        if self.refresher is not None:
            number = self.refresher.timetable.batch(trainer.current_epoch, batch_idx)
            self.refresher.after_batch(number, batch.item_ids, outputs["vectors"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the worker: evaluations to come should have the machine for themselves."""
        if self.refresher is not None:
            self.refresher.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the worker."""
        if self.refresher is not None:
            self.refresher.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the worker, even after a failure, and remove its files."""
        if self.refresher is not None:
            self.refresher.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def state_dict(self) -> dict[str, Any]:
        """The refresher's state."""
        return self._saved if self.refresher is None else self.refresher.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the refresher can resume from it."""
        self._saved = state_dict

    def saved_states(self, trainer: Trainer) -> list[dict[str, Any]]:
        """What this callback saved in the checkpoints that there are."""
        folders = {
            Path(folder)
            for each in trainer.checkpoint_callbacks
            if (folder := getattr(each, "dirpath", None))
        }
        paths = {path for folder in folders for path in folder.glob("*.ckpt")}
        if trainer.ckpt_path:
            paths.add(Path(trainer.ckpt_path))
        states = []
        for path in filter(Path.is_file, paths):
            # Mapped, not read: nothing but the small values is looked at.
            callbacks = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get(
                "callbacks", {}
            )
            if self.state_key in callbacks:
                states.append(callbacks[self.state_key])
        return states


def batches_of_epoch(trainer: Trainer, data: MetricDataModule) -> int:
    """Batches of an epoch that are trained on."""
    batches, limit = data.batches_per_epoch, trainer.limit_train_batches
    return max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))
