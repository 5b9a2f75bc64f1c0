"""The folder of a run, and a CSV logger that writes into it and continues the file of a resumed run."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment


def run_folder(trainer: Trainer) -> Path | None:
    """The run's own folder; the same on all ranks, which must all call this.

    With a logger, it is the folder of the first one: its ``log_dir`` if it has one, else
    ``SAVE_DIR/NAME/VERSION``, in which ``ModelCheckpoint`` makes its folder, too. Without a logger, it is the
    trainer's ``default_root_dir``.

    Returns:
        None where nothing may be written: under ``fast_dev_run``, and without a logger if
        ``default_root_dir`` is the working directory.
    """
    if getattr(trainer, "fast_dev_run", False):
        return None
    root = Path(trainer.default_root_dir)
    if not trainer.loggers:
        folder = None if root.resolve() == Path.cwd().resolve() else root
    else:
        logger: Any = trainer.loggers[0]
        if isinstance(logger, (TensorBoardLogger, CSVLogger)):
            folder = Path(logger.log_dir)
        else:
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            folder = Path(logger.save_dir or root, str(logger.name), version)
    return trainer.strategy.broadcast(folder)


class RunLogger(CSVLogger):
    """``SAVE_DIR/NAME/metrics.csv``, without a folder per version.

    Args:
        name: of the run; ``run`` if None.
        save_dir: folder of all runs.
        flush_logs_every_n_steps: the number of steps between writes.
    """

    def __init__(
        self, name: str | None = None, save_dir: str = "runs", flush_logs_every_n_steps: int = 20
    ) -> None:
        super().__init__(
            save_dir, name or "run", version="", flush_logs_every_n_steps=flush_logs_every_n_steps
        )

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return self.root_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer, which would delete the rows of an earlier part of the run."""
        if self._experiment is None:
            path = Path(self.log_dir) / "metrics.csv"
            aside = path.with_name("metrics.csv.earlier")
            if path.is_file():
                path.replace(aside)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # nothing will be deleted
                writer: Any = super().experiment
            if aside.is_file():
                aside.replace(path)
                with path.open(newline="", encoding="utf-8") as file:
                    writer.metrics_keys = next(csv.reader(file), [])
        return self._experiment
