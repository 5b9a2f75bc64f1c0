"""What a run tells the process that mines for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lit_metric.callbacks.mining_inline import items_to_mine, tokenizer_of
from lit_metric.datamodule import MetricDataModule
from lit_metric.mining.task import Settings, Task


def describe(trainer: Trainer, pl_module: LightningModule, data: MetricDataModule, folder: Path) -> Task:
    """What a worker for this run must be told.

    Raises:
        TypeError: if the encoder, the miner or the relations can't be described.
    """
    encoder: Any = pl_module.encoder
    miner, refresh = data.miner, data.refresh
    assert miner is not None
    types = {value.dtype for value in encoder.parameters()}
    ids, anchors, corpus = items_to_mine(data)
    autocast = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}.get(str(trainer.precision))
    device = torch.device(refresh.device or encoder.device)
    if device.type == "cpu" != encoder.device.type:
        autocast = None  # what is fast on the GPU that trains may be slow here
    return Task.of(
        encoder,
        miner,
        items=data.items,
        tokens=data.collator.tokens,
        relations=data.relations,
        ids=ids,
        anchors=anchors,
        proposed=corpus,
        settings=Settings(
            tables=str(folder.resolve()),
            corpus=data.corpus,
            tokenizer=tokenizer_of(pl_module),
            seed=data.seed,
            max_tokens=data.max_tokens,
            threads=refresh.threads or max(1, torch.get_num_threads() // 2),
            device=str(device),
            autocast=autocast,
            dtype=str(types.pop()).removeprefix("torch.") if len(types) == 1 else None,
            parent=os.getpid(),
            vectors=data.planner.uses_vectors,
            machine=trainer.node_rank,
        ),
    )
