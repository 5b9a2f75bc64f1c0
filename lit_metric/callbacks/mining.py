"""Mining between epochs, with training stopped meanwhile."""

from __future__ import annotations

import hashlib
import logging
import time
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

    The first table is mined before the first batch. At the end of each epoch (with ``refresh="epoch"``) all
    ranks encode the training items by shares and rank zero mines a new version under ``RUN/negatives``.
    Batches of an epoch take their negatives from the version that was there when it began, and a checkpoint
    names it, so that a resumed run goes on with the same.

    Logs ``mining/seconds`` and what the miner reports: ``mining/rejected/FILTER``, ``mining/without``, ...
    """

    def __init__(self) -> None:
        self.version = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the checkpoint's table, or mine the first one."""
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
        if self.version:
            data.table_version = self.version
        else:
            self._mine(trainer, pl_module, data)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mine a new version for the next epoch, if there is one."""
        data = self._data(trainer)
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs > 0
        if data is not None and data.miner is not None and data.miner.refresh == "epoch" and not last:
            self._mine(trainer, pl_module, data)

    def _data(self, trainer: Trainer) -> MetricDataModule | None:
        data = getattr(trainer, "datamodule", None)
        return data if isinstance(data, MetricDataModule) and data.miner is not None else None

    def _mine(self, trainer: Trainer, pl_module: LightningModule, data: MetricDataModule) -> None:
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
            # The one in use is named by checkpoints of this epoch.
            collect(data.tables, keep=[self.version] if self.version else [])
            report = {f"mining/{name}": value for name, value in table.report.items()}
        self.version = data.table_version = trainer.strategy.broadcast(version)
        report["mining/seconds"] = time.perf_counter() - started
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(report, step=trainer.global_step)

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
        return {"version": self.version}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The version to go on with."""
        self.version = int(state_dict["version"])


def fingerprint(module: torch.nn.Module) -> str:
    """A hash of all weights."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
