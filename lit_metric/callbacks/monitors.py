"""What ``EarlyStopping``, ``ModelCheckpoint`` and others monitor: is it there, can it be measured?"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_metric.renamed import refused_metric

log = logging.getLogger(__name__)

OURS = ("lit_metric", "lightning", "pytorch_lightning")
LOGGED_WHILE_TRAINING = ("train/", "mining/")


def check_monitors(trainer: Trainer, pl_module: LightningModule, measured: Collection[str]) -> None:
    """Refuse to train if a callback waits for a metric that there will never be.

    Where the module or a callback is somebody else's, and may log under any name, there is only a warning.

    Args:
        trainer: whose callbacks are looked at.
        pl_module: what is trained.
        measured: names of what is measured of the validation split, without ``val/``.

    Raises:
        ValueError: says which metrics there are.
    """
    known = sorted(f"val/{name}" for name in measured)
    everything = [pl_module, *trainer.callbacks]  # type: ignore[attr-defined]
    ours = all(type(each).__module__.partition(".")[0] in OURS for each in everything)
    for callback in _monitoring(trainer):
        name = _monitored(callback)
        if name in known or name.startswith(LOGGED_WHILE_TRAINING) or name in ("epoch", "step"):
            continue
        ending = f"/{name.rpartition('/')[2]}"
        near = [each for each in known if each == "val/mean" or each.endswith(ending)]
        near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        message = refused_metric(name) or (
            f"{type(callback).__name__} monitors {name!r}, which these data don't have"
            f"{': take ' + ' or '.join(near[:3]) if near else ''}. All that are measured: {', '.join(known)}"
        )
        if ours:
            raise ValueError(message)
        log.warning("%s; unless a module or callback of your own logs it", message)


def set_aside(trainer: Trainer, unmeasured: Collection[str]) -> list[str]:
    """Keep metrics that can't be measured from deciding anything: nothing stops early by them, and the latest
    checkpoint stands for the best.

    Args:
        trainer: whose callbacks are changed, for the rest of the fit.
        unmeasured: names as they are logged.

    Returns:
        What was changed, to be told.
    """
    changed = []
    for callback in _monitoring(trainer):
        if _monitored(callback) not in unmeasured:
            continue
        if isinstance(callback, EarlyStopping):
            trainer.callbacks.remove(callback)  # type: ignore[attr-defined]
            changed.append(f"early stopping by {_monitored(callback)} is off")
        elif isinstance(callback, ModelCheckpoint):
            changed.append(f"the latest checkpoint is kept in place of the best by {_monitored(callback)}")
            callback.monitor = None
    return changed


def _monitoring(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [each for each in callbacks if _monitored(each)]


def _monitored(callback: Callback) -> str:
    """The name of the metric that a callback monitors, empty if there is none."""
    name = getattr(callback, "monitor", None)
    return name if isinstance(name, str) else ""
