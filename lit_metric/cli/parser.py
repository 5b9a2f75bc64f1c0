"""The parser of all commands, and those commands that need no trainer."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import jsonargparse._typehints as typehints
from jsonargparse import ActionConfigFile, ArgumentParser

EXAMPLES = {
    "fit": "lit-metric fit --data.train questions.csv --model.loss TripletLoss --model.loss.margin 0.3",
    "validate": "lit-metric validate --config runs/questions/config.yaml --ckpt_path best",
    "test": "lit-metric test --config runs/questions/config.yaml --ckpt_path best",
    "predict": "lit-metric predict --config runs/questions/config.yaml --ckpt_path best --data.predict more.csv",
    "encode": "lit-metric encode --model runs/questions --input questions.csv --output vectors.npy",
    "search": 'lit-metric search --model runs/questions --corpus questions.csv --query "lost my card"',
    "mine": "lit-metric mine --model runs/questions --data questions.csv --output mined.parquet",
    "export": "lit-metric export --model runs/questions --output my-model",
    "runs": "lit-metric runs",
}
RENAMED: dict[str, str] = {}
"""Options that had another name before, for the message that refuses them."""


def keep_nested_values() -> None:
    """Let values of nested options, such as ``--data.supervision.split null``, arrive as they were typed.

    jsonargparse (4.53) loads such a value as YAML at each level and passes on ``str`` of it: ``null``
    becomes the text ``None``, ``007`` the text ``7``. The innermost level loads it anyway.
    """
    load = getattr(typehints, "parse_value_or_config", None)
    nested = getattr(typehints, "NestedArg", None)
    if load is None or nested is None or hasattr(load, "keeps_nested"):
        return

    def kept(value: Any, *arguments: Any, **options: Any) -> Any:
        return (value, None) if isinstance(value, nested) else load(value, *arguments, **options)

    kept.keeps_nested = True  # type: ignore[attr-defined]
    typehints.parse_value_or_config = kept


keep_nested_values()


def options_of(name: str) -> ArgumentParser:
    """The parser of a command that is a function in :mod:`lit_metric.commands`."""
    function = getattr(importlib.import_module(f"lit_metric.commands.{name}"), name)
    parser = ArgumentParser(
        prog=f"lit-metric {name}",
        description=inspect.getdoc(function).partition("\n\n")[0],  # type: ignore[union-attr]
        epilog=f"example: {EXAMPLES[name]}",
        exit_on_error=False,
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file of these options")
    parser.add_function_arguments(function, as_group=False)
    return parser


def run(name: str, given: Sequence[str], from_shell: bool = True) -> None:
    """Parse the options of a command and call its function."""
    parser = options_of(name)
    options = parser.instantiate_classes(parser.parse_args(given))
    options.pop("config", None)
    function = getattr(importlib.import_module(f"lit_metric.commands.{name}"), name)
    function(**{key: options[key] for key in inspect.signature(function).parameters if key in options})
