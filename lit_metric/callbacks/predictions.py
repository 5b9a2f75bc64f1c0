"""Writes the vectors of ``lit-metric predict``, shard by shard."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader

from lit_metric.batching.loader import BlockDataset
from lit_metric.data import Batch
from lit_metric.data.progress import Pace
from lit_metric.data.shards import Shards
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders.description import fingerprint_of
from lit_metric.loggers import run_folder
from lit_metric.store import check_room, replacing, write_array

log = logging.getLogger(__name__)


class WriteEmbeddings(BasePredictionWriter):
    """Writes ``predictions.npy`` into the run folder: float32 ``[n, d]``.

    - If the items are all rows of a source, row i is row i of the source, and NaN for a bad row that was
      skipped.
    - If they are some rows of a source, such as a split that is held out or named by a column, vectors are in
      the order of items. ``predictions-rows.npy`` has the row of each, int64, from 0.
    - If they are not rows, such as the queries of judgements, there is no such file.

    Items are encoded in shards, which several ranks share out, and which lie in ``predictions.shards`` until
    all are there. So the vectors of one shard are in memory at a time, and a run that was interrupted goes on
    with the missing shards when it is repeated. The folder must be on a disk that all ranks see.

    Args:
        shard_items: items of a shard.
    """

    def __init__(self, shard_items: int = 32768) -> None:
        if shard_items < 1:
            raise ValueError(f"shard_items={shard_items}: a shard has at least one item")
        super().__init__("batch")
        self.shard_items = shard_items
        self._folder: Path | None = None
        self._shards: Shards | None = None
        self._blocks: deque[tuple[int, Tensor]] = deque()
        self._kept: list[dict[str, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the data module give its items in shards."""
        super().setup(trainer, pl_module, stage)
        data = getattr(trainer, "datamodule", None)
        if stage == "predict" and isinstance(data, MetricDataModule):
            data.predict_loader = partial(self._loader, trainer, data)

    def _loader(self, trainer: Trainer, data: MetricDataModule, ids: Tensor) -> DataLoader[Batch]:
        """Batches of this rank's share of the shards that are missing. By now the weights are loaded."""
        self._ids = ids.sort().values
        self._folder, self._shards, self._kept = run_folder(trainer), None, []
        blocks = self._ids.split(self.shard_items)
        missing = [*range(len(blocks))]
        if self._folder is None:
            log.warning("Nothing is written, because the run has neither a logger nor a folder of its own")
        else:
            encoder: Any = trainer.lightning_module.encoder
            content = torch.stack([self._ids, data.items.fingerprints[self._ids]])
            job = {
                "model": fingerprint_of(encoder),
                "items": hashlib.sha256(content.numpy().tobytes()).hexdigest(),
                "precision": str(trainer.precision),
                "shard_items": self.shard_items,
            }
            self._shards = Shards(self._folder / "predictions.shards", job, len(blocks), ".npy")
            if trainer.is_global_zero:
                missing = self._shards.start(anew=True)
                if len(missing) < len(blocks):
                    log.info("%d of %d shards are done already", len(blocks) - len(missing), len(blocks))
            missing = trainer.strategy.broadcast(missing)
        mine = missing[trainer.global_rank :: trainer.world_size]
        self._blocks = deque((number, blocks[number]) for number in mine)
        total = sum(len(blocks[number]) for number in mine)
        self._pace = Pace(total, "items", trainer.world_size, trainer.is_global_zero)
        shares = [block for _, block in self._blocks]
        dataset = BlockDataset(data.collator, shares, data.max_tokens)
        return DataLoader(dataset, batch_size=None)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write a shard when its last batch is encoded."""
        if self._shards is None:
            return
        self._kept.append({name: value.cpu() for name, value in prediction.items()})
        number, block = self._blocks[0]
        if sum(len(kept["ids"]) for kept in self._kept) < len(block):
            return
        ids = torch.cat([kept["ids"] for kept in self._kept])
        vectors = torch.cat([kept["embeddings"] for kept in self._kept])[ids.argsort()].numpy()
        self._shards.write_array(number, vectors)
        self._blocks.popleft()
        self._kept = []
        self._pace.advance(len(block))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the shards together."""
        trainer.strategy.barrier()
        data = getattr(trainer, "datamodule", None)
        if self._shards is not None and trainer.is_global_zero and isinstance(data, MetricDataModule):
            self._assemble(data, self._shards)
        trainer.strategy.barrier()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the data module be used by others."""
        data = getattr(trainer, "datamodule", None)
        if stage == "predict" and isinstance(data, MetricDataModule):
            data.predict_loader = data.encoding_loader

    def _assemble(self, data: MetricDataModule, shards: Shards) -> None:
        assert self._folder is not None
        if shards.missing():
            log.warning("Nothing is written, because items are missing: repeat without limit_predict_batches")
            return
        rows, count = data.rows_of(data.predict_split, self._ids)
        whole = rows is not None and count is not None
        places = rows if rows is not None and whole else torch.arange(len(self._ids))
        length = count if count is not None and whole else len(self._ids)
        path, left_out = self._folder / "predictions.npy", ""
        width = np.load(shards.path(0), mmap_mode="r").shape[1]
        check_room(self._folder, 4 * length * width)
        with replacing(path) as unfinished:
            vectors = np.lib.format.open_memmap(unfinished, "w+", np.float32, (length, width))
            if len(places) < length:
                vectors[:] = np.nan
                left_out = f"; the other {length - len(places)} rows were skipped, and are NaN"
            for number, part in enumerate(places.split(self.shard_items)):
                vectors[part.numpy()] = np.load(shards.path(number), allow_pickle=False)
            vectors.flush()
        if rows is not None and not whole:
            write_array(self._folder / "predictions-rows.npy", rows.numpy())
            left_out = "; predictions-rows.npy has their rows"
        shards.discard()
        log.info("Wrote %d embeddings to %s%s", len(self._ids), path, left_out)
