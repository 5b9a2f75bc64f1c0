"""``lit-metric COMMAND``: what all commands have in common. Each is imported when it is called."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches

import lit_metric
from lit_metric import commands

TRAINING = {
    "fit": "Train an encoder on your data.",
    "validate": "Measure a checkpoint on the validation items.",
    "test": "Measure a checkpoint on the test items.",
    "predict": "Encode items by a checkpoint, on several GPUs if there are.",
}
COMMANDS = {**TRAINING, **commands.COMMANDS}
HELP = """usage: lit-metric COMMAND [options]

Fine-tune text encoders by deep metric learning.

commands:
{commands}

options:
  --help     show this, or the options of a command: lit-metric COMMAND --help
  --version  show the version
  --debug    show where an error comes from

example: lit-metric fit --data.train questions.csv
"""
SIGNALLED = 128
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
SPINS = "1000"
"""How often a thread of torch looks whether the others are done, before it sleeps; GCC's OpenMP looks 300,000
times, which is 20 ms on some processors, and takes a core away from whoever else needs it."""
NOISE = ("Tip:", "GPU available: False", "TPU available: False", "LOCAL_RANK: 0 - CUDA_VISIBLE_DEVICES")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script.

    A user's mistake gives one line and exit status 2, a signal the status 128 + its number; ``--debug``
    shows where an error comes from.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if arguments is None:
        sys.argv[1:] = given  # Lightning starts other ranks with them.
    if str(os.getcwd()) not in sys.path:
        sys.path.append(os.getcwd())  # for classes in a file here, as under python -m
    name = _command(given)
    quiet()
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS  # read when torch is imported
    module = importlib.import_module(
        "lit_metric.cli.training" if name in TRAINING else "lit_metric.cli.parser"
    )
    # Only the first rank logs progress; all ranks warn. Lightning, once imported, uses its own handler.
    logging.basicConfig(level=logging.INFO if is_first() else logging.WARNING, format="%(message)s")
    try:
        if name == "runs":  # which needs no torch
            module.run(name, given[1:])
        else:
            with importlib.import_module("lit_metric.cli.messages").options_in_logs(name):
                module.run(name, given[1:])
    except KeyboardInterrupt:
        _fail("interrupted", SIGNALLED + 2)
    except SystemExit as end:
        if type(end).__name__ == "SIGTERMException":
            _fail("ended by SIGTERM", SIGNALLED + 15)
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning's way to end a run
            _fail("interrupted", SIGNALLED + 2)
        raise
    except Exception as error:
        messages = importlib.import_module("lit_metric.cli.messages")
        line = messages.mistake(error, name)
        if debug or line is None:
            raise
        if line.startswith(messages.USAGE):
            print(f"usage: lit-metric {name} [options]; lit-metric {name} --help lists them", file=sys.stderr)
        _fail(line, 2, error)


def is_first() -> bool:
    """Whether this process is the first rank of the run."""
    return all(os.environ.get(each, "0") == "0" for each in RANKS)


def _command(given: Sequence[str]) -> str:
    """The command's name; help, version and what is no command end here."""
    name = given[0] if given else "--help"
    if name in COMMANDS:
        return name
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(HELP.format(commands="\n".join(f"  {key:{width}}  {text}" for key, text in COMMANDS.items())))
        raise SystemExit(0 if given else 2)
    if name == "--version":
        print(f"lit-metric {lit_metric.__version__}")
        raise SystemExit(0)
    print(f"usage: lit-metric COMMAND [options], with one of {', '.join(COMMANDS)}", file=sys.stderr)
    near = get_close_matches(name, COMMANDS, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "; lit-metric --help lists the commands"
    _fail(f"invalid choice: {name!r} is no command{hint}", 2)
    raise AssertionError


def _fail(line: str, status: int, cause: BaseException | None = None) -> None:
    print(f"lit-metric: {line}", file=sys.stderr)
    raise SystemExit(status) from cause


def quiet() -> None:
    """Leave out what other libraries say about themselves at every start, and warnings that err."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(noise in record.getMessage() for noise in NOISE)
    )
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # logs each retry twice
    for name in ("httpx", "sentence_transformers", "datasets", "faiss"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*args parameter is intended to run from within Python.*",
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
