"""A CSV logger that writes straight into the run folder and goes on where a resumed run left off."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment


class RunLogger(CSVLogger):
    """``SAVE_DIR/NAME/metrics.csv``, without a folder per version.

    Args:
        name: of the run.
        save_dir: folder of all runs.
        flush_logs_every_n_steps: rows kept back between writes.
    """

    def __init__(self, name: str = "run", save_dir: str = "runs", flush_logs_every_n_steps: int = 20) -> None:
        super().__init__(save_dir, name, version="", flush_logs_every_n_steps=flush_logs_every_n_steps)

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
