"""The one line that the command line shows for an error."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import inspect
import logging
import pickle
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from jsonargparse import ArgumentError

from lit_metric import commands
from lit_metric.cli import TRAINING
from lit_metric.configurable import find_class, parameters_of
from lit_metric.data import BadRows, DataError
from lit_metric.data.errors import listed, most_similar
from lit_metric.mining import TableError
from lit_metric.refresh import MiningFailed
from lit_metric.renamed import refused_argument, refused_name

USER_ERRORS = (DataError, TableError, MiningFailed, ArgumentError, OSError, ValueError, TypeError)
USAGE = ("there is no option", "unrecognized arguments", "the following arguments are required")
"""How messages about the options of a command begin."""
LIGHTNING = "MisconfigurationException"
EXTRA = 'pip install "lit-metric['
"""In messages about a package that is missing."""

KEY = re.compile(r'Parser key "(.*?)":?')
CLASS = re.compile(r"Problem with given class_path '(.*)':?")
GIVEN = "Given value: "
OPTION = re.compile(r"Option '(.*)' is not accepted")
MODULE = re.compile(r"module '(.*)' has no attribute '(.*)'")
NAME = re.compile(r"Expected a dot import path string: (.*)")
TYPE = re.compile(r"Expected a <class '(.*)'>")
VALUE = re.compile(r".*Got value: (.*)")
OLD = re.compile(r".* is (called .* now|gone: .*)")
# What was tried in vain around the one thing that is wrong.
IN_VAIN = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
)
# The most telling first; what none of them fits comes before the last two.
TELLING = (OLD, OPTION, re.compile("the following arguments are required"), re.compile("Got value"), MODULE)
VAGUE = (NAME, TYPE)


def essence(message: str) -> str:
    """The most telling reason of jsonargparse for refusing an option, with the option's name and the nearest
    names that exist; other messages unchanged.

    Example:
        >>> no = ["Problem with given class_path 'lit_metric.Miner':", "Option 'topk' is not accepted"]
        >>> message = essence("\\n".join(['Parser key "miner":', "Errors:", *no]))
        >>> message.partition(", ")[0]
        "miner: Miner has no option 'topk'; nearest are 'top_k'"
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    if not any(line.startswith((*IN_VAIN, "Parser key")) for line in lines):
        return message
    keys = [match[1] for line in lines if (match := KEY.fullmatch(line))]
    classes = [match[1] for line in lines if (match := CLASS.fullmatch(line))]
    given = [line.removeprefix(GIVEN) for line in lines if line.startswith(GIVEN)]
    reasons = [
        line
        for line in lines
        if not (line.startswith(IN_VAIN) or KEY.fullmatch(line) or CLASS.fullmatch(line))
    ]
    reason = _told(min(reasons, key=_rank), classes, keys, given) if reasons else "this value is not accepted"
    return ": ".join([".".join(keys), reason] if keys else [reason])


def _rank(reason: str) -> int:
    for rank, pattern in enumerate(TELLING):
        if pattern.search(reason):
            return rank
    return len(TELLING) + max((rank for rank, each in enumerate(VAGUE, 1) if each.search(reason)), default=0)


def _told(reason: str, classes: list[str], keys: list[str], given: list[str]) -> str:
    kind = None
    with contextlib.suppress(ImportError, ValueError):
        kind = find_class(classes[-1]) if classes else None
    match = NAME.fullmatch(reason) or VALUE.fullmatch(reason)
    value = match[1] if match else "".join(given[:1])
    if old := refused_name(value) or (kind and keys and refused_argument(kind, keys[-1], value)):
        return old
    if (match := OPTION.fullmatch(reason)) and kind:
        if old := refused_argument(kind, match[1]):
            return old
        near = _nearest(match[1], parameters_of(kind))
        return f"{kind.__name__} has no option {match[1]!r}; nearest are {near}"
    if match := MODULE.fullmatch(reason):
        public = [name for name in dir(importlib.import_module(match[1])) if name[:1].isupper()]
        return f"there is no {match[2]!r} in {match[1]}; nearest are {_nearest(match[2], public)}"
    if match := NAME.fullmatch(reason):
        packages = ("batching", "callbacks", "data", "encoders", "index", "losses", "mining", "modules")
        modules = [importlib.import_module(f"lit_metric.{name}") for name in packages]
        classes = [
            name for module in modules for name in module.__all__ if inspect.isclass(getattr(module, name))
        ]
        near = _nearest(match[1], classes)
        return f"there is no class {match[1]!r}; nearest are {near}; or give the whole path of your own"
    if TYPE.fullmatch(reason) and given:
        return f"{reason}. Got value: {given[0]}"
    return reason


