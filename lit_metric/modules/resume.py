"""What a resumed run does with options that differ from those of its checkpoint: each is applied and told, or
refused."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

log = logging.getLogger(__name__)

KEY = "run_options"
"""Under which a checkpoint holds the options of its run."""

Options = dict[str, Any]
"""Numbers, strings, and lists of such, by dotted names."""

BATCHES = "batches of an epoch"

PLANS = ("data.planner", "data.seed", BATCHES)
"""What decides who meets in the batches of an epoch."""


def options_of(thing: object, name: str) -> Options:
    """The arguments that an object was built with, as far as it keeps them, under ``name``.

    Example:
        >>> from lit_metric.losses import InfoNCELoss
        >>> found = options_of(InfoNCELoss(0.05), "loss")
        >>> found["loss"], found["loss.temperature"]
        ('InfoNCELoss', 0.05)
    """
    return dict(_flat(thing, name))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        if value.numel() == 1:
            yield name, float(value)
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield name, value
    elif isinstance(value, (list, tuple)):
        if all(isinstance(item, (bool, int, float, str)) for item in value):
            yield name, list(value)
        else:
            for place, item in enumerate(value):
                yield from _flat(item, f"{name}.{place}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}")
    elif type(value).__module__.split(".")[0] not in {"builtins", "torch", "numpy"}:
        yield name, type(value).__name__
        for argument, kept in _arguments(value).items():
            yield from _flat(kept, f"{name}.{argument}")


def _arguments(thing: Any) -> dict[str, Any]:
    """Those that it remembers, or keeps under their own names."""
    if "_arguments" in vars(thing):
        return dict(vars(thing)["_arguments"])
    kept_as = getattr(type(thing), "_kept_as", {})
    names = [name for name in inspect.signature(type(thing)).parameters if name != "self"]
    return {name: getattr(thing, kept_as.get(name, name)) for name in names if _has(thing, name, kept_as)}


def _has(thing: Any, name: str, kept_as: Mapping[str, str]) -> bool:
    return hasattr(thing, kept_as.get(name, name))


def learned(loss: nn.Module) -> dict[str, float]:
    """The values of parameters of one number, such as a learned temperature; before training, the initial
    ones, which options give."""
    return {
        name: float(value)
        for name, value in loss.named_parameters()
        if not isinstance(value, UninitializedParameter) and value.numel() == 1
    }


def carry_on(
    checkpoint: dict[str, Any],
    options: Options,
    initial: Mapping[str, float],
    trainer: Trainer,
    plan: tuple[Optimizer, Callable[[int], float]] | None,
) -> None:
    """Apply the options of this run to what a checkpoint holds, or refuse them; log what is another.

    Args:
        checkpoint: as loaded; its optimizer, scheduler and callbacks are changed in place.
        options: of this run.
        initial: see :func:`learned`.
        trainer: that resumes.
        plan: a new optimizer and the factor on its rates at each step; None where both are not this
            library's, and so stay as the checkpoint has them.

    Raises:
        ValueError: for an option that can't be applied.
    """
    saved = checkpoint.get(KEY, {})
    before = saved.get("options", {})
    changes = _changes(before, options)
    _refuse(checkpoint, changes, saved.get("learned", {}) != initial)
    if BATCHES in changes and (progress := _progress(checkpoint)):
        # Lightning would train what the new epoch has more than the old, and take it for the rest of that.
        current, count = progress["current"], changes[BATCHES][1]
        progress["current"] = {name: count - (current["ready"] - value) for name, value in current.items()}
    told = [f"{name} {_shown(old)} → {_shown(new)}" for name, (old, new) in changes.items()]
    told += _patience(checkpoint, trainer)
    if plan is not None and len(checkpoint.get("optimizer_states", [])) == 1:
        told += _carry_optimizer(checkpoint, *plan, applied="lr" in changes or "lr_scale" in changes)
    if told and trainer.is_global_zero:
        step = checkpoint.get("global_step", 0)
        log.info("Options that differ from the checkpoint's hold from step %d on: %s", step, "; ".join(told))


def _changes(before: Options, now: Options) -> dict[str, tuple[Any, Any]]:
    """Old and new values. Where a class is another, it is named without the arguments."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**before, **now} if before else {}:
        old, new = before.get(name), now.get(name)
        inside = any(name.startswith(f"{other}.") for other in found)
        if old != new and not inside:
            found[name] = old, new
    return found


