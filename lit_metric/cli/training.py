"""``lit-metric fit | validate | test | predict``, by LightningCLI."""

from __future__ import annotations

import logging
import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace, dict_to_namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

# Classes are found by their bare names once they are imported.
from lit_metric import batching, callbacks, encoders, index, losses, mining, modules  # noqa: F401
from lit_metric.callbacks.untrained import UNTRAINED, KeepUntrained
from lit_metric.cli import TRAINING
from lit_metric.cli.defaults import (
    defaults,
    options_to_trust,
    suit_lr,
    suit_tags,
    with_shipped_configs,
    without_what_cannot_be,
)
from lit_metric.cli.parser import Parser
from lit_metric.cli.run_name import EVENTS, name_run, remove_unused
from lit_metric.datamodule import MetricDataModule
from lit_metric.loggers import run_folder
from lit_metric.modules.checkpoint import loss_spec
from lit_metric.modules.evaluated import EvaluatedModule
from lit_metric.modules.schedule import TABLE_LR
from lit_metric.report.plots import check_matplotlib

log = logging.getLogger(__name__)

EXAMPLES = {
    "fit": "lit-metric fit --data.train questions.csv --model.loss TripletLoss --model.loss.margin 0.3",
    "validate": "lit-metric validate --config runs/questions/config.yaml --ckpt_path best",
    "test": "lit-metric test --config runs/questions/config.yaml --ckpt_path best",
    "predict": "lit-metric predict --config runs/questions/config.yaml --ckpt_path best --data.predict f.csv",
}


REPORT = {
    "--report": "At the end, write report.html into the run's folder; see lit-metric inspect.",
    "--plots": "At the end, draw map, curves and confusions into the run's folder plots.",
}


TRUST = "Pass trust_remote_code=True"
"""What the error of a backbone says to somebody who writes Python."""


class RunComplete(Exception):
    """Nothing is left to train."""


