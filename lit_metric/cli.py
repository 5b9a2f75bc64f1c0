"""``lit-metric fit | validate | test | predict`` by LightningCLI, and ``encode | search | mine | export``."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from lit_metric import commands
from lit_metric.commands.refusals import essence
from lit_metric.data import BadRows, DataError
from lit_metric.data.rejected import REJECTED, write_rejected
from lit_metric.mining import TableError
from lit_metric.mining.supervisor import MiningFailed

log = logging.getLogger(__name__)

RUN = "LIT_METRIC_RUN"
USER_ERRORS = (DataError, TableError, MiningFailed, ArgumentError, OSError, ValueError, TypeError)
EVENTS = "events.out.tfevents.*"
PRELIMINARY = ("config.yaml", "hparams.yaml", EVENTS, REJECTED)
SUBCOMMANDS = ("fit", "validate", "test", "predict")


class RunComplete(Exception):
    """Nothing is left to train."""


class StopComplete(Callback):
    """Ends the resuming of a complete run once its model and data have been found to be the checkpoint's.

    Args:
        told: what :class:`RunComplete` says.
    """

    def __init__(self, told: str) -> None:
        self.told = told

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Called when these two have been loaded."""
        raise RunComplete(self.told)


class MetricCLI(LightningCLI):
    """LightningCLI for the configs that ship with the project.

    A new ``fit`` never writes into the folder of an earlier one: where ``runs/NAME`` holds a config, it is
    called ``NAME-2``, and so on. Resuming by ``--ckpt_path`` goes on in the folder of the checkpoint. Only
    ``fit`` writes the config. What is refused before it has trained leaves no folder behind.

    Raises:
        RunComplete: when the run that ``fit`` should go on with is at its end; its folder stays as it was.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.made: Path | None = None
        self.complete: str | None = None
        self.events: dict[Path, set[Path]] = {}
        try:
            super().__init__(*arguments, **options)
        except Exception:
            for folder, earlier in self.events.items():
                for path in {*folder.glob(EVENTS)} - earlier:
                    path.unlink()
            if self.made is not None:
                remove_unused(self.made)
            raise

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder."""
        if self.subcommand != "fit":
            self.save_config_callback = None
            return
        config = self.config[self.subcommand]
        trainer = config.trainer
        checkpoint = config.get("ckpt_path")
        self.complete = nothing_left(checkpoint, trainer.get("max_epochs"), trainer.get("max_steps"))
        folder = rename_run(trainer.get("logger"), checkpoint)
        if folder is not None and not folder.exists():
            self.made = folder
        if self.complete is not None:
            self.save_config_callback = None
            if folder is not None:
                self.events = {folder: {*folder.glob(EVENTS)}}

    def before_fit(self) -> None:
        """Prepare for the end of a run that is complete."""
        if self.complete is not None:
            self.trainer.callbacks.append(StopComplete(self.complete))  # type: ignore[attr-defined]

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Nothing but what plain LightningCLI has, so that configs run with that, too."""


def nothing_left(checkpoint: str | None, max_epochs: int | None, max_steps: int | None) -> str | None:
    """What to tell of a checkpoint whose run has reached a limit, by which Lightning would train nothing.

    Args:
        checkpoint: a file; of one that can't be read, nothing is said here, and the trainer refuses it.
        max_epochs, max_steps: the trainer's; None or -1 for no limit.
    """
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        epochs = int(state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        steps = int(state["global_step"])
    except Exception:
        return None
    for name, spent, limit in (("epochs", epochs, max_epochs), ("steps", steps, max_steps)):
        if limit is not None and 0 <= limit <= spent:
            return (
                f"Nothing is left to train: {checkpoint} is of a complete run, with {spent} of {limit} "
                f"{name}. To train further, raise trainer.max_{name}"
            )
    return None


def rename_run(loggers: Any, checkpoint: str | None = None) -> Path | None:
    """Change the name in the configs of ``loggers`` to one whose folder holds no config yet, or to that of
    the run to which ``checkpoint`` belongs.

    Returns:
        The folder, if there is one and this process is the first of the run.
    """
    configs = [logger for logger in (loggers if isinstance(loggers, list) else [loggers]) if _named(logger)]
    if not configs:
        return None
    first = configs[0].init_args
    root, name = Path(first.save_dir), first.name
    if checkpoint:
        chosen = _run_of(root, Path(checkpoint)) or name
    elif "LOCAL_RANK" in os.environ and RUN in os.environ:
        # Started by rank zero, which looked before it wrote anything.
        chosen = os.environ[RUN]
    else:
        chosen = os.environ[RUN] = _free(root, name)
        if chosen != name:
            log.warning("%s holds a run already; this one writes to %s", root / name, root / chosen)
    for logger in configs:
        if logger.init_args.name == name:
            logger.init_args.name = chosen
    return None if "LOCAL_RANK" in os.environ else root / chosen


def remove_unused(folder: Path) -> None:
    """Remove a run's folder, and the one around it if that is then empty, unless it holds more than was
    written before training; a list of rejected rows stays."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not all(any(path.match(pattern) for pattern in PRELIMINARY) for path in files):
        return
    for path in files:
        if path.name != REJECTED:
            path.unlink()
    for empty in [*sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True), folder]:
        with contextlib.suppress(OSError):  # not empty, or never made
            empty.rmdir()
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _named(logger: Any) -> bool:
    arguments = getattr(logger, "init_args", None)
    return arguments is not None and bool(arguments.get("name")) and bool(arguments.get("save_dir"))


