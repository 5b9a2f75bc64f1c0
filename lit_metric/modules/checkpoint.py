"""What a checkpoint holds besides weights, so that it can be loaded by itself."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from lit_metric.configurable import build, checked_spec, parameters_of
from lit_metric.encoders import Encoder
from lit_metric.encoders.description import (
    FORMAT,
    KEY,
    Description,
    check_rebuildable,
    describe,
    encoder_in,
    read_checkpoint,
)
from lit_metric.mining import Miner
from lit_metric.modules.tasks import TaskLosses

log = logging.getLogger(__name__)

PARTS = ("encoder", "query", "document", "loss")
"""Arguments of a learner that are described by themselves."""


class LoadableModule(LightningModule):
    """A learner whose checkpoints describe its encoder, its loss and its settings.

    Attributes:
        encoder: what is trained.
    """

    encoder: Encoder
    loss: Any
    _description: Description | None = None
    _loss_spec: Any = None

    def check_saved(self, miner: Miner | None, inline: bool = False) -> None:
        """Build encoder, loss and miner from their descriptions: what can't be loaded after training is found
        before it.

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
        """Describe encoder, loss and settings in JSON types, which need no trust to be read."""
        if self._description is None:  # saved without training
            self._description = describe(self.encoder)
            self._describe_loss()
        checkpoint[KEY] = {
            "format": FORMAT,
            "encoder": self._description,
            "loss": self._loss_spec,
            "settings": settings_of(self),
        }

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
            arguments: of this class, instead of what the checkpoint says.

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
        learner.load_state_dict(content["state_dict"])
        return learner if map_location is None else learner.to(map_location)

    @classmethod
    def encoder_arguments(cls, encoder: Encoder) -> dict[str, Any]:
        """The arguments of this class that stand for its encoder."""
        return {"encoder": encoder}


def loss_spec(loss: Any) -> Any:
    """The description of a loss, or of one for each data set, checked.

    Raises:
        TypeError: if an argument can't be written down.
        ValueError: if it can't be built again.
    """
    if isinstance(loss, TaskLosses):
        return {name: checked_spec(each) for name, each in loss.losses.items()}
    return checked_spec(loss)


def settings_of(learner: LightningModule) -> dict[str, Any]:
    """The other arguments of a learner: those that it keeps under their names, in JSON types."""
    settings = {}
    for name in parameters_of(type(learner)):
        if name not in PARTS and hasattr(learner, name):
            with contextlib.suppress(
                TypeError, ValueError
            ):  # an object, which the class has to be given again
                settings[name] = json.loads(json.dumps(getattr(learner, name)))
    return settings
