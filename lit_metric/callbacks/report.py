"""The result of a run: the test metrics before and after, the time, and the trained encoder."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, StochasticWeightAveraging, Timer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_metric.before_after import worse_than_before
from lit_metric.callbacks.checkpoints import best_checkpoint, newest_checkpoint
from lit_metric.callbacks.summary import (
    confused_classes,
    next_steps,
    read_report,
    table,
    worst_confusions,
    write_report,
)
from lit_metric.callbacks.untrained import KeepUntrained
from lit_metric.configurable import needs_trust
from lit_metric.data import LabelRelations, MultiLabelRelations
from lit_metric.data.progress import stage
from lit_metric.datamodule import MetricDataModule
from lit_metric.evaluation import Measured, intervals, measure
from lit_metric.loggers import run_folder

log = logging.getLogger(__name__)

REPORT, MODEL, AVERAGED = "metrics.json", "model", "averaged.ckpt"
PREFIXES = {"validation": "val", "test": "test"}


def command_line() -> str:
    """The command that started this process, if that was ``lit-metric``; else nothing."""
    program = Path(sys.argv[0] if sys.argv else "")
    if program.name != "lit-metric" and program.parts[-2:] != ("lit_metric", "__main__.py"):
        return ""
    return shlex.join(["lit-metric", *sys.argv[1:]])


class RunReport(Callback):
    """Writes ``metrics.json`` and the trained encoder (``model/``) into the run folder; prints what changed.

    - ``split``: ``test``, or ``validation`` without a test split, or null without both.
    - ``before``: the metrics of the untrained encoder on that split; a resumed run reads them back. Loggers
      get them as step 0, together with those of the validation split.
    - ``after``: the metrics of the best checkpoint if a ``ModelCheckpoint`` monitors something, else of the
      last weights. Weights that ``StochasticWeightAveraging`` has averaged come before both, and are also
      saved as ``averaged.ckpt``.
    - ``intervals``: by metric with values by query, 95% of what it would be ``before``, ``after``, and as the
      ``change`` of both, for other queries, and the number of ``queries``; see
      :func:`~lit_metric.evaluation.intervals`. A resumed run has none, as it knows no queries of before.
    - ``confusions``: of items with labels, the pairs of classes of which most items of the first (``count``
      of ``of``) have an item of the second as their nearest, after training.
    - ``main_metric``: the first of the table that is printed; and a ``warning`` if it is lower after training
      than before.
    - ``command``: that started the run, if it was ``lit-metric``.
    - ``best_checkpoint``, and ``ended``: ``max_epochs``, ``early stopping``, ``SIGTERM``, ...
    - ``seconds``: wall time of the fit with mining and validation, without the evaluations before and after,
      summed over resumed parts.
    - ``validation_seconds``: of these, in validations.
    - ``steps``, ``texts`` (distinct texts encoded in training steps, all ranks) and ``texts_per_second``.

    It comes after all other callbacks, which may still change the weights, but before those that save
    checkpoints. An interrupted run gets ``metrics.json`` without ``after``, and the encoder of its best or
    latest checkpoint. Where nothing may be written, it only prints what changed.

    Args:
        before: whether to evaluate the untrained encoder.
    """

    def __init__(self, before: bool = True) -> None:
        self.before = before
        self.seconds = self.validation_seconds = 0.0
        self.texts: int | torch.Tensor = 0
        self._validating: float | None = None
        self._untrained: Measured | None = None
        self._started: float | None = None
        self._folder: Path | None = None
        self._report: dict[str, Any] | None = None
        """From the start of the fit to its end, else None."""
        self._failed: Exception | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come after all callbacks that may change weights, but before those that save checkpoints."""
        others = [each for each in trainer.callbacks if each is not self]  # type: ignore[attr-defined]
        saving = [each for each in others if isinstance(each, Checkpoint)]
        # A new list, as Lightning is going through the old one.
        trainer.callbacks = [  # type: ignore[attr-defined]
            *(each for each in others if each not in saving),
            self,
            *saving,
        ]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the untrained encoder, unless the run is a resumed one."""
        self._folder, self._failed, self._untrained = run_folder(trainer), None, None
        report: dict[str, Any] = read_report(self._folder / REPORT) if self._folder else {}
        if self.seconds == 0.0 or "before" not in report:
            split = self._split(trainer)
            report = {"split": split}
            if self.before and self.seconds == 0.0 and not getattr(trainer, "fast_dev_run", False):
                self._untrained = self._measure(
                    trainer, pl_module, split, "measuring before training", "before"
                )
                report["before"] = self._untrained.values
                self._log_first(trainer, pl_module, split, report["before"])
            if command := command_line():
                report["command"] = command
            if self._folder and trainer.is_global_zero:
                write_report(self._folder / REPORT, report)
        self._report = report
        self._started = time.perf_counter()

    def _log_first(
        self, trainer: Trainer, pl_module: LightningModule, split: str | None, metrics: dict[str, float]
    ) -> None:
        """Give loggers the metrics of the untrained encoder as step 0, so that curves begin there."""
        first = {split: metrics} if split else {}
        # Curves of validation have a first point, too, if validations use the whole split.
        whole = isinstance(trainer.limit_val_batches, float) and trainer.limit_val_batches == 1.0
        if split == "test" and "validation" in self._data(trainer).splits and whole and trainer.loggers:
            what = "measuring validation before training"
            first["validation"] = self._measure(trainer, pl_module, "validation", what).values
        for logger in trainer.loggers if trainer.is_global_zero else []:
            for name, values in first.items():
                logger.log_metrics(
                    {f"{PREFIXES[name]}/{metric}": value for metric, value in values.items()}, step=0
                )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count texts."""
        self.texts = self.texts + outputs["texts"]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of validations."""
        self._validating = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop it."""
        if self._validating is not None and self._started is not None:
            self.validation_seconds += time.perf_counter() - self._validating
        self._validating = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, keep the encoder of the best checkpoint, and measure it."""
        self._tick()
        self._started = None
        if self._report is None or getattr(trainer, "fast_dev_run", False):
            return
        last = self._weights(pl_module)
        averaged = any(
            isinstance(each, StochasticWeightAveraging)
            and each.n_averaged is not None
            and (trainer.max_epochs == -1 or trainer.current_epoch > each.swa_end)
            for each in trainer.callbacks  # type: ignore[attr-defined]
        )
        best = self._save_averaged(trainer) if averaged else self._restore_best(trainer, pl_module)
        if trainer.is_global_zero:
            self._save(pl_module)
        split = self._split(trainer)
        trained = self._measure(trainer, pl_module, split, "measuring after training", "after")
        self._report |= {"after": trained.values, **self._compared(trainer, trained)}
        # Checkpoints may still be written, and are of the last weights.
        pl_module.load_state_dict(last)
        self._report |= {"best_checkpoint": best, "ended": self._limit(trainer), **self._spent(trainer)}
        if split is not None:
            self._report["main_metric"] = self._data(trainer).headlines(split)[0]
        self._report.pop("warning", None)  # of an earlier part of a resumed run
        if warning := worse_than_before(self._report):
            self._report["warning"] = warning
        if self._folder is not None and trainer.is_global_zero:
            with self._failing_later(self._folder / REPORT):
                write_report(self._folder / REPORT, self._report)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what changed and what to do next.

        Raises:
            OSError: if the encoder or the report could not be written, now that everything else has been.
        """
        report, self._report = self._report, None
        if report is None or "after" not in report or not trainer.is_global_zero:
            return
        if report["split"] is None:
            log.warning("Nothing was measured, as there is neither a test nor a validation split")
        else:
            names = self._data(trainer).headlines(report["split"])
            print(f"\n{table(report, names)}")
            if confused := confused_classes(report):
                print(f"\n{confused}")
            if warning := report.get("warning"):
                log.warning("%s", warning)
        if self._failed is not None:
            raise self._failed
        if self._folder is not None:
            best = report["best_checkpoint"]
            checkpoint = self._folder / best if best else newest_checkpoint(trainer)
            print(f"\n{self._folder / MODEL} holds the trained encoder.", end=" ")
            encoder: Any = pl_module.encoder
            steps = next_steps(self._folder, checkpoint, report["split"], needs_trust(encoder))
            print(steps, flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the work of a run that ends early, without waiting for other processes."""
        report, self._report = self._report, None
        self._tick()
        self._started = None
        if report is None or self._folder is None or not trainer.is_global_zero:
            return
        try:
            signals = {SIGTERMException: "SIGTERM", KeyboardInterrupt: "SIGINT"}
            signal = next((name for kind, name in signals.items() if isinstance(exception, kind)), None)
            ended = signal or f"{type(exception).__name__}: {exception}".splitlines()[0]
            path = best_checkpoint(trainer) or newest_checkpoint(trainer)
            report |= {
                "ended": ended,
                "best_checkpoint": path and self._relative(path),
                **self._spent(trainer),
            }
            report.pop("after", None)
            write_report(self._folder / REPORT, report)
            if path is not None:
                last = self._weights(pl_module)
                self._load(pl_module, path)
                self._save(pl_module)
                pl_module.load_state_dict(last)
            elif signal and trainer.global_step:
                self._save(pl_module)
            if (path or (signal and trainer.global_step)) and self._failed is None:
                log.info("%s holds the encoder of %s", self._folder / MODEL, path or "the last step")
        except Exception as error:
            log.warning(
                "The report of the interrupted run is incomplete: %s: %s", type(error).__name__, error
            )

    def _save(self, pl_module: LightningModule) -> None:
        """Replace ``model/`` in one step."""
        if self._folder is None:
            return
        encoder: Any = pl_module.encoder
        place, unfinished = self._folder / MODEL, self._folder / f".{MODEL}.new"
        hint = f". The checkpoints are there: lit_metric.load({str(self._folder)!r}) reads them"
        with self._failing_later(place, hint):
            shutil.rmtree(unfinished, ignore_errors=True)
            with stage("saving the encoder"):
                encoder.save(unfinished)
            shutil.rmtree(place, ignore_errors=True)
            unfinished.replace(place)
        shutil.rmtree(unfinished, ignore_errors=True)

    @contextmanager
    def _failing_later(self, path: Path, hint: str = "") -> Iterator[None]:
        """Log a failure to write, and raise it when the fit ends: checkpoints are still to come."""
        try:
            yield
        except Exception as error:
            self._failed = self._failed or error
            log.error("%s could not be written: %s%s", path, error, hint)

    def _save_averaged(self, trainer: Trainer) -> str | None:
        """Save the module's weights, which are averaged now, next to the checkpoints; return their path."""
        folders = [
            folder for each in trainer.checkpoint_callbacks if (folder := getattr(each, "dirpath", None))
        ]
        if self._folder is None or not folders:
            return None
        path = Path(folders[0]) / AVERAGED
        with self._failing_later(path):
            trainer.save_checkpoint(path, weights_only=True)
            return self._relative(path)
        return None

    def _restore_best(self, trainer: Trainer, pl_module: LightningModule) -> str | None:
        """Load the weights of the best checkpoint, if there is one; returns its path within the run
        folder."""
        path = trainer.strategy.broadcast(best_checkpoint(trainer))
        if path is None:
            return None
        self._load(pl_module, path)
        return self._relative(path)

    @staticmethod
    def _load(pl_module: LightningModule, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        pl_module.load_state_dict(state["state_dict"])

    @staticmethod
    def _weights(pl_module: LightningModule) -> dict[str, torch.Tensor]:
        return {name: value.cpu().clone() for name, value in pl_module.state_dict().items()}

    def _relative(self, path: Path) -> str:
        folder, resolved = self._folder, path.resolve()
        if folder and resolved.is_relative_to(folder.resolve()):
            return str(resolved.relative_to(folder.resolve()))
        return str(resolved)

    def _measure(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        split: str | None,
        what: str,
        when: str | None = None,
    ) -> Measured:
        """The metrics of a split; a callback that keeps vectors gets them as those of ``when``."""
        if split is None:
            return Measured({}, {})
        encoder: Any = pl_module.encoder
        evaluation: Any = pl_module.evaluation
        shown = what if trainer.progress_bar_callback is not None else None
        rank, size = trainer.global_rank, trainer.world_size
        keepers = [each for each in trainer.callbacks if isinstance(each, KeepUntrained)]  # type: ignore[attr-defined]
        seen, keep = keepers[0].measuring(when) if keepers and when else (None, None)
        with trainer.precision_plugin.forward_context():
            found = measure(encoder, self._data(trainer), split, evaluation(split), rank, size, shown, seen)
        if keep is not None:
            keep()
        return found

    def _compared(self, trainer: Trainer, trained: Measured) -> dict[str, Any]:
        """What the values of each query say: intervals, and confusions of classes."""
        found: dict[str, Any] = {}
        if self._untrained is not None and (each := intervals(self._untrained, trained)):
            found["intervals"] = {name: asdict(value) for name, value in each.items()}
        relations = self._data(trainer).relations
        if isinstance(relations, LabelRelations | MultiLabelRelations) and trained.queries:
            own = trained.queries[""]
            found["confusions"] = worst_confusions(relations.labels, relations.classes, own)
        return found

    def _spent(self, trainer: Trainer) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "validation_seconds": self.validation_seconds,
            "steps": trainer.global_step,
            "texts": int(self.texts),
            "texts_per_second": int(self.texts) / max(self.seconds, 1e-9),
        }

    def _limit(self, trainer: Trainer) -> str:
        """The name of the limit that ended training."""
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
            return "max_epochs"
        if 0 <= trainer.max_steps <= trainer.global_step:
            return "max_steps"
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (callback.time_remaining() or 0) <= 0 and callback._duration:
                return "max_time"
            if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
                return "early stopping"
        return "stopped"

    def _data(self, trainer: Trainer) -> MetricDataModule:
        data = getattr(trainer, "datamodule", None)
        assert isinstance(data, MetricDataModule)
        return data

    def _split(self, trainer: Trainer) -> str | None:
        return next((name for name in ("test", "validation") if name in self._data(trainer).splits), None)

    def _tick(self) -> None:
        if self._started is not None:
            now = time.perf_counter()
            self.seconds += now - self._started
            self._started = now

    def state_dict(self) -> dict[str, Any]:
        """The time and the texts so far."""
        self._tick()
        times = {"seconds": self.seconds, "validation_seconds": self.validation_seconds}
        return {**times, "texts": int(self.texts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the time and the texts of the checkpoint."""
        self.seconds, self.texts = float(state_dict["seconds"]), int(state_dict["texts"])
        self.validation_seconds = float(state_dict.get("validation_seconds", 0.0))
