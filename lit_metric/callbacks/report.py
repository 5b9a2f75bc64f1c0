"""What a run was worth: the test metrics before and after, the time it took, and the trained encoder."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_metric.callbacks.run_folder import read_json, run_folder, write_report
from lit_metric.callbacks.summary import change_of, next_steps, table
from lit_metric.data.progress import stage
from lit_metric.datamodule import MetricDataModule
from lit_metric.evaluation import evaluate

log = logging.getLogger(__name__)

REPORT, MODEL, AVERAGED = "metrics.json", "model", "averaged.ckpt"
PREFIXES = {"validation": "val", "test": "test"}


class RunReport(Callback):
    """Writes ``metrics.json`` and the trained encoder (``model/``) into the run folder, and says at the end
    what changed.

    ``before`` holds the metrics of the untrained encoder on the test split (the validation split if there
    is no test split, nothing if there is neither); a resumed run reads it back. Loggers get them as step 0.
    ``after`` holds those of the best checkpoint if a ``ModelCheckpoint`` monitors something, else of the last
    weights. Weights that ``StochasticWeightAveraging`` has averaged come before both, and are saved as
    ``averaged.ckpt``, too.
    Besides: ``split``, ``best_checkpoint``, ``ended`` (``max_epochs``, ``early stopping``, ``SIGTERM``, ...),
    ``seconds`` (wall time of the fit with mining and validation, without these two evaluations, summed over
    resumed parts), ``steps``, ``texts`` (distinct texts encoded in training steps, all ranks) and
    ``texts_per_second``.

    It comes after all other callbacks, which may still change the weights, but before those that save
    checkpoints. A run that is interrupted gets ``metrics.json`` without ``after``, and the encoder of its
    best or latest checkpoint. Where nothing may be written it only says what changed.

    Args:
        before: whether to evaluate the untrained encoder.
    """

    def __init__(self, before: bool = True) -> None:
        self.before = before
        self.seconds = 0.0
        self.texts: int | torch.Tensor = 0
        self._started: float | None = None
        self._folder: Path | None = None
        self._report: dict[str, Any] | None = None
        """What is known, from the start of the fit to its end."""
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
        self._folder, self._failed = run_folder(trainer), None
        report: dict[str, Any] = read_json(self._folder / REPORT) if self._folder else {}
        if self.seconds == 0.0 or "before" not in report:
            report = {"split": self._split(trainer)}
            if self.before and self.seconds == 0.0 and not getattr(trainer, "fast_dev_run", False):
                report["before"] = self._measure(trainer, pl_module, "measuring before training")
                prefix = PREFIXES.get(report["split"], "")
                for logger in trainer.loggers if trainer.is_global_zero and prefix else []:
                    values = {f"{prefix}/{name}": value for name, value in report["before"].items()}
                    logger.log_metrics(values, step=0)
            if self._folder and trainer.is_global_zero:
                write_report(self._folder / REPORT, report)
        self._report = report
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count texts."""
        self.texts = self.texts + outputs["texts"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, keep the encoder of the best checkpoint, and measure it."""
        self._tick()
        self._started = None
        if self._report is None or getattr(trainer, "fast_dev_run", False):
            return
        last = _copy(pl_module)
        best = None
        if averaged_by(trainer):
            best = self._save_averaged(trainer)
        else:
            best = self._restore_best(trainer, pl_module)
        if trainer.is_global_zero:
            self._save(pl_module)
        self._report |= {"after": self._measure(trainer, pl_module, "measuring after training")}
        # Checkpoints may still be written, and are of the last weights.
        pl_module.load_state_dict(last)
        self._report |= {"best_checkpoint": best, "ended": how_it_ended(trainer), **self._spent(trainer)}
        if trainer.is_global_zero:
            self._write()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what changed and what to do next.

        Raises:
            OSError: if the encoder or the report could not be written, now that everything else has been.
        """
        report, self._report = self._report, None
        if report is None or "after" not in report or not trainer.is_global_zero:
            return
        if report["split"] is None:
            log.warning("Nothing was measured, as there is neither a test nor a validation split")
        else:
            self._say_what_changed(report, self._data(trainer).headlines(report["split"]))
        if self._failed is not None:
            raise self._failed
        if self._folder is not None:
            best = report["best_checkpoint"]
            checkpoint = self._folder / best if best else newest_checkpoint(trainer)
            print(f"\n{self._folder / MODEL} holds the trained encoder.", end=" ")
            print(next_steps(self._folder, checkpoint, report["split"]), flush=True)

    def _say_what_changed(self, report: dict[str, Any], names: list[str]) -> None:
        print(f"\n{table(report, names)}")
        change = change_of(report, names[0])
        if change < 0:
            log.warning(
                "%s is lower after training than before (by %.4f): lower the learning rate, train for fewer "
                "epochs, or look whether labels are right; as it is, the untrained encoder is better",
                names[0],
                -change,
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what can be kept of a run that ends early, without waiting for other processes."""
        report, self._report = self._report, None
        self._tick()
        self._started = None
        if report is None or self._folder is None or not trainer.is_global_zero:
            return
        try:
            ended, signalled = _named(exception)
            path = best_checkpoint(trainer) or newest_checkpoint(trainer)
            report |= {
                "ended": ended,
                "best_checkpoint": path and self._relative(path),
                **self._spent(trainer),
            }
            report.pop("after", None)
            write_report(self._folder / REPORT, report)
            if path is not None:
                last = _copy(pl_module)
                pl_module.load_state_dict(_weights(path))
                self._save(pl_module)
                pl_module.load_state_dict(last)
            elif signalled and trainer.global_step:
                self._save(pl_module)
            if (path or (signalled and trainer.global_step)) and self._failed is None:
                log.info("%s holds the encoder of %s", self._folder / MODEL, path or "the last step")
        except Exception as error:
            log.warning(
                "The report of the interrupted run is incomplete: %s: %s", type(error).__name__, error
            )

    def _save(self, pl_module: LightningModule) -> None:
        """Replace ``model/`` as a whole; a failure is kept for the end, as checkpoints are still to come."""
        if self._folder is None:
            return
        encoder: Any = pl_module.encoder
        place, unfinished = self._folder / MODEL, self._folder / f".{MODEL}.new"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            with stage("saving the encoder"):
                encoder.save(unfinished)
            shutil.rmtree(place, ignore_errors=True)
            unfinished.replace(place)
        except Exception as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            self._failed = error
            log.error(
                "%s could not be written: %s. The checkpoints are there: lit_metric.load(%r) reads them",
                place,
                error,
                str(self._folder),
            )

    def _write(self) -> None:
        """Write the report; a failure is kept for the end."""
        if self._folder is None:
            return
        try:
            write_report(self._folder / REPORT, self._report)
        except OSError as error:
            self._failed = self._failed or error
            log.error("%s could not be written: %s", self._folder / REPORT, error)

    def _save_averaged(self, trainer: Trainer) -> str | None:
        """Save the averaged weights, which the module holds now, beside the checkpoints."""
        folders = [
            folder for each in trainer.checkpoint_callbacks if (folder := getattr(each, "dirpath", None))
        ]
        if self._folder is None or not folders:
            return None
        path = Path(folders[0]) / AVERAGED
        try:
            trainer.save_checkpoint(path, weights_only=True)
        except OSError as error:
            self._failed = error
            log.error("%s could not be written: %s", path, error)
            return None
        return self._relative(path)

    def _restore_best(self, trainer: Trainer, pl_module: LightningModule) -> str | None:
        """Load the weights of the best checkpoint, if there is one; its path relative to the run folder."""
        path = trainer.strategy.broadcast(best_checkpoint(trainer))
        if path is None:
            return None
        pl_module.load_state_dict(_weights(path))
        return self._relative(path)

    def _relative(self, path: Path) -> str:
        folder, resolved = self._folder, path.resolve()
        if folder and resolved.is_relative_to(folder.resolve()):
            return str(resolved.relative_to(folder.resolve()))
        return str(resolved)

    def _measure(self, trainer: Trainer, pl_module: LightningModule, what: str) -> dict[str, float]:
        data, split = self._data(trainer), self._split(trainer)
        if split is None:
            return {}
        encoder: Any = pl_module.encoder
        evaluation: Any = pl_module.evaluation
        shown = what if trainer.progress_bar_callback is not None else None
        rank, size = trainer.global_rank, trainer.world_size
        with trainer.precision_plugin.forward_context():
            return evaluate(encoder, data, split, evaluation(split), rank, size, shown)

    def _spent(self, trainer: Trainer) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "steps": trainer.global_step,
            "texts": int(self.texts),
            "texts_per_second": int(self.texts) / max(self.seconds, 1e-9),
        }

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
        """What has been spent so far."""
        self._tick()
        return {"seconds": self.seconds, "texts": int(self.texts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What the resumed run had spent."""
        self.seconds, self.texts = float(state_dict["seconds"]), int(state_dict["texts"])


def averaged_by(trainer: Trainer) -> bool:
    """Whether ``StochasticWeightAveraging`` has put averaged weights into the module at the end."""
    return any(
        isinstance(each, StochasticWeightAveraging)
        and each.n_averaged is not None
        and (trainer.max_epochs == -1 or trainer.current_epoch > each.swa_end)
        for each in trainer.callbacks  # type: ignore[attr-defined]
    )


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
        log.warning("The best checkpoint, %s, is gone; the last weights are measured and kept", named)
    return None


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """What was written last by a callback of this run."""
    named = [
        Path(name)
        for each in trainer.checkpoint_callbacks
        for name in (getattr(each, "last_model_path", ""), getattr(each, "best_model_path", ""))
        if name
    ]
    return max(filter(Path.is_file, named), key=lambda path: path.stat().st_mtime_ns, default=None)


def how_it_ended(trainer: Trainer) -> str:
    """The name of the limit that ended training, or what else did."""
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


def _named(exception: BaseException) -> tuple[str, bool]:
    """The name of the signal that ended a run, or the error; and whether it was a signal."""
    if isinstance(exception, SIGTERMException):
        return "SIGTERM", True
    if isinstance(exception, KeyboardInterrupt):
        return "SIGINT", True
    return f"{type(exception).__name__}: {exception}".splitlines()[0], False


def _weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    found: dict[str, torch.Tensor] = state["state_dict"]
    return found


def _copy(pl_module: LightningModule) -> dict[str, torch.Tensor]:
    return {name: value.cpu().clone() for name, value in pl_module.state_dict().items()}
