"""The folder of a run, a CSV logger that writes into it and continues the file of a resumed run, and a logger
of trackio."""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from lit_metric.data.errors import REJECTED, Problems

log = logging.getLogger(__name__)


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


def list_problems(trainer: Trainer, problems: Problems, anew: bool = False) -> None:
    """List rows that are left out in the run's folder; ``anew`` removes the list of an earlier run."""
    folder = run_folder(trainer)
    if folder is None or not trainer.is_global_zero:
        return
    if len(problems):
        log.warning("They are listed in %s", problems.write(folder))
    elif anew:
        (folder / REJECTED).unlink(missing_ok=True)


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


class TrackioLogger(Logger):
    """Logs into a project of ``trackio``, on this machine, or into a Space of the Hugging Face hub.

    The values lie in the folder ``TRACKIO_DIR``, or in the cache of the hub, and ``trackio show`` shows them.
    Needs ``pip install trackio``. Put it after `RunLogger`, whose folder is that of the run.

    Args:
        name: of the run; that of the run's folder if ``lit-metric`` starts it.
        save_dir: folder of all runs, by which ``lit-metric`` names the run; nothing is written there.
        project: of trackio.
        space_id: a Space, ``OWNER/NAME``, to log to in place of this machine.

    Raises:
        ImportError: at the first value, without trackio.
    """

    def __init__(
        self,
        name: str | None = None,
        save_dir: str = "runs",
        project: str = "lit-metric",
        space_id: str | None = None,
    ) -> None:
        super().__init__()
        self._name = name or "run"
        self._save_dir = save_dir
        self.project = project
        self.space_id = space_id
        self._run: Any = None
        self._options: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The name of the run."""
        return self._name

    @property
    def version(self) -> str:
        """There is one version of a run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of all runs."""
        return self._save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of trackio, which begins with the first value."""
        if self._run is None:
            try:
                import trackio
            except ImportError as error:
                raise ImportError("TrackioLogger needs trackio: pip install trackio") from error
            more = {} if self.space_id is None else {"space_id": self.space_id}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # A resumed run of lit-metric goes on in the run of that name.
                self._run = trackio.init(
                    self.project, self._name, config=self._options, resume="allow", embed=False, **more
                )
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the options of the run, which trackio gets with the first value."""
        self._options |= {str(key): value for key, value in dict(params).items()}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values of a step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run of trackio, so that all values are written."""
        if self._run is not None:
            self._run.finish()
            self._run = None
