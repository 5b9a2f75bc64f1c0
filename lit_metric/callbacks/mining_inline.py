"""Mining while training waits, all ranks together."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_metric.data.progress import stage
from lit_metric.datamodule import MetricDataModule
from lit_metric.evaluation import encode_split
from lit_metric.index import Embeddings
from lit_metric.losses import gather_with_grad
from lit_metric.mining.snapshot import fingerprint


def items_to_mine(data: MetricDataModule) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Which items are encoded, which of them get negatives, and which may be negatives.

    Returns:
        Rising ids; the anchors, and what they are compared with. The last two are None where all of the
        training items are both.
    """
    assert data.dataset is not None
    anchors, name = data.splits["train"], data.dataset.corpus_of("train")
    if name is None:
        return anchors.sort().values, None, None
    return torch.cat([anchors, data.splits[name]]).unique(), anchors, data.splits[name]


def tokenizer_of(pl_module: LightningModule) -> str:
    """32 hexadecimal digits that differ whenever the tokenizer does."""
    encoder: Any = pl_module.encoder
    return hashlib.sha256(encoder.tokenizer.fingerprint.encode()).hexdigest()[:32]


def mine_inline(trainer: Trainer, pl_module: LightningModule, data: MetricDataModule) -> dict[str, Any]:
    """Encode by shares, mine on rank zero.

    Returns:
        ``version`` on all ranks; on rank zero also ``report``.
    """
    ids, anchors, corpus = items_to_mine(data)
    embeddings = _encode(trainer, pl_module, data, ids)
    version, report = 0, {}
    if trainer.is_global_zero:
        assert data.miner is not None
        assert data.tables is not None
        with stage("searching negatives"):
            table = data.miner.mine(embeddings, data.relations, data.seed, anchors, corpus)
        weights = fingerprint(pl_module.encoder)  # type: ignore[arg-type]
        version = table.save(
            data.tables,
            corpus=data.corpus,
            tokenizer=tokenizer_of(pl_module),
            weights=weights,
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            vectors=embeddings if data.planner.uses_vectors else None,
        )
        report = dict(table.report)
    return {"version": trainer.strategy.broadcast(version), "report": report}


def _encode(trainer: Trainer, pl_module: LightningModule, data: MetricDataModule, ids: Tensor) -> Embeddings:
    """Vectors of the items in the order of their ids, from all ranks."""
    encoder: Any = pl_module.encoder
    rank, size = trainer.global_rank, trainer.world_size
    with trainer.precision_plugin.forward_context():
        shown = "encoding items to mine negatives" if trainer.progress_bar_callback is not None else None
        parts = list(encode_split(encoder, data, ids, rank, size, shown))
    empty = torch.empty(0, encoder.dimension, device=encoder.device)
    vectors = torch.cat([empty, *(part.float() for part, _ in parts)])
    found = torch.cat(
        [torch.empty(0, dtype=torch.int64, device=encoder.device), *(part for _, part in parts)]
    )
    with torch.no_grad():
        vectors, found = gather_with_grad(vectors).cpu(), gather_with_grad(found).cpu()
    found, order = found.sort()
    return Embeddings(found, vectors[order])
