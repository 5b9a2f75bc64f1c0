"""Checkpoints of the best and the last weights, and early stopping, by the measure that suits the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

Mode = Literal["max", "min"]


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best validation, ``checkpoints/best.ckpt`` in the run's folder.

    A validation whose measure is NaN decides nothing: no checkpoint is written for it. Without a validation
    split, the newest is kept.

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
        if stage == "fit" and self.monitor is None and validated(trainer):
            self.monitor = main_metric(trainer)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether to save; not for NaN."""
        if current is not None and bool(torch.isnan(current)):
            return False
        return super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the folder of the run, also where it has another path than before."""
        here = {path: Path(self.dirpath or "", Path(path).name) for path in _paths(state_dict)}
        if all(path.is_file() for path in here.values()):
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": _moved(state_dict["best_model_path"], here),
                "kth_best_model_path": _moved(state_dict["kth_best_model_path"], here),
                "best_k_models": {
                    _moved(path, here): score for path, score in state_dict["best_k_models"].items()
                },
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

    A validation whose measure is NaN or missing decides nothing.

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


def validated(trainer: Trainer) -> bool:
    """Whether the trainer's data have a validation split, or may have one."""
    return "validation" in getattr(getattr(trainer, "datamodule", None), "splits", ["validation"])


def main_metric(trainer: Trainer) -> str:
    """The name under which the main measure of the trainer's data is logged in validations."""
    data: Any = getattr(trainer, "datamodule", None)
    return f"val/{getattr(data, 'main_metric', 'map@r')}"


def _paths(state: dict[str, Any]) -> set[str]:
    """The checkpoints that a state names."""
    named = {state.get("best_model_path"), state.get("kth_best_model_path"), *state.get("best_k_models", {})}
    return {path for path in named if path}


def _moved(path: str, here: dict[str, Path]) -> str:
    return str(here[path]) if path in here else path