def _nearest(wanted: str, names: Iterable[str]) -> str:
    """The most similar names."""
    return listed(most_similar(dict.fromkeys(names), wanted)[:3])


def mistake(error: Exception, command: str = "fit") -> str | None:
    """The message for a user's mistake; None if the program is at fault."""
    # Errors of torch.load for files that hold something else, nothing, or a checkpoint's beginning.
    torn = isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
    if torn or isinstance(error, (pickle.UnpicklingError, EOFError)) or "PytorchStreamReader" in str(error):
        return "the checkpoint can't be read: the file is damaged, or no checkpoint; give another ckpt_path"
    if type(error).__name__ == LIGHTNING or "Early stopping conditioned on metric" in str(error):
        return with_options(" ".join(f"Lightning refuses this: {error}".split()), command)
    if isinstance(error, ImportError) and EXTRA in str(error):
        return str(error)
    if not isinstance(error, USER_ERRORS):
        return None
    kind = "DataError" if isinstance(error, DataError) else type(error).__name__
    start = "" if isinstance(error, ArgumentError) else f"{kind}: "
    rejected = ""
    if isinstance(error, BadRows) and error.problems.shortened:
        try:
            rejected = f" All are listed in {error.problems.write(Path())}."
        except OSError as denied:
            rejected = f" They can't be listed in a file here: {denied}."
    return with_options(" ".join(f"{start}{essence(str(error))}{rejected}".split()), command)


def with_options(message: str, command: str = "fit") -> str:
    """A message whose arguments are written as options of a command.

    Example:
        >>> with_options("set data.bad_rows to skip, or take planner=PairPlanner()")
        'set --data.bad_rows to skip, or take --data.planner PairPlanner'
        >>> with_options("name it with text=, or give csv.quote=''")
        "name it with --data.text, or give --data.csv.quote ''"
        >>> with_options("name it with text=, or give csv.quote=''", "search")
        "name it with --text, or give --csv.quote ''"
        >>> with_options('use it with SentenceTransformer("out", trust_remote_code=True)', "export")
        'use it with SentenceTransformer("out", trust_remote_code=True)'
    """
    places = _places(command)

    def dotted(found: re.Match[str]) -> str:
        return f"--{found[0]}" if found[2] in places.get(f"{found[1]}.", ()) else found[0]

    def given(found: re.Match[str]) -> str:
        place = next((place for place, names in places.items() if found[2] in names), None)
        value = found[4].removesuffix("()").strip("'" if found[4] != "''" else "")
        return found[0] if place is None else f"--{place}{found[1]} {value}".rstrip()

    message = re.sub(r"(?<![\w./'-])(data|model|trainer)\.(\w+)(?![\w.]*=)", dotted, message)
    value = r"\w+\(\)|'[^']*'|[\w+-][\w.+-]*\b|(?=[\s,.;:)]|$)"
    # Not those of a call in Python, which follow a bracket or another argument.
    return re.sub(rf"(?<![\w.(-])(?<!\", )((\w+)(\.\w+)*)=({value})", given, message)


@functools.cache
def _places(command: str) -> dict[str, set[str]]:
    """The options of a command, by what stands before their names."""
    names: dict[str, set[str]] = {}
    if command in commands.COMMANDS:
        names[""] = {*inspect.signature(commands.function(command)).parameters} - {"data"}
    if command in (*TRAINING, "mine"):
        from lightning.pytorch import Trainer

        from lit_metric import MetricDataModule, MetricLearner

        kinds = {"data.": MetricDataModule, "model.": MetricLearner, "trainer.": Trainer}
        offered = [*kinds][:1] if command == "mine" else kinds
        names |= {place: {*inspect.signature(kinds[place]).parameters} for place in offered}
    return names


@contextlib.contextmanager
def options_in_logs(command: str) -> Iterator[None]:
    """Write arguments as options of a command in what the library logs meanwhile, too."""

    def translate(record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] == "lit_metric":
            record.msg, record.args = with_options(record.getMessage(), command), None
        return True

    handlers = [*logging.getLogger().handlers]
    for handler in handlers:
        handler.addFilter(translate)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(translate)
