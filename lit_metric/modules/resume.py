"""A resume with other options than those of its checkpoint: each is applied and logged, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from lit_metric.configurable import arguments_of, is_foreign

log = logging.getLogger(__name__)

KEY = "run_options"
"""Under which a checkpoint holds the options of its run."""

Options = dict[str, Any]
"""Numbers, strings, and lists of such, by dotted names."""

BATCHES = "batches of an epoch"

PLANS = ("data.planner", "data.seed", BATCHES)
"""Options that decide the batches of an epoch."""


def options_of(thing: object, name: str) -> Options:
    """The arguments that an object was built with, as far as it keeps them, under ``name``.

    Example:
        >>> from lit_metric.losses import InfoNCELoss
        >>> found = options_of(InfoNCELoss(0.05), "loss")
        >>> found["loss"], found["loss.temperature"]
        ('InfoNCELoss', 0.05)
    """
    found: Options = {}

    def add(value: Any, name: str) -> None:
        if isinstance(value, Tensor):
            if value.numel() == 1:
                found[name] = float(value)
        elif value is None or isinstance(value, (bool, int, float, str)):
            found[name] = value
        elif isinstance(value, (list, tuple)):
            if all(isinstance(item, (bool, int, float, str)) for item in value):
                found[name] = list(value)
            else:
                for place, item in enumerate(value):
                    add(item, f"{name}.{place}")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                add(item, f"{name}.{key}")
        elif not is_foreign(value):
            found[name] = type(value).__name__
            for argument, given in arguments_of(value).items():
                add(given, f"{name}.{argument}")

    add(thing, name)
    return found


def learned(loss: nn.Module) -> dict[str, float]:
    """The values of parameters of one number, such as a learned temperature.

    Before training these are the initial values, which options give.
    """
    return {
        name: float(value)
        for name, value in loss.named_parameters()
        if not isinstance(value, UninitializedParameter) and value.numel() == 1
    }


class Resumption:
    """Brings a checkpoint in line with the options of the run that resumes from it.

    Args:
        checkpoint: as loaded.
        options: of this run.
        initial: see :func:`learned`.
        trainer: of the resumed run.
    """

    def __init__(
        self, checkpoint: dict[str, Any], options: Options, initial: Mapping[str, float], trainer: Trainer
    ) -> None:
        saved = checkpoint.get(KEY, {})
        before: Options = saved.get("options", {})
        self.checkpoint = checkpoint
        self.trainer = trainer
        self.changes: dict[str, tuple[Any, Any]] = {}
        """Old and new values. Where the class differs, its arguments are left out."""
        for name in {**before, **options} if before else {}:
            old, new = before.get(name), options.get(name)
            if old != new and not any(name.startswith(f"{other}.") for other in self.changes):
                self.changes[name] = old, new
        self.relearned = saved.get("learned", {}) != initial
        self.progress: dict[str, Any] = (
            checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
        )
        """Lightning's counts of the batches of an epoch."""

    def apply(self, plan: tuple[Optimizer, Callable[[int], float]] | None) -> None:
        """Apply the options of this run to the checkpoint, and log the changes.

        Optimizer, scheduler and callbacks of the checkpoint are changed in place.

        Args:
            plan: a new optimizer and the factor on its rates at each step. None where optimizer and scheduler
                are not this library's; then they stay as the checkpoint has them.

        Raises:
            ValueError: for an option that can't be applied.
        """
        self._check()
        if BATCHES in self.changes and self.progress:
            # Lightning would train the additional batches of the new epoch as the rest of the old one.
            current, count = self.progress["current"], self.changes[BATCHES][1]
            self.progress["current"] = {
                name: count - (current["ready"] - value) for name, value in current.items()
            }
        notes = [f"{name} {_shown(old)} → {_shown(new)}" for name, (old, new) in self.changes.items()]
        notes += self._keep_patience()
        if plan is not None and len(self.checkpoint.get("optimizer_states", [])) == 1:
            notes += self._replace_optimizer(*plan)
        if notes and self.trainer.is_global_zero:
            step = self.checkpoint.get("global_step", 0)
            log.info(
                "Options that differ from the checkpoint's apply from step %d on: %s", step, "; ".join(notes)
            )
        self._log_time()

    def _check(self) -> None:
        """Raise ``ValueError`` for a change that can't be applied."""

        def difference(name: str) -> str:
            old, new = self.changes[name]
            return f"{name} is {_shown(old)} in the checkpoint and {_shown(new)} here"

        of_loss = [name for name in self.changes if name.split(".")[0] == "loss"]
        if self.relearned and of_loss:
            raise ValueError(
                f"{difference(of_loss[0])}, but it is only the start value, and the checkpoint holds "
                "the learned one: leave it as in the run's config.yaml, or start a new run without "
                "ckpt_path"
            )
        for name, (old, new) in self.changes.items():
            weights = name.startswith("encoder.") and name.endswith("backbone") and old and new
            if weights and Path(str(old)).name != Path(str(new)).name:  # a folder may have been moved
                raise ValueError(
                    f"{difference(name)}, but its weights would be replaced by those of the checkpoint: name "
                    "the same, or start a new run without ckpt_path"
                )
        plans = [name for plan in PLANS for name in self.changes if name.startswith(plan)]
        if plans and not self.progress.get("is_last_batch", True):
            raise ValueError(
                f"{difference(plans[0])}, but the checkpoint is from the middle of an epoch, whose batches "
                "it decides: leave it as in the run's config.yaml, or resume from a checkpoint of the end of "
                "an epoch"
            )

    def _keep_patience(self) -> list[str]:
        """Keep the patience of each EarlyStopping, which Lightning would replace by the checkpoint's."""
        notes = []
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping):
                state = self.checkpoint.get("callbacks", {}).get(callback.state_key)
                if state is not None and state["patience"] != callback.patience:
                    notes.append(f"patience of EarlyStopping {state['patience']} → {callback.patience}")
                    state["patience"] = callback.patience
        return notes

    def _log_time(self) -> None:
        """Log how much of ``max_time`` is left, because earlier parts of the run count, too."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and callback._duration is not None:
                state = self.checkpoint.get("callbacks", {}).get(callback.state_key, {})
                spent = int(state.get("time_elapsed", {}).get("train", 0))
                if spent and self.trainer.is_global_zero:
                    whole = timedelta(seconds=int(callback._duration))
                    log.info(
                        "max_time counts the earlier parts of this run, too: %s of %s are used",
                        timedelta(seconds=spent),
                        whole,
                    )

    def _replace_optimizer(self, optimizer: Optimizer, rate: Callable[[int], float]) -> list[str]:
        """Put the state of each parameter from the checkpoint into the groups of ``optimizer``.

        Rates and other settings are those of ``optimizer``, at the step of the checkpoint.

        Returns:
            Which parameters are trained no longer, or from now on, in words for the log.

        Raises:
            ValueError: if the checkpoint doesn't name its parameters and has other groups, or if a callback
                set its rates, which then can't be changed.
        """
        saved, fresh = self.checkpoint["optimizer_states"][0], optimizer.state_dict()

        def numbers(groups: list[dict[str, Any]]) -> dict[str, int] | None:
            """The number of each parameter by name; None if the optimizer keeps no names."""
            if not all("param_names" in group for group in groups):
                return None
            pairs = [zip(group["param_names"], group["params"], strict=True) for group in groups]
            return {name: number for group in pairs for name, number in group}

        old, new = numbers(saved["param_groups"]), numbers(fresh["param_groups"])
        assert new is not None
        if old is None:  # of a version that kept no names
            sizes = [[len(group["params"]) for group in state["param_groups"]] for state in (saved, fresh)]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    "the optimizer of the checkpoint has other groups of parameters than that of this run: "
                    "freeze and lr_scale must be as in the run's config.yaml"
                )
            old = new
        fresh["state"] = {
            new[name]: saved["state"][old[name]] for name in new if old.get(name) in saved["state"]
        }
        self.checkpoint["optimizer_states"][0] = fresh
        notes = []
        for names, when in (
            ([name for name in new if name not in old], "from now on"),
            ([name for name in old if name not in new], "no longer"),
        ):
            if names:
                more = ", …" if len(names) > 1 else ""
                notes.append(f"{len(names)} parameters ({names[0]}{more}) are trained {when}")
        self._replace_rates(fresh["param_groups"], saved["param_groups"], rate)
        return notes

    def _replace_rates(
        self, fresh: list[dict[str, Any]], saved: list[dict[str, Any]], rate: Callable[[int], float]
    ) -> None:
        """Give the groups of the ``fresh`` optimizer the rates of this run's plan at the checkpoint's
        step."""
        schedulers = self.checkpoint.get("lr_schedulers", [])
        if len(schedulers) == 1 and "lr_lambdas" in schedulers[0]:
            state = schedulers[0]
            base = [group["lr"] for group in fresh]
            now = rate(state["last_epoch"])
            for group, peak in zip(fresh, base, strict=True):
                group["initial_lr"], group["lr"] = peak, peak * now
            state["base_lrs"], state["_last_lr"] = base, [peak * now for peak in base]
            state["lr_lambdas"] = [None] * len(base)
            return
        # Another scheduler has taken over, such as that of StochasticWeightAveraging.
        rates = {group.get("name"): group for group in saved}
        changed = any(name in self.changes for name in ("lr", "lr_scale", "layer_decay"))
        if changed or any(group["name"] not in rates for group in fresh):
            raise ValueError(
                "the learning rates of the checkpoint were set by a callback, such as "
                "StochasticWeightAveraging: lr, lr_scale, layer_decay and freeze must be as in the run's "
                "config.yaml"
            )
        for group in fresh:
            group.update({key: value for key, value in rates[group["name"]].items() if "lr" in key})


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
