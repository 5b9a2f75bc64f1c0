"""Keeps the weights that a run starts from, for a report of what training changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file

from lit_metric.loggers import run_folder

UNTRAINED = "untrained.safetensors"


class KeepUntrained(Callback):
    """Writes the weights of the untrained encoder into the run folder, as ``untrained.safetensors``.

    A resumed run keeps those that its first part wrote.

    Attributes:
        folder: of the run, once the fit has started; None where nothing may be written.
    """

    folder: Path | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights."""
        self.folder = run_folder(trainer)
        if self.folder is None or not trainer.is_global_zero or trainer.ckpt_path is not None:
            return
        encoder: Any = pl_module.encoder
        self.folder.mkdir(parents=True, exist_ok=True)
        # Copies, as safetensors refuses tensors that share memory.
        weights = {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}
        save_file(weights, self.folder / UNTRAINED)
