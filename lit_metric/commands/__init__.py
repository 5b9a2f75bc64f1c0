"""What can be done with a trained encoder, ``encode``, ``index``, ``search``, ``mine``, ``export``,
``distill``, and with ``runs``.

Each command is a typed function in the module of its name. Its signature is its options and its docstring is
their help, so it can be called from Python as it is. Modules are imported only when their command is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from inspect import cleandoc, signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

COMMANDS = {
    "init": "Look at a table, and write a config that trains on it.",
    "encode": "Write the vector of each row of a file.",
    "index": "Encode a corpus once, for search --index.",
    "search": "Show the rows of a file or an index that are nearest to a query.",
    "classify": "Give each row of a file the label of its nearest labelled rows.",
    "label-errors": "Show the rows of a file whose labels are probably wrong.",
    "duplicates": "Show duplicates in a file, and rows that two files have in common.",
    "inspect": "Write one page about a run: what was learned, mined, and what is wrong with the data.",
    "mine": "Write hard negatives into a file that other trainers read, too.",
    "export": "Write a folder that sentence-transformers and Hugging Face load.",
    "distill": "Write a static model, a table of token vectors, of a trained one.",
    "merge": "Write the weighted mean of models.",
    "doctor": "Show versions, processor, GPU, caches, and what is broken.",
    "runs": "List runs: what differs in their configs, and their metrics before and after.",
}
"""The commands with a line of help each, which needs no import."""


BARE: dict[str, dict[str, dict[str, Any]]] = {
    "init": {"input": {"help": "Parquet, CSV or JSON Lines file, data set folder, or id of a data set"}},
    "inspect": {
        "--plots": {
            "action": "store_true",
            "help": "also draw the map, the curves and the confusions, as PNG and SVG, into the folder plots "
            "next to the page",
        }
    },
    "index": {"--add": {"action": "store_true", "help": "add the rows to an index that is there"}},
    "search": {
        "--where": {
            "action": "append",
            "metavar": "COLUMN=VALUE",
            "help": "a value that results have, for an index; may be repeated",
        }
    },
    "merge": {
        "models": {"nargs": "+", "help": "run folders, checkpoints, model folders, or hub ids; two or more"},
        "--weights": {"nargs": "+", "type": float, "help": "how much each counts; equally if not given"},
    },
}
"""Arguments of a command that are given without a name, without a value, or several at once, as
``add_argument`` has them."""


def function(name: str) -> Callable[..., None]:
    """The function of a command."""
    name = name.replace("-", "_")
    found: Callable[..., None] = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    return found


def add_arguments(parser: ArgumentParser, name: str) -> None:
    """Give a parser the options of a command, its description and its example.

    Args:
        parser: that of the command alone; what it parses and instantiates are the function's arguments.
        name: of the command.
    """
    command = function(name)
    description, _, example = cleandoc(command.__doc__ or "").partition("\nExample:")
    parser.description = description.partition("\nArgs:")[0].strip()
    parser.epilog = f"example: {example.strip()}" if example else None
    own = BARE.get(name, {})
    known = signature(command).parameters.keys()
    special = known & {"query", "run", *(each.strip("-") for each in own)}
    parser.add_function_arguments(command, skip={*special})
    for argument, options in own.items():
        parser.add_argument(argument, **options)
    if "query" in special:
        parser.add_argument("--query", action="append", help="a text, or tags; may be repeated")
    if "run" in special:
        from lit_metric.commands.mine import TakeData

        text = "take data and miner of this run folder or YAML of a run; later options override them"
        parser.add_argument("--run", action=TakeData, help=text)
    if "--k" in parser._option_string_actions:
        action = parser._option_string_actions["-k"] = parser._option_string_actions["--k"]
        action.option_strings = ["-k", *action.option_strings]
