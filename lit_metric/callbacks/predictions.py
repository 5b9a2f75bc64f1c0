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

log = logging.getLogger(__name__)


class WriteEmbeddings(BasePredictionWriter):
    """Writes ``predictions.npy`` into the run folder: float32 ``[n, d]``, row i is item i of the split.

    Each rank of several writes its own file ``predictions-RANK.npy`` beside ``predictions-RANK-rows.npy``.
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
        ids = torch.cat([batch["ids"] for batch in predictions]).cpu()
        vectors = torch.cat([batch["embeddings"] for batch in predictions]).cpu()
        ids, order = ids.sort()
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        name = "predictions" if trainer.world_size == 1 else f"predictions-{trainer.global_rank}"
        np.save(folder / f"{name}.npy", vectors[order].numpy(), allow_pickle=False)
        if trainer.world_size > 1:
            np.save(folder / f"{name}-rows.npy", (ids - int(ids.min())).numpy(), allow_pickle=False)
        log.info("Wrote %d embeddings to %s", len(ids), folder / f"{name}.npy")