def _refuse(checkpoint: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]], relearned: bool) -> None:
    def say(name: str) -> str:
        old, new = changes[name]
        return f"{name} is {_shown(old)} in the checkpoint and {_shown(new)} here"

    of_loss = [name for name in changes if name.split(".")[0] == "loss"]
    if relearned and of_loss:
        raise ValueError(
            f"{say(of_loss[0])}, but it is where learning begins, and the checkpoint holds what was learned "
            "since: leave it as in the run's config.yaml, or start a new run without ckpt_path"
        )
    for name, (old, new) in changes.items():
        weights = name.startswith("encoder.") and name.endswith("backbone") and old and new
        if weights and Path(str(old)).name != Path(str(new)).name:  # a folder may have been moved
            raise ValueError(
                f"{say(name)}, but its weights would be replaced by those of the checkpoint: name the same, "
                "or start a new run without ckpt_path"
            )
    batches = _progress(checkpoint)
    plans = [name for plan in PLANS for name in changes if name.startswith(plan)]
    if plans and not batches.get("is_last_batch", True):
        raise ValueError(
            f"{say(plans[0])}, but the checkpoint is from the middle of an epoch, whose batches it decides: "
            "leave it as in the run's config.yaml, or resume from a checkpoint of the end of an epoch"
        )


def _progress(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's counts of the batches of an epoch."""
    found: dict[str, Any] = (
        checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    )
    return found


def _patience(checkpoint: Mapping[str, Any], trainer: Trainer) -> list[str]:
    """Have each EarlyStopping keep its own patience, which Lightning would replace by the checkpoint's."""
    told = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping):
            state = checkpoint.get("callbacks", {}).get(callback.state_key)
            if state is not None and state["patience"] != callback.patience:
                told.append(f"patience of EarlyStopping {state['patience']} → {callback.patience}")
                state["patience"] = callback.patience
    return told


def _carry_optimizer(
    checkpoint: dict[str, Any], optimizer: Optimizer, rate: Callable[[int], float], applied: bool
) -> list[str]:
    """Put what the checkpoint's optimizer knows about each parameter into the groups of ``optimizer``, whose
    rates and other settings count, at the step of the checkpoint.

    Returns:
        What to tell people about parameters that are trained no longer, or from now on.

    Raises:
        ValueError: if the checkpoint doesn't say which parameters are meant, or its rates were set by a
            callback and can't be changed.
    """
    saved, fresh = checkpoint["optimizer_states"][0], optimizer.state_dict()
    old, new = _places(saved["param_groups"]), _places(fresh["param_groups"])
    if old is None:  # of a version that kept no names
        sizes = [[len(group["params"]) for group in state["param_groups"]] for state in (saved, fresh)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                "the optimizer of the checkpoint has other groups of parameters than that of this run: "
                "freeze and lr_scale must be as in the run's config.yaml"
            )
        old = new
    assert old is not None
    assert new is not None
    fresh["state"] = {new[name]: saved["state"][old[name]] for name in new if old.get(name) in saved["state"]}
    checkpoint["optimizer_states"][0] = fresh
    told = []
    if added := [name for name in new if name not in old]:
        told.append(f"{_some(added)} trained from now on")
    if dropped := [name for name in old if name not in new]:
        told.append(f"{_some(dropped)} trained no longer")
    schedulers = checkpoint.get("lr_schedulers", [])
    if len(schedulers) == 1 and "lr_lambdas" in schedulers[0]:
        state = schedulers[0]
        base = [group["lr"] for group in fresh["param_groups"]]
        now = rate(state["last_epoch"])
        for group, peak in zip(fresh["param_groups"], base, strict=True):
            group["initial_lr"], group["lr"] = peak, peak * now
        state["base_lrs"], state["_last_lr"] = base, [peak * now for peak in base]
        state["lr_lambdas"] = [None] * len(base)
        return told
    # Another scheduler has taken over, such as that of StochasticWeightAveraging.
    rates = {group.get("name"): group for group in saved["param_groups"]}
    if applied or any(group["name"] not in rates for group in fresh["param_groups"]):
        raise ValueError(
            "the learning rates of the checkpoint were set by a callback, such as StochasticWeightAveraging: "
            "lr, lr_scale and freeze must be as in the run's config.yaml"
        )
    for group in fresh["param_groups"]:
        of_scheduler = {key: value for key, value in rates[group["name"]].items() if "lr" in key}
        group.update(of_scheduler)
    return told


def _places(groups: list[dict[str, Any]]) -> dict[str, int] | None:
    """The numbers that an optimizer gives to parameters, by name; None if it keeps no names."""
    if not all("param_names" in group for group in groups):
        return None
    return {
        name: number
        for group in groups
        for name, number in zip(group["param_names"], group["params"], strict=True)
    }


def _some(names: list[str]) -> str:
    return f"{len(names)} parameters ({names[0]}{', …' if len(names) > 1 else ''}) are"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
