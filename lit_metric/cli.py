"""``lit-metric fit | validate | test | predict`` by LightningCLI, beside ``encode | search | export``."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningCLI

from lit_metric import commands
from lit_metric.data import DataError
from lit_metric.mining import TableError

log = logging.getLogger(__name__)

RUN = "LIT_METRIC_RUN"
USER_ERRORS = (DataError, TableError, FileNotFoundError, ValueError, TypeError)


class MetricCLI(LightningCLI):
    """LightningCLI for the configs that ship with the project.

    A new ``fit`` never writes into the folder of an earlier one: where ``runs/NAME`` holds a config, it is
    called ``NAME-2``, and so on. Resuming by ``--ckpt_path`` goes on in ``runs/NAME``.
    """

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder."""
        if self.subcommand != "fit":
            return
        config = self.config[self.subcommand]
        if not config.get("ckpt_path"):
            rename_run(config.trainer.get("logger"))

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Nothing but what plain LightningCLI has, so that configs run with that, too."""


def rename_run(loggers: Any) -> None:
    """Change the name in the configs of ``loggers`` to one whose folder holds no config yet."""
    configs = [logger for logger in (loggers if isinstance(loggers, list) else [loggers]) if _named(logger)]
    if not configs:
        return
    first = configs[0].init_args
    chosen = os.environ.get(RUN) or _free(Path(first.save_dir), first.name)
    # Ranks that are started from this process must write to the same folder.
    os.environ[RUN] = chosen
    if chosen != first.name:
        log.warning(
            "%s holds a run already; this one writes to %s", Path(first.save_dir) / first.name, chosen
        )
        for logger in configs:
            if logger.init_args.name == first.name:
                logger.init_args.name = chosen


def _named(logger: Any) -> bool:
    arguments = getattr(logger, "init_args", None)
    return arguments is not None and bool(arguments.get("name")) and bool(arguments.get("save_dir"))


def _free(root: Path, name: str) -> str:
    number, candidate = 1, name
    while (root / candidate / "config.yaml").exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. A user's mistake gives one line and exit status 2; ``--debug`` adds the traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet()
    try:
        if arguments and arguments[0] in commands.COMMANDS:
            commands.run(arguments)
        else:
            MetricCLI(
                args=arguments,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={"description": __doc__},
                seed_everything_default=0,
            )
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"lit-metric: {type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def quiet() -> None:
    """Leave out what other libraries say about themselves at every start."""
    for name in ("httpx", "huggingface_hub", "sentence_transformers", "datasets", "faiss"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*`LightningModule.configure_callbacks`.*",
        ".*num_workers.*",
    ):
        warnings.filterwarnings("ignore", pattern)


if __name__ == "__main__":
    main()
