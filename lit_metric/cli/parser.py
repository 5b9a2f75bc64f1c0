"""The parser of all commands, and those commands that need no trainer."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, NoReturn

import jsonargparse._typehints as typehints
from jsonargparse import ActionConfigFile, ArgumentParser

from lit_metric import commands
from lit_metric.renamed import OPTIONS, refusal


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


class Parser(ArgumentParser):
    """Names the nearest options that exist where one doesn't."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse what was given."""
        start, unknown, rest = message.partition("unrecognized arguments: ")
        if unknown and rest.startswith("-"):
            message = f"{start}{self._unknown(rest.split()[0].partition('=')[0])}"
        super().error(message, ex)
        raise AssertionError

    def _unknown(self, option: str) -> str:
        options = [name for name in self._option_string_actions if name.startswith("--")]
        renamed = OPTIONS.get(str(self.prog).rpartition(" ")[2], {})
        new = renamed.get(option) or option.replace("-", "_").replace("__", "--", 1)
        if new in options or option in renamed:
            return refusal(option, new)
        near = sorted(options, key=lambda each: -SequenceMatcher(None, each, option).ratio())[:3]
        return f"there is no option {option}; nearest are {', '.join(near)}"


def parser_of(name: str) -> ArgumentParser:
    """The parser of a command that is a function in :mod:`lit_metric.commands`."""
    parser = Parser(prog=f"lit-metric {name}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file of these options")
    commands.add_arguments(parser, name)
    return parser


def run(name: str, given: Sequence[str]) -> None:
    """Parse the options of a command and call its function."""
    if name == "runs" and given and not given[0].startswith("-"):
        given = ["--folder", *given]
    parser = parser_of(name)
    options = dict(vars(parser.instantiate(parser.parse_args(given))))
    options.pop("config")
    commands.function(name)(**options)
