"""What a run was worth: the test metrics before and after, the time it took, and the trained encoder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_metric.callbacks.run_folder import read_json, run_folder, write_report
from lit_metric.datamodule import MetricDataModule
from lit_metric.evaluation import evaluate

log = logging.getLogger(__name__)


class RunReport(Callback):
    """Writes ``metrics.json`` and the trained encoder (``model/``) into the run folder.

    ``before`` holds the metrics of the untrained encoder on the test split (the validation split if there
    is no test split); a resumed run reads it back. ``after`` holds those of the best checkpoint if a
    ``ModelCheckpoint`` monitors something, else of the last weights. Besides: ``split``,
    ``best_checkpoint``, ``seconds`` (wall time of the fit with mining and validation, without these two
    evaluations, summed over resumed parts), ``steps``, ``texts`` (distinct texts encoded in training steps,
    all ranks) and ``texts_per_second``.

    Args:
        before: whether to evaluate the untrained encoder.
    """

    def __init__(self, before: bool = True) -> None:
        self.before = before
        self.seconds = 0.0
        self.texts: int | torch.Tensor = 0
        self._started: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the untrained encoder, unless the run is a resumed one."""
        folder = run_folder(trainer)
        report: dict[str, Any] = read_json(folder / "metrics.json") if folder else {}
        if self.seconds == 0.0 or "before" not in report:
            report = {"split": self._split(trainer)}
            if self.before and self.seconds == 0.0:
                report["before"] = self._measure(trainer, pl_module)
            if folder and trainer.is_global_zero:
                write_report(folder / "metrics.json", report)
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count texts."""
        self.texts = self.texts + outputs["texts"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, measure the best checkpoint, keep its encoder."""
        self._tick()
        self._started = None
        last = {name: value.cpu().clone() for name, value in pl_module.state_dict().items()}
        best = self._restore_best(trainer, pl_module)
        after = self._measure(trainer, pl_module)
        folder = run_folder(trainer)
        if folder and trainer.is_global_zero:
            encoder: Any = pl_module.encoder
            encoder.save(folder / "model")
        # Checkpoints may still be written, and are of the last weights.
        pl_module.load_state_dict(last)
        if not (folder and trainer.is_global_zero):
            return
        report = read_json(folder / "metrics.json")
        report |= {
            "after": after,
            "best_checkpoint": best,
            "seconds": self.seconds,
            "steps": trainer.global_step,
            "texts": int(self.texts),
            "texts_per_second": int(self.texts) / max(self.seconds, 1e-9),
        }
        write_report(folder / "metrics.json", report)
        log.info("Wrote %s and %s", folder / "metrics.json", folder / "model")

    def _restore_best(self, trainer: Trainer, pl_module: LightningModule) -> str | None:
        """Load the weights of the best checkpoint, if there is one; its path relative to the run folder."""
        for callback in trainer.checkpoint_callbacks:
            named = trainer.strategy.broadcast(getattr(callback, "best_model_path", ""))
            if not (isinstance(callback, ModelCheckpoint) and callback.monitor and named):
                continue
            # The folder of a resumed run may have been moved since its checkpoint was written.
            places = [Path(named), Path(callback.dirpath or ".") / Path(named).name]
            path = next(filter(Path.is_file, places), None)
            if path is None:
                log.warning("The best checkpoint, %s, is gone; the last weights are measured and kept", named)
                continue
            state = torch.load(path, map_location="cpu", weights_only=True)
            pl_module.load_state_dict(state["state_dict"])
            folder, resolved = run_folder(trainer), path.resolve()
            if folder and resolved.is_relative_to(folder.resolve()):
                return str(resolved.relative_to(folder.resolve()))
            return str(resolved)
        return None

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        data, split = self._data(trainer), self._split(trainer)
        encoder: Any = pl_module.encoder
        evaluation: Any = pl_module.evaluation
        with trainer.precision_plugin.forward_context():
            return evaluate(encoder, data, split, evaluation(split), trainer.global_rank, trainer.world_size)

    def _data(self, trainer: Trainer) -> MetricDataModule:
        data = getattr(trainer, "datamodule", None)
        assert isinstance(data, MetricDataModule)
        return data

    def _split(self, trainer: Trainer) -> str:
        return "test" if "test" in self._data(trainer).splits else "validation"

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
