"""Mining between epochs, with training stopped meanwhile."""

from __future__ import annotations

import hashlib
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_metric.callbacks.run_folder import run_folder
from lit_metric.datamodule import MetricDataModule
from lit_metric.evaluation import encode_split
from lit_metric.losses import gather_with_grad
from lit_metric.mining import NegativeTable, TableError, collect

log = logging.getLogger(__name__)


class MiningCallback(Callback):
    """Keeps the data module's table of hard negatives fresh; does nothing where it has no miner.

    Before the first batch, and with ``refresh="epoch"`` before that of every other epoch, all ranks encode
    the training items by shares and rank zero mines a new version under ``RUN/negatives``. All batches of an
    epoch take their negatives from it. A checkpoint names it, so that a resumed run goes on with the same,
    and what the checkpoints of this run name is not collected.

    Logs ``mining/seconds`` and what the miner reports: ``mining/rejected/FILTER``, ``mining/without``, ...
    """

    def __init__(self) -> None:
        self.version = 0
        self.epoch = 0
        """The first epoch that it was mined for."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether the checkpoint's table is there, and have the data module ask before each epoch."""
        data = self._data(trainer)
        if data is None:
            return
        data.tables = run_folder(trainer) / "negatives"
        if self.version:
            try:
                NegativeTable.open(data.tables, self.version, data.corpus)
            except TableError as error:
                log.warning("The checkpoint's table of negatives can't be used, so one is mined: %s", error)
                self.version = 0
        data.version_for = partial(self._version_for, trainer, pl_module, data)

    def _version_for(
        self, trainer: Trainer, pl_module: LightningModule, data: MetricDataModule, epoch: int, step: int = 0
    ) -> int:
        """The version for the batches of ``epoch``.

        It is mined when the first of them is asked for, not when the epoch before ends: a run that is resumed
        from the last batch of an epoch never sees that end.
        """
        assert data.miner is not None
        if not self.version or (data.miner.refresh == "epoch" and epoch > self.epoch):
            self.version, self.epoch = self._mine(trainer, pl_module, data), epoch
        return self.version

    def _data(self, trainer: Trainer) -> MetricDataModule | None:
        data = getattr(trainer, "datamodule", None)
        return data if isinstance(data, MetricDataModule) and data.miner is not None else None

    def _mine(self, trainer: Trainer, pl_module: LightningModule, data: MetricDataModule) -> int:
        started = time.perf_counter()
        vectors, ids = self._encode(trainer, pl_module, data)
        version, report = 0, {}
        if trainer.is_global_zero:
            assert data.miner is not None
            assert data.tables is not None
            table = data.miner.mine(vectors, ids, data.relations, data.seed)
            weights = fingerprint(pl_module.encoder)  # type: ignore[arg-type]
            version = table.save(
                data.tables,
                corpus=data.corpus,
                weights=weights,
                step=trainer.global_step,
                epoch=trainer.current_epoch,
            )
            collect(data.tables, keep=named_by_checkpoints(trainer))
            report = {f"mining/{name}": value for name, value in table.report.items()}
        version = trainer.strategy.broadcast(version)
        report["mining/seconds"] = time.perf_counter() - started
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(report, step=trainer.global_step)
        return version

    def _encode(
        self, trainer: Trainer, pl_module: LightningModule, data: MetricDataModule
    ) -> tuple[Tensor, Tensor]:
        """Vectors of all training items in the order of their ids, from all ranks."""
        encoder: Any = pl_module.encoder
        rank, size = trainer.global_rank, trainer.world_size
        with trainer.precision_plugin.forward_context():
            parts = list(encode_split(encoder, data, data.splits["train"], rank, size))
        empty = torch.empty(0, encoder.dimension, device=encoder.device)
        vectors = torch.cat([empty, *(part.float() for part, _ in parts)])
        ids = torch.cat(
            [torch.empty(0, dtype=torch.int64, device=encoder.device), *(part for _, part in parts)]
        )
        with torch.no_grad():
            vectors, ids = gather_with_grad(vectors).cpu(), gather_with_grad(ids).cpu()
        ids, order = ids.sort()
        return vectors[order], ids

    def state_dict(self) -> dict[str, Any]:
        """The version in use."""
        return {"version": self.version, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The version to go on with."""
        self.version, self.epoch = int(state_dict["version"]), int(state_dict["epoch"])


def named_by_checkpoints(trainer: Trainer) -> set[int]:
    """The versions with which a run can be resumed from the checkpoints that there are."""
    folders = {
        Path(folder) for each in trainer.checkpoint_callbacks if (folder := getattr(each, "dirpath", None))
    }
    paths = {path for folder in folders for path in folder.glob("*.ckpt")}
    if trainer.ckpt_path:
        paths.add(Path(trainer.ckpt_path))
    named = set()
    for path in filter(Path.is_file, paths):
        # Mapped, not read: nothing but the small values is looked at.
        states = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("callbacks", {})
        if MiningCallback.__name__ in states:
            named.add(int(states[MiningCallback.__name__]["version"]))
    return named


def fingerprint(module: torch.nn.Module) -> str:
    """A hash of all weights."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
