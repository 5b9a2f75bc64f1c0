"""Optimiser groups and learning rate schedules."""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import nn

from lit_metric.encoders import Backbone
from lit_metric.encoders.static import StaticBackbone
from lit_metric.modules.row_adamw import ROWS, tables_of

Schedule = Literal["linear", "cosine", "constant"]

NO_DECAY = ".no_decay"

TABLE_LR = 1e-2
"""The default learning rate of a table of token vectors, of which a batch changes only a few rows."""


def default_lr(encoder: nn.Module, otherwise: float = 5e-5) -> float:
    """The learning rate where none is given: 1e-2 if all text encoders in ``encoder`` are tables that are
    trained, as those of :class:`~lit_metric.encoders.StaticEncoder` are, else ``otherwise``."""
    backbones = [each for each in encoder.modules() if isinstance(each, Backbone)]
    tables = [isinstance(each, StaticBackbone) and each.table.weight.requires_grad for each in backbones]
    return TABLE_LR if tables and all(tables) else otherwise


def multiplier(schedule: Schedule, steps: int, warmup: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step: a linear rise over ``warmup`` steps, then the schedule
    down to 0 at ``steps``.

    Example:
        >>> rate = multiplier("linear", steps=10, warmup=2)
        >>> [rate(step) for step in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if schedule == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return at


def planned_steps(trainer: Trainer, batches: int) -> int:
    """Optimiser steps of a whole fit over epochs of ``batches`` batches, if nothing stops it early.

    Lightning's own ``estimated_stepping_batches`` makes the train loader's iterator too early, before a
    checkpoint's counters are loaded and negatives are mined.

    Raises:
        ValueError: if neither epochs nor steps are limited.
    """
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = math.inf
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        callbacks = getattr(trainer, "callbacks", [])
        changing = [each for each in callbacks if isinstance(each, GradientAccumulationScheduler)]
        of_epoch = changing[0].get_accumulate_grad_batches if changing else None
        accumulated = (
            trainer.accumulate_grad_batches if of_epoch is None else of_epoch(epoch)
            for epoch in range(trainer.max_epochs)
        )
        steps = sum(math.ceil(batches / together) for together in accumulated)
    if trainer.max_steps >= 0:
        steps = min(steps, trainer.max_steps)
    if math.isinf(steps):
        raise ValueError("learning rates are planned by the length of training: give max_epochs or max_steps")
    return int(steps)


def parameter_groups(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    scales: Mapping[str, float],
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by the part that they belong to and by weight decay.

    A part is one that ``scales`` names, else ``encoder`` or ``loss``. Biases, gains of normalisation layers
    and single vectors, which have one dimension or less, get no decay; their group is ``PART.no_decay``.
    Tables of token vectors are in ``PART.rows``, see :class:`~lit_metric.modules.row_adamw.RowAdamW`.

    Args:
        module: with the parameters.
        lr: of parameters that no scale names.
        weight_decay: of parameters with two dimensions or more.
        scales: factor on ``lr`` by the name of a part (``encoder.pooling``) or a pattern (``*.query``); the
            last that fits counts.
        layer_decay: a further factor for each layer of a backbone below its top one; see
            :func:`layer_factors`. Below 1, each layer has groups of its own, named by its path.

    Returns:
        Groups for an optimizer, each with its ``name``; ``params`` are pairs of name and parameter.

    Raises:
        ValueError: if a name fits no parameter, nothing is left to train, or a trained backbone has no list
            of layers that ``layer_decay`` could count.
    """
    named = dict(module.named_parameters())
    for pattern in scales:
        if not any(fits(pattern, name) for name in named):
            shared = {}
            for name in named:
                steps = zip(pattern.split("."), name.split("."), strict=False)
                shared[name] = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], steps))
            depth = 1 + max(shared.values())
            near = [name for name, count in shared.items() if count == depth - 1]
            parts = sorted({".".join(name.split(".")[: max(depth, 2)]) for name in near})
            raise ValueError(f"lr_scale: no parameter is called {pattern!r}; there are {', '.join(parts)}")
    layers = layer_factors(module, layer_decay)
    tables = {id(table.weight) for table in tables_of(module)}
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        if not parameter.requires_grad:
            continue
        part, scale = [(name.split(".")[0], 1.0), *(each for each in scales.items() if fits(each[0], name))][
            -1
        ]
        if name in layers:
            layer, factor = layers[name]
            part, scale = f"{part}@{layer}" if part in scales else layer, scale * factor
        decays, rows = parameter.ndim > 1, id(parameter) in tables
        group = groups.setdefault(
            (part, decays, rows),
            {
                "params": [],
                "lr": lr * scale,
                "weight_decay": weight_decay if decays else 0.0,
                "name": f"{part}.{ROWS}" if rows else part if decays else f"{part}{NO_DECAY}",
                **({ROWS: True} if rows else {}),
            },
        )
        group["params"].append((name, parameter))
    if not groups:
        raise ValueError("every parameter is frozen: there is nothing to train")
    return [*groups.values()]


def layer_factors(module: nn.Module, decay: float) -> dict[str, tuple[str, float]]:
    """The layer that each weight of a trained backbone belongs to, and its factor ``decay ** depth``.

    The top layer has depth 0, the one below it 1, and the embeddings, which are all that comes before the
    lowest of n layers, n. What comes after the top layer, such as a last norm, is left out, as are poolings
    and losses: their factor is 1. This is the discriminative fine-tuning of Howard and Ruder ("Universal
    Language Model Fine-tuning", arXiv 1801.06146, section 3.2), as Sun et al. use it for BERT ("How to
    Fine-Tune BERT for Text Classification?", arXiv 1905.05583, equation 2).

    Args:
        module: with backbones somewhere in it.
        decay: in (0, 1]; 1 gives no factors.

    Returns:
        by the parameter's name, the path of its layer and the factor.

    Raises:
        ValueError: if a trained backbone has no list of layers.
    """
    factors: dict[str, tuple[str, float]] = {}
    for path, backbone in module.named_modules():
        if decay == 1 or not isinstance(backbone, Backbone):
            continue
        weights = [*backbone.model.named_parameters()]
        if not any(value.requires_grad for _, value in weights):
            continue
        try:
            layers = backbone.layers
        except ValueError as error:
            raise ValueError(f"layer_decay: {error}; name parts in lr_scale instead") from error
        count, depth = len(backbone.model.get_submodule(layers)), None  # type: ignore[arg-type]
        for name, _ in weights:
            layer = f"{path}.model.embeddings"
            if name.startswith(f"{layers}."):
                index = name.removeprefix(f"{layers}.").split(".")[0]
                layer, depth = f"{path}.model.{layers}.{index}", count - 1 - int(index)
            elif depth is not None:
                continue
            factors[f"{path}.model.{name}"] = layer, decay ** (count if depth is None else depth)
    return factors


def fits(pattern: str, name: str) -> bool:
    """Whether a parameter is, or lies under, the part that a pattern names.

    Example:
        >>> fits("encoder.pooling", "encoder.pooling.query"), fits("*.bias", "loss.bias")
        (True, True)
        >>> fits("enc", "encoder.x")
        False
    """
    return f"{name}.".startswith(f"{pattern}.") or fnmatch.fnmatch(name, pattern)