class StopComplete(Callback):
    """Ends a resumed run that is complete, after a check that model and data are the checkpoint's.

    Args:
        message: of :class:`RunComplete`.
    """

    def __init__(self, message: str) -> None:
        self.message = message

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Called after model and data are loaded."""
        raise RunComplete(self.message)


class TrainingParser(Parser, LightningArgumentParser):
    """LightningCLI's parser, with our messages; it shows and saves the learning rate that is used."""

    def dump(self, cfg: Any, *arguments: Any, **options: Any) -> str:
        """As jsonargparse's, of a config that is not changed."""
        cfg = cfg.clone()
        for each in (cfg, *(cfg.get(name) for name in TRAINING)):
            # Data alone are written, too, and their `test` and `predict` are no commands.
            suit_lr(each.get("model") if isinstance(each, Namespace) else None)
        return str(super().dump(cfg, *arguments, **options))


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's own folder, whatever the logger, or nowhere."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it before anything else."""
        if not self.already_saved:
            self._save(trainer)
        self.already_saved = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the loss, too, if the data chose it."""
        model = self.config.get("model")
        loss: Any = getattr(pl_module, "loss", None)
        if (
            model is None
            or "init_args" not in model
            or model.init_args.get("loss", "") is not None
            or loss is None
        ):
            return
        model.init_args["loss"] = dict_to_namespace(loss_spec(loss))
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        folder = run_folder(trainer)
        if folder is not None and trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            path = str(folder / self.config_filename)
            self.parser.save(self.config, path, skip_none=False, overwrite=self.overwrite, multifile=False)


class MetricCLI(LightningCLI):
    """LightningCLI with the defaults of the project; see :mod:`lit_metric.cli.defaults`.

    A new ``fit`` never writes into the folder of an earlier one; see
    :func:`~lit_metric.cli.run_name.name_run`. Only ``fit`` writes the config. What is refused before it has
    trained leaves no folder behind.

    Args:
        only: the one subcommand whose parser is needed; all if None.

    Raises:
        RunComplete: when the run that ``fit`` should resume is complete; its folder stays unchanged.
    """

    def __init__(self, *arguments: Any, only: str | None = None, **options: Any) -> None:
        self.made: Path | None = None
        self.untrained: KeepUntrained | None = None
        self.complete: str | None = None
        self.to_trust: dict[str, str] = {}
        self.events: dict[Path, set[Path]] = {}
        offered = LightningCLI.subcommands()
        self.subcommands = lambda: {only: offered[only]} if only else offered  # type: ignore[method-assign]
        options = {"save_config_callback": SaveConfig, "parser_class": TrainingParser, **options}
        try:
            super().__init__(*arguments, **options)
        except Exception:
            for folder, earlier in self.events.items():
                for path in {*folder.glob(EVENTS)} - earlier:
                    path.unlink()
            trainer = getattr(self, "trainer", None)
            if self.made is not None and not (isinstance(trainer, Trainer) and trainer.global_step):
                remove_unused(self.made)
            raise

    def _add_subcommands(self, parser: Any, **options: Any) -> None:
        super()._add_subcommands(parser, **options)
        for name, each in self._subcommand_parsers.items():
            each.prog = f"lit-metric {name}"

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> Any:
        options |= {"description": TRAINING[subcommand], "epilog": f"example: {EXAMPLES[subcommand]}"}
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        for option, text in REPORT.items():
            # The config of a run has them, which other commands read, too.
            text = text if subcommand == "fit" else SUPPRESS
            parser.add_argument(option, action="store_true", help=text)
        if subcommand == "predict":
            parser.set_defaults(return_predictions=False)  # WriteEmbeddings writes them, shard by shard
        return parser

    def add_arguments_to_parser(self, parser: Any) -> None:
        """The name of the run, and the defaults."""
        parser.add_argument("--name", type=str | None, help="Name of the run, and of its folder in runs/.")
        parser.set_defaults(defaults())

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """As Lightning's, without its warning about arguments in addition to those of the process."""
        self.config = parser.parse_object(args) if isinstance(args, dict) else parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder."""
        fit = self.subcommand == "fit"
        if not fit:
            self.save_config_callback = None
        config = self.config[self.subcommand] if self.subcommand else self.config
        trainer = config.trainer
        without_what_cannot_be(trainer)
        self.to_trust = options_to_trust(config.get("model"))
        suit_tags(config.get("model"), config.get("data"))
        if suit_lr(config.get("model")):
            log.info("The learning rate is %g, as a table of token vectors is trained", TABLE_LR)
        if self.subcommand is None:
            return
        folder = name_run(config, fit)
        if not fit:
            return
        self.complete = nothing_left(
            config.get("ckpt_path"), trainer.get("max_epochs"), trainer.get("max_steps")
        )
        if folder is not None and not folder.exists():
            self.made = folder
        if self.complete is not None:
            self.save_config_callback = None
            if folder is not None:
                self.events = {folder: {*folder.glob(EVENTS)}}

    def instantiate_classes(self) -> None:
        """As Lightning's; an error of a backbone whose code isn't trusted names the option to give."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            for backbone, option in self.to_trust.items():
                if TRUST in str(error) and repr(backbone) in str(error):
                    raise ValueError(str(error).replace(TRUST, f"Give {option}")) from error
            raise

    def before_fit(self) -> None:
        """Read the data before anything is written, and prepare for the end of a run that is complete."""
        if isinstance(self.datamodule, MetricDataModule):
            self.datamodule.read(predict=False)
        if self.complete is not None:
            self.trainer.callbacks.append(StopComplete(self.complete))  # type: ignore[attr-defined]
        config = self.config[self.subcommand]
        if config.get("report") or config.get("plots"):
            if config.get("plots"):
                check_matplotlib()
            self.untrained = KeepUntrained()
            self.trainer.callbacks.append(self.untrained)  # type: ignore[attr-defined]

    def after_fit(self) -> None:
        """Write the report if it is asked for. A failure doesn't cost the run, which is complete."""
        folder = None if self.untrained is None else self.untrained.folder
        if self.untrained is None or folder is None or not self.trainer.is_global_zero:
            return
        config = self.config[self.subcommand]
        try:
            from lit_metric.commands.inspect import inspect_fit

            data, learner = self.datamodule, self.model
            if not isinstance(data, MetricDataModule) or not isinstance(learner, EvaluatedModule):
                raise TypeError("there are only reports of a MetricDataModule and a MetricLearner")
            wanted = bool(config.report), bool(config.plots)
            page = inspect_fit(
                folder, data, learner, str(self.trainer.precision), *wanted, self.untrained.vectors
            )
        except Exception as error:
            log.warning(
                "The report could not be written (%s: %s); the run itself is complete. lit-metric inspect "
                "--model %s tries again",
                type(error).__name__,
                (str(error).splitlines() or [""])[0],
                folder,
            )
            return
        (folder / UNTRAINED).unlink(missing_ok=True)
        if page is not None:
            print(f"\n{page} shows what was learned, and what is wrong with the data.", flush=True)


class ParsedCLI(MetricCLI):
    """The parsed command line, before anything is built."""

    def _set_seed(self) -> None: ...

    def before_instantiate_classes(self) -> None:
        """Nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None: ...


def resolved(*options: str) -> dict[str, Any]:
    """All options of a ``fit``, with defaults and full class paths, as ``--print_config`` shows them.

    Args:
        options: such as ``"--config", "banking77"``.
    """
    cli = ParsedCLI(args=["fit", *with_shipped_configs(list(options))], only="fit", seed_everything_default=0)
    content = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))["fit"]
    return {key: value for key, value in content.items() if key != "config"}


def nothing_left(checkpoint: str | None, max_epochs: int | None, max_steps: int | None) -> str | None:
    """A message if a checkpoint's run has reached a limit, where Lightning would train nothing; else None.

    Args:
        checkpoint: a file. For one that can't be read it returns None, and the trainer refuses it.
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


def run(name: str, given: Sequence[str]) -> None:
    """Parse the options of a command and run it.

    Args:
        name: ``fit``, ``validate``, ``test`` or ``predict``.
        given: its options.
    """
    arguments = [name, *with_shipped_configs(list(given))]
    quietly_fail: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
    try:
        MetricCLI(
            args=arguments,
            only=name,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": "lit-metric",
                "description": TRAINING[name],
                **quietly_fail,
                name: quietly_fail,
            },
            seed_everything_default=0,
        )
    except RunComplete as end:
        rank_zero_only(print)(f"lit-metric: {end}", file=sys.stderr)
