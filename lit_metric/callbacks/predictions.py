"""Writes the vectors of ``lit-metric predict``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from lit_metric.datamodule import MetricDataModule
from lit_metric.loggers import run_folder

log = logging.getLogger(__name__)


class WriteEmbeddings(BasePredictionWriter):
    """Writes ``predictions.npy`` into the run folder: float32 ``[n, d]``.

    - If the items are all rows of a source, row i is row i of the source, and NaN for a bad row that was
      skipped.
    - If they are some rows of a source, such as a split that is held out or named by a column, vectors are in
      the order of items. ``predictions-rows.npy`` has the row of each, int64, from 0.
    - If they are not rows, such as the queries of judgements, there is no such file.

    With several ranks, each writes ``predictions-RANK.npy`` and ``predictions-RANK-rows.npy`` for its share.
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
        ids, order = ids.sort()
        vectors = vectors[order]
        rows, count = data.rows_of(data.predict_split, ids)
        folder = run_folder(trainer)
        if folder is None:
            log.warning("Nothing is written, because the run has neither a logger nor a folder of its own")
            return
        folder.mkdir(parents=True, exist_ok=True)
        name, left_out = "predictions", ""
        if trainer.world_size > 1:
            name = f"predictions-{trainer.global_rank}"
            if rows is None:
                rows = torch.searchsorted(data.splits[data.predict_split], ids)
        elif rows is not None and count is not None:
            whole = vectors.new_full([count, vectors.shape[1]], torch.nan)
            whole[rows] = vectors
            left_out = f"; the other {count - len(ids)} rows were skipped, and are NaN"
            left_out *= len(ids) < count
            vectors, rows = whole, None
        np.save(folder / f"{name}.npy", vectors.numpy(), allow_pickle=False)
        if rows is not None:
            np.save(folder / f"{name}-rows.npy", rows.numpy(), allow_pickle=False)
            left_out = f"; {name}-rows.npy has their rows"
        log.info("Wrote %d embeddings to %s%s", len(ids), folder / f"{name}.npy", left_out)
