"""A warning when embeddings shrink to a point or a line, or a loss stays where it would be then."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_metric.losses import Loss
from lit_metric.metrics import CollapseMonitor
from lit_metric.metrics.collapse import plateau_reason

log = logging.getLogger(__name__)


class CollapseAlarm(Callback):
    """Watches the vectors of training batches and warns once if they collapse.

    A triplet loss that has stayed at its margin (at log 2 with a soft one) since the last measurement is the
    other sign: nothing is told apart, even where vectors still spread. See :attr:`Loss.plateau`.

    Logs ``train/effective_rank``, ``train/mean_pairwise_cosine``, ``train/pairwise_spread`` and
    ``train/mean_norm``. See :class:`~lit_metric.metrics.CollapseMonitor`.

    Args:
        every: steps between measurements, each over the vectors of that many batches. An epoch with fewer
            batches is measured once, after its last batch.

    Raises:
        ValueError: if ``every`` is below 1.
    """

    def __init__(self, every: int = 50) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self.every = every
        self.warned = False
        self.monitor: CollapseMonitor | None = None
        self._looked = False
        self._losses: list[Tensor] = []  # since the last measurement, the same on all ranks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to collect vectors."""
        self.monitor = CollapseMonitor(pl_module.encoder.dimension).to(pl_module.device)  # type: ignore[union-attr,arg-type]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a batch; after every ``every`` steps, measure."""
        if self.monitor is None or not isinstance(outputs, dict) or "vectors" not in outputs:
            return
        self.monitor.update(outputs["vectors"])
        if "train/loss" in trainer.callback_metrics:
            self._losses.append(trainer.callback_metrics["train/loss"].detach())
        due = trainer.global_step % self.every == 0
        # Not at the end of the epoch: the first rank's progress bar may be waiting for the others there.
        if due or (trainer.is_last_batch and not self._looked):
            self._log(pl_module)
        if due:
            self._warn(trainer, pl_module)
        self._looked = not trainer.is_last_batch and (self._looked or due)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the batches since the last time, which may be all of a short run."""
        self._warn(trainer, pl_module)

    def _log(self, pl_module: LightningModule) -> None:
        assert self.monitor is not None
        values = self.monitor.compute()
        pl_module.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)

    def _warn(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is None or not int(self.monitor.count):
            return
        what, reason = "The embeddings have collapsed", self.monitor.reason()
        loss = getattr(pl_module, "loss", None)  # a module from elsewhere may have none
        plateau = loss.plateau if isinstance(loss, Loss) else None
        if reason is None and plateau is not None and self._losses:
            what, reason = "Training is stuck", plateau_reason(torch.stack(self._losses), plateau)
        if reason is not None and not self.warned:
            self.warned = True
            log.warning(
                "%s at step %d: %s. Try a smaller learning rate, a loss over all negatives in place of the "
                "hardest, or smaller batches",
                what,
                trainer.global_step,
                reason,
            )
        self.monitor.reset()
        self._losses = []
