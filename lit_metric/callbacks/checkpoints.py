"""Checkpoints of the best and the last weights, and early stopping, by the measure that suits the data.

Also: whether callbacks monitor a metric that exists, and which checkpoints they have written.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from lit_metric.renamed import refused_metric

log = logging.getLogger(__name__)

Mode = Literal["max", "min"]

OURS = ("lit_metric", "lightning", "pytorch_lightning")
LOGGED_WHILE_TRAINING = ("train/", "mining/")


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best validation, ``checkpoints/best.ckpt`` in the run's folder.

    No checkpoint is written for a validation whose measure is NaN. Without a validation split, the newest is
    kept.

    Args:
        monitor: name as logged, such as ``val/map@r``; that of ``main_metric`` of the data module if None.
        mode: whether more is better.
        filename: without its end.
        dirpath: another folder.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Mode = "max",
        filename: str = "best",
        dirpath: str | None = None,
    ) -> None:
        super().__init__(dirpath, filename, monitor, mode=mode, auto_insert_metric_name=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose what to monitor."""
        super().setup(trainer, pl_module, stage)
        splits = getattr(getattr(trainer, "datamodule", None), "splits", ["validation"])
        if stage == "fit" and self.monitor is None and "validation" in splits:
            self.monitor = main_metric(trainer)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether to save; not for NaN."""
        if current is not None and bool(torch.isnan(current)):
            return False
        return super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue in the folder of the run, even if that has another path now."""
        best, worst = state_dict.get("best_model_path"), state_dict.get("kth_best_model_path")
        scores = state_dict.get("best_k_models", {})
        here = {
            path: str(Path(self.dirpath or "", Path(path).name)) for path in (best, worst, *scores) if path
        }
        if all(Path(path).is_file() for path in here.values()):
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": here.get(best, best),
                "kth_best_model_path": here.get(worst, worst),
                "best_k_models": {here[path]: score for path, score in scores.items()},
            }
        super().load_state_dict(state_dict)


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint, ``checkpoints/last.ckpt`` in the run's folder, to resume from.

    Args:
        filename: without its end.
        dirpath: another folder.
    """

    def __init__(self, filename: str = "last", dirpath: str | None = None) -> None:
        super().__init__(dirpath, filename, enable_version_counter=False)


class StopEarly(EarlyStopping):
    """Ends training when validation has not become better for some time.

    Validations whose measure is NaN or missing are ignored.

    Args:
        patience: validations in a row that are no better.
        monitor: name as logged, such as ``val/map@r``; that of ``main_metric`` of the data module if None.
        mode: whether more is better.
        min_delta: what counts as better.
    """

    def __init__(
        self, patience: int = 5, monitor: str | None = None, mode: Mode = "max", min_delta: float = 0.0
    ) -> None:
        super().__init__("", min_delta, patience, mode=mode, strict=False, check_finite=False)
        self.monitor = monitor  # type: ignore[assignment]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose what to monitor."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.monitor is None:
            self.monitor = main_metric(trainer)

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        current = trainer.callback_metrics.get(self.monitor)
        if current is not None and not bool(torch.isnan(current)):
            super()._run_early_stopping_check(trainer)


def main_metric(trainer: Trainer) -> str:
    """The name under which validations log the main measure of the trainer's data."""
    data: Any = getattr(trainer, "datamodule", None)
    return f"val/{getattr(data, 'main_metric', 'map@r')}"


def check_monitors(trainer: Trainer, pl_module: LightningModule, measured: Collection[str]) -> None:
    """Check that callbacks monitor metrics that validations log.

    A module or callback from elsewhere may log under any name; where there is one, a warning replaces the
    error.

    Args:
        trainer: with the callbacks.
        pl_module: the trained module.
        measured: names of the metrics of the validation split, without ``val/``.

    Raises:
        ValueError: if there is no such metric; lists those that there are.
    """
    known = sorted(f"val/{name}" for name in measured)
    everything = [pl_module, *trainer.callbacks]  # type: ignore[attr-defined]
    ours = all(type(each).__module__.partition(".")[0] in OURS for each in everything)
    for callback, name in monitoring(trainer):
        if name in known or name.startswith(LOGGED_WHILE_TRAINING) or name in ("epoch", "step"):
            continue
        ending = f"/{name.rpartition('/')[2]}"
        near = [each for each in known if each == "val/mean" or each.endswith(ending)]
        near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        message = refused_metric(name) or (
            f"{type(callback).__name__} monitors {name!r}, which these data don't have"
            f"{': take ' + ' or '.join(near[:3]) if near else ''}. All that are measured: {', '.join(known)}"
        )
        if ours:
            raise ValueError(message)
        log.warning("%s; unless a module or callback of your own logs it", message)


def set_aside(trainer: Trainer, unmeasured: Collection[str]) -> list[str]:
    """Stop callbacks from monitoring metrics that can't be measured, for the rest of the fit.

    Nothing stops early by them, and the latest checkpoint replaces the best.

    Args:
        trainer: its callbacks are changed.
        unmeasured: names as they are logged.

    Returns:
        The changes, in words for the log.
    """
    changed = []
    for callback, name in monitoring(trainer):
        if name not in unmeasured:
            continue
        if isinstance(callback, EarlyStopping):
            trainer.callbacks.remove(callback)  # type: ignore[attr-defined]
            changed.append(f"early stopping by {name} is off")
        elif isinstance(callback, ModelCheckpoint):
            changed.append(f"the latest checkpoint is kept in place of the best by {name}")
            callback.monitor = None
    return changed


def without_validation(trainer: Trainer) -> None:
    """Stop callbacks from monitoring validations of a fit that has none, and log what that changes."""
    changed = set_aside(trainer, {name for _, name in monitoring(trainer) if name.startswith("val/")})
    kept = [each for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint)]
    if kept and not any("latest checkpoint" in each for each in changed):
        changed.append(f"{kept[0].filename}.ckpt is the latest checkpoint")
    if changed and trainer.is_global_zero:
        log.info("There are no validations: %s", "; ".join(changed))


def monitoring(trainer: Trainer) -> list[tuple[Callback, str]]:
    """The callbacks that monitor a metric, each with its name."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    named = [(each, getattr(each, "monitor", None)) for each in callbacks]
    return [(each, name) for each, name in named if isinstance(name, str) and name]


def best_checkpoint(trainer: Trainer) -> Path | None:
    """The best checkpoint of the first callback that monitors something."""
    for callback in trainer.checkpoint_callbacks:
        if not (isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path):
            continue
        # The folder of a resumed run may have been moved since its checkpoint was written.
        named = Path(callback.best_model_path)
        for path in (named, Path(callback.dirpath or ".") / named.name):
            if path.is_file():
                return path
        log.warning("The best checkpoint, %s, is missing; the last weights are measured and kept", named)
    return None


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """The checkpoint that a callback of this run wrote last."""
    named = [
        Path(name)
        for each in trainer.checkpoint_callbacks
        for name in (getattr(each, "last_model_path", ""), getattr(each, "best_model_path", ""))
        if name
    ]
    return max(filter(Path.is_file, named), key=lambda path: path.stat().st_mtime_ns, default=None)
