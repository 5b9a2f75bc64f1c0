"""A fit within this process that comes out as one in a process of its own would.

Many short fits in one process save what each would spend on imports, and on passing the same texts through
a frozen tower, whose vectors are kept (:mod:`benchmarks.vectors`).
"""

from __future__ import annotations

import gc
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.hooks import RemovableHandle

from benchmarks.results import BenchmarkError
from benchmarks.vectors import KeptItems, keep_vectors
from lit_metric import MetricDataModule, MetricLearner
from lit_metric.batching import VectorPlanner
from lit_metric.callbacks import CollapseAlarm
from lit_metric.cli import quiet
from lit_metric.cli.training import MetricCLI
from lit_metric.data.ragged import EncoderInput
from lit_metric.evaluation import evaluate, evaluation_of
from lit_metric.index import Embeddings
from lit_metric.losses import LossContext
from lit_metric.modules import learner

MEASURES = ("knn1_accuracy", "knn10_accuracy", "knn10_accuracy_macro", "map@r")
LOSS = "of the loss: "
"""Before the names of a loss's parameters in a file of weights."""
Measure = Callable[[MetricLearner, MetricDataModule, str], dict[str, float]]
"""From a trained learner, its data and a split to figures by name."""


class Watch(Callback):
    """Counts steps, encoded items and seconds, and stops a fit whose loss is no number.

    Each item counts that passes through the encoder, in a batch or for a search.

    Args:
        logged: names of figures that the fit logs at each step, such as ``train/active``.

    Attributes:
        diverged_at: the step whose loss was infinite or NaN, or None.
    """

    def __init__(self, logged: Sequence[str] = ()) -> None:
        self.steps = 0
        self.items = 0
        self.seconds = 0.0
        self.diverged_at: int | None = None
        self._begin = 0.0
        self._hook: RemovableHandle | None = None
        self._logged: dict[str, list[float]] = {name: [] for name in logged}

    @property
    def logged(self) -> dict[str, float]:
        """Means of the logged figures over the second half of the steps."""
        halves = {name: values[len(values) // 2 :] for name, values in self._logged.items()}
        return {name: sum(values) / len(values) for name, values in halves.items() if values}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the encoder."""

        def count(encoder: nn.Module, given: tuple[EncoderInput, ...]) -> None:
            self.items += len(given[0].items)

        encoder: Any = pl_module.encoder
        self._hook = encoder.register_forward_pre_hook(count)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and look at the loss."""
        self.steps += 1
        for name, values in self._logged.items():
            if name in trainer.callback_metrics:
                values.append(float(trainer.callback_metrics[name]))
        if not math.isfinite(float(outputs["loss"])):
            self.diverged_at = self.steps
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._begin
        if self._hook is not None:
            self._hook.remove()


def short(config: Mapping[str, Any], lr: float, seed: int, precision: str = "32-true") -> dict[str, Any]:
    """What ``lit-metric fit`` would read for a fit, without its length and its reports.

    Args:
        config: all options by name, as :func:`~lit_metric.cli.training.resolved` returns them; it stays.
        lr: learning rate.
        seed: of weights, batches and validation splits.
        precision: of Lightning's trainer.
    """
    # Copies, as the command line makes objects of what is nested in them.
    found: dict[str, Any] = {name: deepcopy(config[name]) for name in ("model", "data", "trainer")}
    found["model"]["init_args"]["lr"] = lr
    found["seed_everything"] = seed
    found["trainer"] = {
        "accelerator": found["trainer"].get("accelerator", "auto"),
        "devices": 1,
        "precision": precision,
        "gradient_clip_val": found["trainer"].get("gradient_clip_val"),
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "min_epochs": 0,
        "max_epochs": -1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return found


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the places of its files, whose contents count."""
    options = {
        key: value
        for key, value in config["data"]["init_args"].items()
        if key not in ("train", "validation", "test")
    }
    return {**config, "data": {**config["data"], "init_args": options}}


def start(
    config: Mapping[str, Any], vectors: Path | None = None
) -> tuple[MetricCLI, MetricLearner, MetricDataModule]:
    """The module and the data of a config, ready to encode, with everything seeded.

    Args:
        config: of :func:`short`.
        vectors: folder for the vectors of frozen towers; None keeps them in this process alone.
    """
    quiet()
    for pattern in (".*intended to run from within Python.*", ".*LeafSpec.*", ".*no logger configured.*"):
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    gc.collect()  # an earlier model hangs in cycles, of too few objects to call the collector by themselves
    key = _tower_key(config)  # before the command line makes objects of what is nested in the config
    cli = MetricCLI(args=dict(config), run=False)
    model, data = cli.model, cli.datamodule
    assert isinstance(model, MetricLearner)
    assert isinstance(data, MetricDataModule)
    data.prepare(model.encoder.tokenizer, progress=False)
    keep_vectors(model.encoder, data, key, vectors)
    return cli, model, data


def _tower_key(config: Mapping[str, Any]) -> str:
    """What the vectors of frozen towers depend on: which items there are, and which encoder."""
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    given = [data.get(name) for name in ("train", "validation", "test", "supervision", "tags", "label")]
    return repr([*given, *(model.get(name) for name in ("encoder", "query", "document"))])


def encoded_for_search(data: MetricDataModule) -> int:
    """How many items an inline search for negatives, or for a planner's vectors, encodes; 0 without a
    miner."""
    if data.miner is None:
        return 0
    ids, corpus = data.splits["train"], data.dataset.corpus_of("train")
    return len(ids if corpus is None else torch.cat([ids, data.splits[corpus]]).unique())


def steps_within(data: MetricDataModule, budget: int) -> int:
    """How many batches can be trained on until about ``budget`` items are encoded, at least one: those whose
    middle lies within it.

    What is encoded for a search counts, before the batch that needs it. Mined negatives count as if no two
    anchors of a batch had the same.
    """
    steps = items = epoch = 0
    negatives = 0 if data.miner is None else data.miner.negatives
    searched = encoded_for_search(data)
    ids, given = data.splits["train"], {}
    if isinstance(data.planner, VectorPlanner):  # the sizes of its batches don't depend on the vectors
        drawn = torch.randn(len(ids), 8, generator=torch.Generator().manual_seed(0))
        given = {"vectors": Embeddings(ids, drawn)}
    while True:
        plan = data.planner.plan(ids, data.relations, data.seed, epoch, **given)
        period = data.refresh.period(len(plan))
        for batch in range(len(plan)):
            anchors, candidates = plan.batch(batch)
            count = len(torch.cat([anchors, candidates]).unique()) + negatives * len(anchors)
            if searched and (not steps or (period and steps % period == 0)):
                items += searched
            if steps and items + count / 2 > budget:
                return steps
            steps, items = steps + 1, items + count
        epoch += 1


def scores(model: MetricLearner, data: MetricDataModule, split: str) -> dict[str, float]:
    """``MEASURES`` of a split."""
    evaluation = evaluation_of(data, split, ks=(1,), knn=(1, 10), knn_temperature=model.knn_temperature)
    found = evaluate(model.encoder, data, split, evaluation)
    return {name: found[name] for name in MEASURES}


def train(
    config: Mapping[str, Any],
    budget: int,
    weights: Path,
    measure: Measure = scores,
    logged: Sequence[str] = (),
    vectors: Path | None = None,
) -> dict[str, Any]:
    """A fit and what it is worth on validation items; the test items are not looked at.

    Args:
        config: of :func:`short`.
        budget: items to encode; 0 for no training.
        weights: the file for what was trained, unless it diverged.
        measure: of the validation items.
        logged: names of figures that the fit logs; their means come with the result if there are names.
        vectors: see :func:`start`.

    Returns:
        ``status`` (``trained``, ``collapsed``, ``diverged``, ``untrained``), ``diverged_at`` (a step, or
        None), ``steps``, ``items`` (encoded, also for a search), ``seconds`` (of steps), and ``validation``,
        the scores.
    """
    cli, model, data = start(config, vectors)
    watch, alarms = Watch(logged), [False]
    if budget:
        steps = steps_within(data, budget)
        trainer = cli.instantiate_trainer(max_steps=steps, callbacks=[watch])
        with patch.object(learner, "encode_items", KeptItems(vectors)):
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
        **({"logged": watch.logged} if logged else {}),
    }
    if diverged:
        return result
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(_trained(model), weights)
    return {**result, "validation": measure(model, data, "validation")}


def tested(
    config: Mapping[str, Any],
    weights: Path,
    measure: Measure = scores,  # noqa: PT028
    vectors: Path | None = None,  # noqa: PT028
) -> dict[str, float]:
    """The scores of the test items with the weights of an earlier fit; for ``vectors`` see :func:`start`."""
    _, model, data = start(config, vectors)
    saved = load_file(weights)
    if model.loss is not None and model.loss.requires_labels and any(key.startswith(LOSS) for key in saved):
        model.loss.setup(LossContext(model.encoder.dimension, data.class_counts, data.relations))
    own = _trained(model)
    if own.keys() != saved.keys():
        raise BenchmarkError(f"{weights} is of another encoder: remove it, and its JSON file")
    model.encoder.load_state_dict(
        {key: value for key, value in saved.items() if not key.startswith(LOSS)}, strict=False
    )
    if model.loss is not None:
        of_loss = {key[len(LOSS) :]: value for key, value in saved.items() if key.startswith(LOSS)}
        model.loss.load_state_dict(of_loss, strict=False)
    return measure(model, data, "test")


def _trained(model: MetricLearner) -> dict[str, torch.Tensor]:
    """The parameters of the encoder that are trained, and those of the loss under ``LOSS``."""
    found = {**dict(model.encoder.named_parameters())}
    if model.loss is not None:
        found |= {f"{LOSS}{name}": value for name, value in model.loss.named_parameters()}
    return {name: value.detach().cpu().contiguous() for name, value in found.items() if value.requires_grad}