def _run_of(root: Path, checkpoint: Path) -> str | None:
    """The name of the run among those in ``root`` whose folder holds ``checkpoint``."""
    root, checkpoint = root.resolve(), checkpoint.resolve()
    if not checkpoint.is_file() or not checkpoint.is_relative_to(root):
        return None
    name = checkpoint.relative_to(root).parts[0]
    return name if (root / name).is_dir() else None


def _free(root: Path, name: str) -> str:
    number, candidate = 1, name
    while (root / candidate / "config.yaml").exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. A user's mistake gives one line and exit status 2; ``--debug`` shows where."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if arguments is None:
        sys.argv[1:] = given  # Lightning reads them there, and starts other ranks with them.
    # What a run does is said once; all ranks warn.
    first = getattr(rank_zero_only, "rank", 0) == 0
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    quiet()
    try:
        if given and given[0] in commands.COMMANDS:
            commands.run(given)
        else:
            quietly_fail: dict[str, Any] = {"exit_on_error": False}
            MetricCLI(
                args=None if arguments is None else given,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={
                    "description": __doc__,
                    **quietly_fail,
                    **dict.fromkeys(SUBCOMMANDS, quietly_fail),
                },
                seed_everything_default=0,
            )
    except RunComplete as end:
        rank_zero_only(print)(f"lit-metric: {end}", file=sys.stderr)
    except Exception as error:
        line = mistake(error)
        if debug or line is None:
            raise
        print(f"lit-metric: {line}{listed_rows(error)}", file=sys.stderr)
        raise SystemExit(2) from error


def listed_rows(error: Exception) -> str:
    """Write all bad rows into a file here, if the message has left some out, and say where they are."""
    if not (isinstance(error, BadRows) and error.problems.shortened):
        return ""
    try:
        return f" All are listed in {write_rejected(error.problems, Path())}."
    except OSError as denied:
        return f" They can't be listed in a file here: {denied}."


def mistake(error: Exception) -> str | None:
    """What to tell of a user's mistake; None if the program is at fault."""
    # What torch.load says of files that hold something else, nothing, or a checkpoint's beginning.
    torn = isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
    if torn or isinstance(error, (pickle.UnpicklingError, EOFError)) or "PytorchStreamReader" in str(error):
        return "the checkpoint can't be read: the file is damaged, or no checkpoint; give another ckpt_path"
    if not isinstance(error, USER_ERRORS):
        return None
    kind = "DataError" if isinstance(error, DataError) else type(error).__name__
    return " ".join(f"{kind}: {essence(str(error))}".split())


def quiet() -> None:
    """Leave out what other libraries say about themselves at every start, and warnings that err."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_tips)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # tells of each retry, twice
    for name in ("httpx", "sentence_transformers", "datasets", "faiss"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*`LightningModule.configure_callbacks`.*",
        ".*num_workers.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*your dataloader is not resumable.*",  # it is, without Lightning's help
        ".*in eval mode at the start of training.*",  # what is frozen
        ".*You have overridden `transfer_batch_to_device`.*",
        ".*recommended to use `self.log.*sync_dist=True.*",  # every rank has computed the same
    ):
        warnings.filterwarnings("ignore", pattern)


def _no_tips(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


if __name__ == "__main__":
    main()
