"""The part of a learner that plans its optimizer, and goes on with that of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import GradClipAlgorithmType

from lit_metric.callbacks.mining import batches_of_epoch
from lit_metric.datamodule import MetricDataModule
from lit_metric.losses import Loss, ProxyLoss
from lit_metric.modules.checkpoint import LoadableModule
from lit_metric.modules.resume import BATCHES, KEY, Options, Resumption, learned, options_of
from lit_metric.modules.schedule import Schedule, multiplier, parameter_groups, planned_steps


class ResumableModule(LoadableModule):
    """A learner that is resumed with the options that it has now; see :mod:`lit_metric.modules.resume`.

    Attributes:
        lr, weight_decay, lr_scale, warmup, schedule: see :class:`~lit_metric.MetricLearner`.
    """

    lr: float
    weight_decay: float
    lr_scale: dict[str, float]
    warmup: float
    schedule: Schedule
    _steps: int | None = None
    _batches: int | None = None
    _loss_options: Options
    _learned_from: dict[str, float]

    @property
    def data(self) -> MetricDataModule:
        """The trainer's data module.

        Raises:
            TypeError: if it is none of ours.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, MetricDataModule):
            raise TypeError(f"MetricLearner needs a MetricDataModule, got {type(data).__name__}")
        return data

    def note_loss(self, loss: Loss | dict[str, Loss]) -> None:
        """Note with what the loss begins, before a temperature is learned or loaded."""
        self._loss_options = options_of(loss, "loss")
        self._learned_from = learned(self.loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the encoder, and note the options of this run for one that is resumed with others."""
        super().on_save_checkpoint(checkpoint)
        if self._trainer is not None and "train" in self.data.splits:
            checkpoint[KEY] = {"options": self._options(), "learned": self._learned_from}

    def _options(self) -> Options:
        """What can be another in a resumed run, and matters."""
        names = ("lr", "weight_decay", "lr_scale", "warmup", "schedule")
        found = {name: getattr(self, name) for name in names}
        found |= {**options_of(self.encoder, "encoder"), **self._loss_options}
        found |= {"planned steps": self._steps, BATCHES: self._batches}
        found |= {"data.seed": self.data.seed, "data.validation_corpus": self.data.against["validation"]}
        found |= options_of(self.data.planner, "data.planner") | options_of(self.data.miner, "data.miner")
        found |= options_of(self.data.refresh, "data.refresh") if self.data.miner is not None else {}
        trainer = self.trainer
        found |= {f"trainer.{name}": getattr(trainer, name) for name in ("precision", "gradient_clip_val")}
        return found

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another model, and apply or refuse options that are not the checkpoint's.

        Raises:
            ValueError: says what doesn't fit, and how many.
        """
        for name, module in self.loss.named_modules(prefix="loss"):
            if isinstance(module, ProxyLoss):
                module.make_room(checkpoint["state_dict"], f"{name}.")
        saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        own = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        if odd := [name for name in {**own, **saved} if own.get(name) != saved.get(name)]:
            name = odd[0]
            raise ValueError(
                f"the checkpoint is of another model: {name} is {saved.get(name, 'missing')} there and "
                f"{own.get(name, 'missing')} here ({len(odd)} of {len(own)} differ); use the config.yaml "
                "that lies in the run's folder"
            )
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            # Other data matter more than what is told next, so they are refused first.
            self.data.load_state_dict(checkpoint.get(type(self.data).__qualname__, {}))
            plan = self._plan() if self._plans_itself() else None
            Resumption(checkpoint, self._options(), self._learned_from, self.trainer).apply(plan)

    def configure_optimizers(self) -> Any:
        """AdamW, fused unless float16 scales the gradients, with warm-up and schedule by the step."""
        optimizer, rate = self._plan()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        named = {"scheduler": scheduler, "interval": "step", "name": "lr"}
        return {"optimizer": optimizer, "lr_scheduler": named}

    def _plan(self) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
        """A new optimizer, and the factor on its rates at each step."""
        groups = parameter_groups(self, self.lr, self.weight_decay, self.lr_scale)
        # A fused optimizer unscales in its step, so that nothing could be clipped before.
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=fused)
        self._batches = batches_of_epoch(self.trainer, self.data)
        self._steps = steps = planned_steps(self.trainer, self.data.batches_per_epoch)
        return optimizer, multiplier(self.schedule, steps, round(self.warmup * steps))

    def _plans_itself(self) -> bool:
        """Whether the optimizer is that of :meth:`configure_optimizers`, and nobody else's."""
        own = type(self).configure_optimizers is ResumableModule.configure_optimizers
        return own and "configure_optimizers" not in vars(self)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip under ``bf16-mixed``, too.

        Lightning refuses to clip for a fused optimizer under any autocast, since that unscales the gradients
        itself; but only those of float16 are scaled.
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None and gradient_clip_val is not None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
