"""Fits on several ranks, called on each of them; they give back plain tensors and numbers."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_metric import Miner, Refresh
from lit_metric.batching import HardPKPlanner
from lit_metric.callbacks import RunReport, WriteEmbeddings
from lit_metric.losses import InfoNCELoss
from tests.small import Small, Watch, trainer, weights


def fit(root: Path, folder: Path, ranks: int, resume: Path | None = None, **options: Any) -> dict[str, Any]:
    """Train in float64, so that nothing differs but the order of sums.

    Args:
        root: of the small world.
        folder: of the run.
        ranks: 1 trains here, more on each of the ranks that this is called on.
        resume: checkpoint to go on from.
        options: ``hard``: plan by vectors; ``negatives`` for each anchor by mining, ``dropout``,
            ``max_tokens``, ``save`` at this step, ``report``, and what else is an argument of the trainer.

    Returns:
        ``weights``, ``losses`` (this rank's), ``metrics`` as logged last, ``report``.
    """
    quiet()
    small = Small(root)
    negatives, save = options.pop("negatives", 0), options.pop("save", None)
    learner = small.learner(InfoNCELoss(0.2, learnable=True), dropout=options.pop("dropout", 0.0)).double()
    hard = {"planner": HardPKPlanner(4, 3, pool=5)} if options.pop("hard", False) else {}
    data = small.data(
        **hard,
        miner=Miner(top_k=6, negatives=negatives) if negatives else None,
        refresh=Refresh(mode="inline"),
        max_tokens=options.pop("max_tokens", 60),
    )
    watch = Watch()
    callbacks: list[Any] = [watch, RunReport()] if options.pop("report", False) else [watch]
    if save is not None:
        callbacks.append(
            ModelCheckpoint(
                folder, "{step}", auto_insert_metric_name=False, every_n_train_steps=save, save_top_k=-1
            )
        )
    run = trainer(folder, *callbacks, **places(ranks), **options)
    run.fit(learner, data, ckpt_path=resume)
    return {
        "weights": weights(learner),
        "losses": watch.losses,
        "candidates": watch.candidates,
        "metrics": {name: float(value) for name, value in run.callback_metrics.items()},
    }


def evaluate(root: Path, folder: Path, ranks: int, max_tokens: int) -> dict[str, Any]:
    """``test`` and ``predict`` of the untrained encoder."""
    quiet()
    small = Small(root)
    learner = small.learner().double()
    run = trainer(folder, WriteEmbeddings(shard_items=8), **places(ranks))
    run.test(learner, small.data(max_tokens=max_tokens), verbose=False)
    tested = {name: float(value) for name, value in run.callback_metrics.items()}
    run.predict(learner, small.data(max_tokens=max_tokens), return_predictions=False)
    return tested


def places(ranks: int) -> dict[str, Any]:
    """Arguments of a trainer that is one of ``ranks`` processes."""
    if ranks == 1:
        return {}
    os.environ.pop("NODE_RANK", None)
    os.environ["LOCAL_RANK"] = str(dist.get_rank())  # so Lightning knows that others have been started
    return {"devices": ranks, "strategy": "ddp"}


def machines(count: int) -> dict[str, Any]:
    """Arguments of a trainer that is one of ``count`` processes, each on a machine of its own."""
    os.environ["LOCAL_RANK"], os.environ["NODE_RANK"] = "0", str(dist.get_rank())
    return {"devices": 1, "num_nodes": count, "strategy": "ddp"}


def quiet() -> None:
    """In processes of their own nobody captures what is told."""
    if dist.is_initialized():
        warnings.simplefilter("ignore")
        for name in ("lightning.pytorch", "lightning.fabric", "lit_metric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        torch.set_num_threads(1)
