"""What a checkpoint holds of a learner besides weights, and how a learner is loaded or resumed from it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import GradClipAlgorithmType

from lit_metric.callbacks.mining import batches_of_epoch
from lit_metric.configurable import build, checked_spec, parameters_of
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.encoders.adapter import referenced
from lit_metric.encoders.description import (
    FORMAT,
    KEY,
    Description,
    check_rebuildable,
    describe,
    encoder_in,
    read_checkpoint,
)
from lit_metric.losses import CandidateBank, Loss, ProxyLoss
from lit_metric.mining import Miner
from lit_metric.modules import resume
from lit_metric.modules.resume import BATCHES, Options, Resumption, learned, options_of
from lit_metric.modules.row_adamw import ROWS, RowAdamW, dense_gradients, tables_of
from lit_metric.modules.schedule import Schedule, multiplier, parameter_groups, planned_steps
from lit_metric.modules.tasks import TaskLosses

log = logging.getLogger(__name__)

PARTS = ("encoder", "query", "document", "loss")
"""Arguments of a learner with a description of their own."""


class CheckpointedModule(LightningModule):
    """A learner whose checkpoints describe its encoder, its loss and its settings.

    A resumed learner applies its own options or refuses them; see :mod:`lit_metric.modules.resume`.

    Attributes:
        encoder: the trained encoder.
        loss, lr, weight_decay, lr_scale, layer_decay, warmup, schedule, memory: see
            :class:`~lit_metric.MetricLearner`.
        bank: candidates from outside the batch, or None.
    """

    encoder: Encoder
    loss: Any
    lr: float
    weight_decay: float
    lr_scale: dict[str, float]
    layer_decay: float
    warmup: float
    schedule: Schedule
    memory: int | CandidateBank
    bank: CandidateBank | None
    _description: Description | None = None
    _loss_spec: Any = None
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

    def check_strategy(self) -> None:
        """Refuse strategies that share out weights, or their checkpoints, in pieces over the processes.

        Raises:
            ValueError: names the strategy.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, (ModelParallelStrategy, FSDPStrategy, DeepSpeedStrategy)):
            raise ValueError(
                f"a run can't use {type(strategy).__name__}, which keeps weights or checkpoints in pieces on "
                "several processes: evaluation, mining, resuming and model/ need them whole. Take strategy "
                "ddp. To save memory, give the encoder an adapter, such as LoRA, or recompute: layers"
            )

    def note_loss(self, loss: Loss | dict[str, Loss]) -> None:
        """Remember the options of the loss before a temperature is learned or loaded."""
        self._loss_options = options_of(loss, "loss")
        self._learned_from = learned(self.loss)

    def check_saved(self, miner: Miner | None, inline: bool = False) -> None:
        """Build encoder, loss and miner from their descriptions, to find before training what can't be loaded
        after it.

        Raises:
            TypeError: if an argument of the encoder or the miner can't be written down.
            ValueError: if the encoder, or a miner that another process needs, can't be built again.
        """
        self._description = check_rebuildable(self.encoder)
        self._describe_loss()
        if miner is not None:
            # A class that no other process can import is mined with inline, which the callback says.
            inline = inline or "<locals>" in type(miner).__qualname__
            _ = miner.spec() if inline else checked_spec(miner)

    def _describe_loss(self) -> None:
        try:
            self._loss_spec = loss_spec(self.loss)
        except (TypeError, ValueError) as error:
            log.warning(
                "Checkpoints can't describe the loss: %s. To load one, give it: "
                "MetricLearner.load_from_checkpoint(path, loss=...)",
                error,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe encoder, loss, settings and options of the run in JSON types, which are safe to read; and
        leave out the weights of an adapter's base, which the description names."""
        for name in referenced(self):
            checkpoint["state_dict"].pop(name, None)
        if self._description is None:  # saved without training
            self._description = describe(self.encoder)
            self._describe_loss()
        settings = {}
        for name in parameters_of(type(self)):
            if name not in PARTS and hasattr(self, name):
                # An object can't be written as JSON; the caller passes it when loading the class.
                with contextlib.suppress(TypeError, ValueError):
                    settings[name] = json.loads(json.dumps(getattr(self, name)))
        checkpoint[KEY] = {
            "format": FORMAT,
            "encoder": self._description,
            "loss": self._loss_spec,
            "settings": settings,
        }
        if self._trainer is not None and "train" in self.data.splits:
            checkpoint[resume.KEY] = {"options": self._options(), "learned": self._learned_from}
            if self.bank is not None:
                checkpoint[resume.KEY]["bank"] = self.bank.state_dict()

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        trust_remote_code: bool = False,
        **arguments: Any,
    ) -> Any:
        """The learner that a checkpoint holds.

        Args:
            checkpoint_path: a file that a run wrote.
            map_location: the device to bring it to; the CPU if None.
            trust_remote_code: allow classes outside lit_metric and transformers.
            arguments: of this class, instead of those of the checkpoint.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it can't be read, describes no encoder or no loss and none is given, or names
                classes that aren't trusted.
        """
        content = read_checkpoint(Path(checkpoint_path))
        described: Mapping[str, Any] = content.get(KEY) or {}
        if not any(name in arguments for name in PARTS[:3]):
            arguments |= cls.encoder_arguments(encoder_in(content, checkpoint_path, trust_remote_code))
        if "loss" not in arguments:
            if not described.get("loss"):
                raise ValueError(
                    f"{checkpoint_path} doesn't describe its loss: pass one, as in "
                    f"`{cls.__name__}.load_from_checkpoint(path, loss=InfoNCELoss())`"
                )
            arguments["loss"] = build(described["loss"], trust_remote_code=trust_remote_code)
        learner = cls(**{**described.get("settings", {}), **arguments})
        learner.load_state_dict({**referenced(learner), **content["state_dict"]})
        return learner if map_location is None else learner.to(map_location)

    @classmethod
    def encoder_arguments(cls, encoder: Encoder) -> dict[str, Any]:
        """The arguments of this class that stand for its encoder."""
        return {"encoder": encoder}

    def _options(self) -> Options:
        """The options that a resumed run may change."""
        names = ("lr", "weight_decay", "lr_scale", "layer_decay", "warmup", "schedule")
        found = {name: getattr(self, name) for name in names}
        found |= {**options_of(self.encoder, "encoder"), **self._loss_options}
        found |= options_of(self.memory, "memory") if self.bank is not None else {}
        found |= {"planned steps": self._steps, BATCHES: self._batches}
        found |= {"data.seed": self.data.seed, "data.validation_corpus": self.data.against["validation"]}
        found |= options_of(self.data.planner, "data.planner") | options_of(self.data.miner, "data.miner")
        found |= options_of(self.data.refresh, "data.refresh") if self.data.miner is not None else {}
        trainer = self.trainer
        found |= {f"trainer.{name}": getattr(trainer, name) for name in ("precision", "gradient_clip_val")}
        return found

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the weights fit, and apply options that differ from the checkpoint's, or refuse them.

        Raises:
            ValueError: if the weights are of another model, or an option can't be applied.
        """
        state = checkpoint["state_dict"]
        if self.loss is None:  # only encodes, so no data have chosen a loss
            state = {name: value for name, value in state.items() if not name.startswith("loss.")}
        for name, module in [] if self.loss is None else self.loss.named_modules(prefix="loss"):
            if isinstance(module, ProxyLoss):
                module.make_room(state, f"{name}.")
        checkpoint["state_dict"] = {**referenced(self), **state}
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
            # Other data are the larger mistake, so they are refused first.
            self.data.load_state_dict(checkpoint.get(type(self.data).__qualname__, {}))
            plan = self._plan() if self._has_own_optimizer() else None
            Resumption(checkpoint, self._options(), self._learned_from, self.trainer).apply(plan)
            if self.bank is not None:
                self.bank.load_state_dict(checkpoint.get(resume.KEY, {}).get("bank", {}))

    def _has_own_optimizer(self) -> bool:
        """Whether the optimizer is this library's, and not that of a subclass or a user."""
        own = type(self).configure_optimizers is CheckpointedModule.configure_optimizers
        return own and "configure_optimizers" not in vars(self)

    def use_sparse_gradients(self) -> None:
        """Give tables of token vectors sparse gradients where these are faster and can be reduced over ranks:
        on the CPU, with this library's optimizer. Called before the strategy wraps the module."""
        strategy = self.trainer.strategy
        fit = isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)) and strategy.root_device.type == "cpu"
        for table in tables_of(self):
            table.sparse = fit and self._has_own_optimizer()

    def teardown(self, stage: str) -> None:
        """Leave tables with dense gradients, which the optimizers of torch need in another loop."""
        for table in tables_of(self):
            table.sparse = False

    def configure_optimizers(self) -> Any:
        """AdamW, fused unless float16 scales the gradients, with warm-up and schedule by the step.

        Tables of token vectors are updated by rows; see :class:`~lit_metric.modules.row_adamw.RowAdamW`.
        """
        optimizer, rate = self._plan()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        named = {"scheduler": scheduler, "interval": "step", "name": "lr"}
        return {"optimizer": optimizer, "lr_scheduler": named}

    def _plan(self) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
        """A new optimizer, and the factor on its rates at each step."""
        groups = parameter_groups(self, self.lr, self.weight_decay, self.lr_scale, self.layer_decay)
        # A fused optimizer unscales in its step, so that nothing could be clipped before.
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        kind = RowAdamW if any(group.get(ROWS) for group in groups) else torch.optim.AdamW
        optimizer = kind(groups, lr=self.lr, fused=fused)
        self._batches = batches_of_epoch(self.trainer, self.data)
        self._steps = steps = planned_steps(self.trainer, self.data.batches_per_epoch)
        return optimizer, multiplier(self.schedule, steps, round(self.warmup * steps))

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
        if any(table.sparse for table in tables_of(self)):  # torch can't clip sparse gradients
            parameters = (each for group in optimizer.param_groups for each in group["params"])
            optimizer = SimpleNamespace(param_groups=[{"params": dense_gradients(parameters)}])
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None and gradient_clip_val is not None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


def loss_spec(loss: Any) -> Any:
    """The description of a loss, or of one for each data set, checked.

    Raises:
        TypeError: if an argument can't be written down.
        ValueError: if it can't be built again.
    """
    if isinstance(loss, TaskLosses):
        return {name: checked_spec(each) for name, each in loss.losses.items()}
    return checked_spec(loss)
