"""Writes the vectors of ``lit-metric predict``, shard by shard."""

from __future__ import annotations

import hashlib
import itertools
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

from lit_metric.batching.loader import BlockDataset, RowDataset
from lit_metric.data import Batch
from lit_metric.data.progress import Pace, stage
from lit_metric.data.rows_to_encode import RowsToEncode
from lit_metric.data.shards import SHARD_ROWS, Shards
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders.description import fingerprint_of
from lit_metric.loggers import list_problems, run_folder
from lit_metric.store import check_room, replacing, write_array

log = logging.getLogger(__name__)


class WriteEmbeddings(BasePredictionWriter):
    """Writes ``predictions.npy`` into the run folder: float32 ``[n, d]``.

    - If the items are all rows of a source, row i is row i of the source, and NaN for a bad row that was
      skipped.
    - If they are some rows of a source, such as a split that is held out or named by a column, vectors are in
      the order of items. ``predictions-rows.npy`` has the row of each, int64, from 0.
    - If they are not rows, such as the queries of judgements, there is no such file.

    The rows of ``data.predict`` are read as they are needed, and never all in memory.

    Items are encoded in shards, which several ranks share out, and which lie in ``predictions.shards`` until
    all are there. So the vectors of one shard are in memory at a time, and a run that was interrupted goes on
    with the missing shards when it is repeated. The folder must be on a disk that all ranks see.

    Args:
        shard_items: items of a shard; of ``data.predict``, rows.
    """

    def __init__(self, shard_items: int = SHARD_ROWS) -> None:
        if shard_items < 1:
            raise ValueError(f"shard_items={shard_items}: a shard has at least one item")
        super().__init__("batch")
        self.shard_items = shard_items
        self._folder: Path | None = None
        self._shards: Shards | None = None
        self._left: deque[tuple[int, int]] = deque()
        self._kept: list[dict[str, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the data module give its items in shards."""
        super().setup(trainer, pl_module, stage)
        data = getattr(trainer, "datamodule", None)
        if stage == "predict" and isinstance(data, MetricDataModule):
            data.predict_loader = partial(self._loader, trainer, data)

    def _loader(self, trainer: Trainer, data: MetricDataModule) -> DataLoader[Batch]:
        """Batches of this rank's share of the shards that are missing. By now the weights are loaded."""
        encoder: Any = trainer.lightning_module.encoder
        self._folder, self._shards, self._kept = run_folder(trainer), None, []
        if (rows := data.rows_to_encode) is not None:
            with stage("checking the rows to encode", trainer.is_global_zero):
                content = rows.survey(self.shard_items, data.problems)
            list_problems(trainer, data.problems)
            sizes = rows.kept
        else:
            self._ids = data.splits[data.predict_split].sort().values
            blocks = self._ids.split(self.shard_items)
            arrays = torch.stack([self._ids, data.items.fingerprints[self._ids]])
            content = hashlib.sha256(arrays.numpy().tobytes()).hexdigest()
            sizes = [len(block) for block in blocks]
        missing = [*range(len(sizes))]
        if self._folder is None:
            log.warning("Nothing is written, because the run has neither a logger nor a folder of its own")
        else:
            job = {
                "model": fingerprint_of(encoder),
                "items": content,
                "precision": str(trainer.precision),
                "shard_items": self.shard_items,
            }
            self._shards = Shards(self._folder / "predictions.shards", job, len(sizes), ".npy")
            if trainer.is_global_zero:
                missing = self._shards.start(anew=True)
                if len(missing) < len(sizes):
                    log.info("%d of %d shards are done already", len(sizes) - len(missing), len(sizes))
            missing = trainer.strategy.broadcast(missing)
        mine = missing[trainer.global_rank :: trainer.world_size]
        self._left = deque((number, sizes[number]) for number in mine if sizes[number])
        self._pace = Pace(
            sum(size for _, size in self._left), "items", trainer.world_size, trainer.is_global_zero
        )
        if rows is None:
            shares = [blocks[number] for number in mine]
            return DataLoader(BlockDataset(data.collator, shares, data.max_tokens), batch_size=None)
        for number in mine:
            if not sizes[number] and self._shards is not None:
                self._write(
                    self._shards, number, torch.empty(0, encoder.dimension), torch.empty(0).long(), rows
                )
        numbers = [number for number, _ in self._left]
        dataset = RowDataset(rows, numbers, encoder.tokenizer, data.max_tokens, trainer.is_global_zero)
        return DataLoader(dataset, batch_size=None)

    @staticmethod
    def _write(shards: Shards, number: int, vectors: Tensor, ids: Tensor, rows: RowsToEncode | None) -> None:
        """Write vectors in the order of their ids, or one for each row of a block, NaN if it was skipped."""
        if rows is None:
            shards.write_array(number, vectors[ids.argsort()].numpy())
            return
        start, stop = rows.starts[number : number + 2]
        whole = np.full((stop - start, vectors.shape[1]), np.nan, np.float32)
        whole[(ids - start).numpy()] = vectors.numpy()
        shards.write_array(number, whole)

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
        number, size = self._left[0]
        if sum(len(kept["ids"]) for kept in self._kept) < size:
            return
        data: Any = getattr(trainer, "datamodule", None)
        encoder: Any = pl_module.encoder
        ids = torch.cat([kept["ids"] for kept in self._kept])
        vectors = torch.cat([kept["embeddings"] for kept in self._kept])
        self._write(self._shards, number, vectors, ids, data.rows_to_encode)
        if data.rows_to_encode is not None:
            encoder.clear_cache()  # the next block has other texts
        self._left.popleft()
        self._kept = []
        self._pace.advance(size)

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
            data.predict_loader = data._predict_loader

    def _assemble(self, data: MetricDataModule, shards: Shards) -> None:
        assert self._folder is not None
        if shards.missing():
            log.warning("Nothing is written, because items are missing: repeat without limit_predict_batches")
            return
        rows: Tensor | None = None
        if data.rows_to_encode is not None:
            starts = data.rows_to_encode.starts
            places = [torch.arange(*each) for each in itertools.pairwise(starts)]
            length, count, whole = starts[-1], sum(data.rows_to_encode.kept), True
        else:
            rows, of_source = data.rows_of(data.predict_split, self._ids)
            whole, count = rows is not None and of_source is not None, len(self._ids)
            length = of_source if whole and of_source is not None else count
            in_order = rows if whole and rows is not None else torch.arange(count)
            places = [*in_order.split(self.shard_items)]
        path = self._folder / "predictions.npy"
        width = np.load(shards.path(0), mmap_mode="r").shape[1]
        check_room(self._folder, 4 * length * width)
        with replacing(path) as unfinished:
            np.lib.format.open_memmap(unfinished, "w+", np.float32, (length, width))
            for start in range(0, length if count < length else 0, self.shard_items):
                np.load(unfinished, mmap_mode="r+")[start : start + self.shard_items] = np.nan
            for number, part in enumerate(
                places
            ):  # mapped anew each time, so that not all of it is in memory
                vectors = np.load(unfinished, mmap_mode="r+")
                vectors[part.numpy()] = np.load(shards.path(number), allow_pickle=False)
                vectors.flush()
                del vectors
        left_out = f"; the other {length - count} rows were skipped, and are NaN" if count < length else ""
        if rows is not None and not whole:
            write_array(self._folder / "predictions-rows.npy", rows.numpy())
            left_out = "; predictions-rows.npy has their rows"
        shards.discard()
        log.info("Wrote %d embeddings to %s%s", count, path, left_out)
