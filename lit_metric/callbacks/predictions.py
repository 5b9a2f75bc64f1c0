"""Keeps what ``lit-metric predict`` computes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from lit_metric.callbacks.run_folder import run_folder
from lit_metric.datamodule import MetricDataModule

log = logging.getLogger(__name__)


class WriteEmbeddings(BasePredictionWriter):
    """Writes ``predictions.npy`` into the run folder: float32 ``[n, d]``, row i is item i of what was
    encoded.

    Each rank of several writes its own file ``predictions-RANK.npy``, and beside it
    ``predictions-RANK-rows.npy``,
    int64: which rows of the whole these are.
    """

    def __init__(self) -> None:
        super().__init__("epoch")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Put the batches' rows in order and write them."""
        data = getattr(trainer, "datamodule", None)
        assert isinstance(data, MetricDataModule)
        ids = torch.cat([batch["ids"] for batch in predictions]).cpu()
        vectors = torch.cat([batch["embeddings"] for batch in predictions]).cpu()
        rows = torch.searchsorted(data.splits[data.predict_split], ids)
        rows, order = rows.sort()
        folder = run_folder(trainer)
        if folder is None:
            log.warning("Nothing is written, as there is no logger and no folder of this run's own")
            return
        folder.mkdir(parents=True, exist_ok=True)
        name = "predictions" if trainer.world_size == 1 else f"predictions-{trainer.global_rank}"
        np.save(folder / f"{name}.npy", vectors[order].numpy(), allow_pickle=False)
        if trainer.world_size > 1:
            np.save(folder / f"{name}-rows.npy", rows.numpy(), allow_pickle=False)
        log.info("Wrote %d embeddings to %s", len(ids), folder / f"{name}.npy")
