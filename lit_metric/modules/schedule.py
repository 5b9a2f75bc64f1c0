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

Schedule = Literal["linear", "cosine", "constant"]


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

    Lightning's own ``estimated_stepping_batches`` makes the train loader's iterator, which is too early:
    neither a checkpoint's counters nor mined negatives are there yet.

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
    module: nn.Module, lr: float, weight_decay: float, scales: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by learning rate and weight decay.

    Biases, gains of normalisation layers and single vectors, which have one dimension or less, get no decay.

    Args:
        module: whose parameters.
        lr: of those that no scale names.
        weight_decay: of those with two dimensions or more.
        scales: factor on ``lr`` by the name of a part (``encoder.pooling``) or a pattern (``*.query``); the
            last that fits counts.

    Raises:
        ValueError: if a name fits no parameter, or nothing is left to train.
    """
    named = dict(module.named_parameters())
    for pattern in scales:
        if not any(fits(pattern, name) for name in named):
            depth = 1 + max(shared(pattern, name) for name in named)
            near = [name for name in named if shared(pattern, name) == depth - 1]
            parts = sorted({".".join(name.split(".")[: max(depth, 2)]) for name in near})
            raise ValueError(f"lr_scale: no parameter is called {pattern!r}; there are {', '.join(parts)}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        if parameter.requires_grad:
            scale = [1.0, *(factor for pattern, factor in scales.items() if fits(pattern, name))][-1]
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr * scale, decay), []).append(parameter)
    if not groups:
        raise ValueError("every parameter is frozen: there is nothing to train")
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def shared(first: str, second: str) -> int:
    """How many parts two dotted names have in common from the left.

    Example:
        >>> shared("encoder.query.pooling", "encoder.query.backbone.x")
        2
    """
    pairs = zip(first.split("."), second.split("."), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def fits(pattern: str, name: str) -> bool:
    """Whether a parameter is, or lies under, the part that a pattern names.

    Example:
        >>> fits("encoder.pooling", "encoder.pooling.query"), fits("*.bias", "loss.bias")
        (True, True)
        >>> fits("enc", "encoder.x")
        False
    """
    return f"{name}.".startswith(f"{pattern}.") or fnmatch.fnmatch(name, pattern)
