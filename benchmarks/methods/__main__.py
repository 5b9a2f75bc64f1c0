"""Methods of the literature, each against its baselines at equal encoded items.

    LIT_METRIC_DATA=DIR python -m benchmarks.methods --out DIR --only B5 C24

Each entry of ``benchmarks/methods/entries`` names its arms, its corpus, its budget in encoded items, its
measures and its claims. For each arm alike, a fit at each learning rate with seed 0, of which the validation
items choose, and up to two rates beyond while the best lies at an edge; then the other seeds at that rate.
The test items are looked at with the chosen fits only. Mined negatives count as encoded, and so do all items
that are encoded to search for them. Searches are inline here; the worker that reuses the vectors of training
encodes less.

Each fit is one JSON file in OUT/KEY, with the values of each test query. A second call measures only what is
missing or has other settings. OUT/vectors keeps the vectors of frozen encoders, so that no call encodes a
corpus again. ``methods.json`` is the summary; ``python -m docs.build_methods --measured
OUT/methods.json`` makes the page of it. How a verdict is reached: ``benchmarks/methods/verdicts.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.methods.entries import Entry, entries
from benchmarks.methods.runs import Result, Runs
from benchmarks.results import BenchmarkError, Spread, environment, read_json, score_table, short, write_json

SUMMARY = "methods.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.methods", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="entries, such as C11 C13 (all)")
    parser.add_argument("--seeds", type=int, help="fits at the chosen rate (that of the entry)")
    parser.add_argument("--budget", type=int, help="items that each fit encodes, at most (that of the entry)")
    given = parser.parse_args(arguments)
    try:
        found = entries()
        if unknown := sorted({*(given.only or ())} - {*found}):
            parser.error(f"--only {' '.join(unknown)}: there is no such entry; take of {', '.join(found)}")
        console = Console()
        for key in given.only or found:
            runs = Runs(
                found[key],
                given.out.resolve(),
                given.seeds,
                given.budget,
                done=lambda words: print(words, flush=True),
            )
            result = runs.measure()
            path = given.out / SUMMARY
            write_json(path, {**read_json(path), key: result, "environment": environment()})
            show(console, found[key], read_json(path)[key])
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.methods: {error}") from error
    print(f"The summary is in {short(given.out / SUMMARY)}")


def show(console: Console, entry: Entry, result: Result) -> None:
    """The table of an entry, and what became of its claims."""
    rows = {
        arm: {name: Spread(**value) for name, value in row.get("test", {}).items()}
        for arm, row in result["arms"].items()
    }
    columns = [*entry.measures, *entry.logged]
    console.print(score_table(f"{entry.key} {entry.title}", rows, columns, entry.digits))
    for claim in result["claims"]:
        console.print(f"{claim['outcome']}: {claim['words']}")


if __name__ == "__main__":
    main()
