"""A fit within this process that comes out as one in a process of its own would.

Many short fits in one process save what each would spend on imports, and on passing the same texts through
a frozen tower. The tower of a config is kept, with what it has computed, and its table is filled by one pass
over all items in their order, so that no vector depends on which fit came first.
"""

from __future__ import annotations

import gc
import logging
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file, save_file

from benchmarks.results import BenchmarkError
from lit_metric import MetricDataModule, MetricLearner, SetEncoder, TextEncoder
from lit_metric.callbacks import CollapseAlarm
from lit_metric.cli import quiet
from lit_metric.cli.training import MetricCLI
from lit_metric.evaluation import encode_split, evaluate, evaluation_of

MEASURES = ("knn1_accuracy", "knn10_accuracy", "knn10_accuracy_macro", "map@r")

_towers: dict[str, TextEncoder] = {}


class Watch(Callback):
    """Counts steps, encoded items and seconds, and stops a fit whose loss is no number.

    Attributes:
        diverged_at: the step whose loss was infinite or NaN, or None.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.items = 0
        self.seconds = 0.0
        self.diverged_at: int | None = None
        self._begin = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and look at the loss."""
        self.steps += 1
        self.items += len(batch.items)
        if not math.isfinite(float(outputs["loss"])):
            self.diverged_at = self.steps
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._begin


def start(config: Mapping[str, Any]) -> tuple[MetricCLI, MetricLearner, MetricDataModule]:
    """The module and the data of a config, ready to encode, with everything seeded."""
    quiet()
    for pattern in (".*intended to run from within Python.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    gc.collect()  # an earlier model hangs in cycles, of too few objects to call the collector by themselves
    cli = MetricCLI(args=dict(config), run=False)
    model, data = cli.model, cli.datamodule
    assert isinstance(model, MetricLearner)
    assert isinstance(data, MetricDataModule)
    data.prepare(model.encoder.tokenizer, progress=False)
    _share_tower(repr(config["model"]["init_args"]["encoder"]), model, data)
    return cli, model, data


def _share_tower(key: str, model: MetricLearner, data: MetricDataModule) -> None:
    """Give the encoder the frozen tower of an earlier fit, or let it fill its table for later ones."""
    encoder = model.encoder
    if not isinstance(encoder, SetEncoder) or not encoder.text.frozen:
        return
    if key in _towers:
        encoder.text = _towers[key]
        return
    _towers[key] = encoder.text
    with torch.random.fork_rng():  # a loader draws a seed, and what is drawn after that must not depend on it
        for _ in encode_split(encoder, data, torch.arange(len(data.items))):
            pass


def steps_within(data: MetricDataModule, budget: int) -> int:
    """How many batches hold about ``budget`` items, at least one: those whose middle lies within it."""
    steps = items = epoch = 0
    while True:
        plan = data.planner.plan(data.splits["train"], data.relations, data.seed, epoch)
        for batch in range(len(plan)):
            count = len(torch.cat(plan.batch(batch)).unique())
            if steps and items + count / 2 > budget:
                return steps
            steps, items = steps + 1, items + count
        epoch += 1


def scores(model: MetricLearner, data: MetricDataModule, split: str) -> dict[str, float]:
    """``MEASURES`` of a split."""
    evaluation = evaluation_of(data, split, ks=(1,), knn=(1, 10), knn_temperature=model.knn_temperature)
    found = evaluate(model.encoder, data, split, evaluation)
    return {name: found[name] for name in MEASURES}


def train(config: Mapping[str, Any], budget: int, weights: Path) -> dict[str, Any]:
    """A fit and what it is worth on validation items; the test items are not looked at.

    Args:
        config: of :func:`benchmarks.losses.table.configuration`.
        budget: items to encode; 0 for no training.
        weights: the file for what was trained, unless it diverged.

    Returns:
        ``status`` (``trained``, ``collapsed``, ``diverged``, ``untrained``), ``diverged_at`` (a step, or
        None), ``steps``, ``items`` (encoded), ``seconds`` (of steps), and ``validation``, the scores.
    """
    cli, model, data = start(config)
    watch, alarms = Watch(), [False]
    if budget:
        steps = steps_within(data, budget)
        trainer = cli.instantiate_trainer(max_steps=steps, callbacks=[watch])
        trainer.fit(model, datamodule=data)
        alarms = [each.warned for each in trainer.callbacks if isinstance(each, CollapseAlarm)]  # type: ignore[attr-defined]
        if watch.diverged_at is None and watch.steps != steps:
            raise BenchmarkError(f"the fit ended after {watch.steps} steps of {steps}")
    # The last step may have spoiled the weights without there being a loss to show it.
    finite = all(bool(value.isfinite().all()) for value in _trained(model).values())
    diverged = watch.diverged_at is not None or not finite
    status = (
        "untrained" if not budget else "diverged" if diverged else "collapsed" if any(alarms) else "trained"
    )
    result: dict[str, Any] = {
        "status": status,
        "diverged_at": watch.diverged_at if finite or watch.diverged_at else watch.steps,
        "steps": watch.steps,
        "items": watch.items,
        "seconds": watch.seconds,
    }
    if diverged:
        return result
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(_trained(model), weights)
    return {**result, "validation": scores(model, data, "validation")}


def tested(config: Mapping[str, Any], weights: Path) -> dict[str, float]:
    """The scores of the test items with the weights of an earlier fit."""
    _, model, data = start(config)
    own, saved = _trained(model), load_file(weights)
    if own.keys() != saved.keys():
        raise BenchmarkError(f"{weights} is of another encoder: remove it, and its JSON file")
    model.encoder.load_state_dict(saved, strict=False)
    return scores(model, data, "test")


def _trained(model: MetricLearner) -> dict[str, torch.Tensor]:
    """The parameters of the encoder that are trained."""
    return {
        name: value.detach().cpu().contiguous()
        for name, value in model.encoder.named_parameters()
        if value.requires_grad
    }
