"""What can be done with a trained encoder: ``encode``, ``search``, ``mine``, ``export``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from lit_metric.commands import mine, using
from lit_metric.hub import load


def run(arguments: Sequence[str]) -> None:
    """Parse ``COMMAND OPTIONS`` and run it."""
    parser = argparse.ArgumentParser("lit-metric", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (function, configure) in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.add_argument("--model", required=True, help="run folder, saved encoder, or model folder")
        command.add_argument(
            "--trust-remote-code",
            action="store_true",
            help="allow classes outside lit_metric and transformers",
        )
        configure(command)
    given, more = parser.parse_known_args(arguments)
    options = vars(given)
    command_name = options.pop("command")
    if command_name in OPEN:
        options["more"] = more
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    encoder = load(options.pop("model"), options.pop("trust_remote_code"))
    COMMANDS[command_name][0](encoder, **options)


COMMANDS: dict[str, tuple[Callable[..., None], Callable[[argparse.ArgumentParser], None]]] = {
    "encode": (using.encode, using.encode_options),
    "search": (using.search, using.search_options),
    "mine": (mine.mine, mine.options),
    "export": (using.export_folder, using.export_options),
}
OPEN = ("mine",)
"""Commands that take options of the data module, too, as in ``--data.text question``."""
