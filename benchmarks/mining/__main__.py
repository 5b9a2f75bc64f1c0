"""What mining costs and what it is worth.

    LIT_METRIC_DATA=DIR python -m benchmarks.mining --out DIR --measures scale offline draw

- ``scale``: the 100 nearest of every row among 10 thousand to 1 million vectors of 384 dimensions, exact, IVF
  and by sentence-transformers: seconds, peak memory, recall, the exponent of growth. Where all rows would be
  too many pairs (``--pairs``), evenly spread ones are searched, and the seconds are those that all would
  take.
- ``offline``: one pass of mining over the training texts of Banking77, beside ``mine_hard_negatives``.
- ``draw``: a fifth of Banking77's labels hidden: how often a hidden positive is drawn, and the test MAP@R.

Each run is a process of its own and one JSON file in OUT; a second call measures only what is missing or has
other settings. ``mining.json`` has ``ours``, ``peer``, ``ratio`` and ``settings`` for each measure. Options
that are not listed here go to the fits of ``draw``: ``--trainer.max_epochs 1``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.mining import draw, offline, scale
from benchmarks.results import (
    BenchmarkError,
    Rows,
    environment,
    plot,
    read_json,
    score_table,
    short,
    write_json,
)

MEASURES = ("scale", "offline", "draw")
SUMMARY = "mining.json"


def growth_plot(path: Path, found: Mapping[str, Any]) -> None:
    """Seconds, memory and recall against the number of vectors, a line for each kind."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {"seconds": "seconds for all rows", "peak_memory": "peak memory in MiB", "recall": "recall"}
    figure = plt.figure(figsize=(13, 4), layout="constrained")
    for axis, (measure, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for kind, runs in found["runs"].items():
            power = found["exponent"][kind]
            name = kind if power is None or measure != "seconds" else f"{kind}, n^{power:.2f}"
            values = [run[measure] for run in runs.values()]
            axis.plot([int(count) for count in runs], values, "o-", label=name)
        axis.set(
            xscale="log", yscale="linear" if measure == "recall" else "log", xlabel="vectors", ylabel=label
        )
        axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def show_scale(console: Console, out: Path, found: Mapping[str, Any]) -> None:
    """A row for each kind and number of vectors."""
    columns = ("seconds", "peak_memory", "recall", "rows")
    rows: Rows = {
        f"{kind}, {int(count):,}": {name: float(run[name]) for name in columns}
        for kind, runs in found["runs"].items()
        for count, run in runs.items()
    }
    console.print(score_table("The 100 nearest of every row (MiB)", rows, columns, digits=2, stars=False))
    growth_plot(out / "scale.png", found)


def show_offline(console: Console, out: Path, found: Mapping[str, Any]) -> None:
    """Both, and a plot of the seconds."""
    rows: Rows = {by: found[by] for by in offline.BY}
    columns = ("seconds", "search_seconds", "peak_memory", "anchors", "false_negatives")
    console.print(score_table("One pass of mining over Banking77 (MiB)", rows, columns, stars=False))
    panels: dict[str, Rows] = {
        name: {by: {name: found[by][name]} for by in offline.BY} for name in ("seconds", "false_negatives")
    }
    plot(out / "offline.png", "One pass of mining over Banking77", panels, "")


def show_draw(console: Console, out: Path, found: Mapping[str, Any]) -> None:
    """A row for each variant, and a plot of what counts."""
    rows: Rows = found["runs"]
    console.print(
        score_table("Banking77 with a fifth of the labels hidden", rows, draw.MEASURES, stars=False)
    )
    panels: dict[str, Rows] = {
        name: {title: {name: row[name]} for title, row in rows.items() if name in row}
        for name in draw.MEASURES[:2]
    }
    plot(out / "draw.png", "A fifth of the labels hidden", panels, "share")


SHOW = {"scale": show_scale, "offline": show_offline, "draw": show_draw}


def sources() -> tuple[Path, Path]:
    """The training and test file of Banking77.

    Raises:
        BenchmarkError: they are not there.
    """
    root = os.environ.get("LIT_METRIC_DATA")
    paths = [Path(root or "") / "banking77" / f"{name}.parquet" for name in ("train", "test")]
    if not root or not all(path.is_file() for path in paths):
        raise BenchmarkError(
            "set LIT_METRIC_DATA to a folder that holds banking77/train.parquet and banking77/test.parquet"
        )
    return paths[0].resolve(), paths[1].resolve()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.mining", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES), help="(all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of each process (%(default)s)"
    )
    parser.add_argument("--counts", type=int, nargs="+", default=list(scale.COUNTS), help="of vectors")
    parser.add_argument("--pairs", type=float, default=4e9, help="compared at most for a scale (%(default)s)")
    parser.add_argument("--variants", nargs="+", choices=draw.NAMES, help="of draw (all)")
    given, options = parser.parse_known_args(arguments)
    if given.seeds < 1 or given.threads < 1:
        parser.error(f"--seeds {given.seeds} and --threads {given.threads} must be at least 1")
    out, console = given.out.resolve(), Console()
    common = {"versions": environment()["versions"]}

    def measured(name: str) -> dict[str, Any]:
        if name == "scale":
            return scale.measure(out, common, given.counts, given.pairs, given.threads)
        train, test = sources()
        if name == "offline":
            return offline.measure(out, common, train, given.seeds, given.threads)
        return draw.measure(out, common, train, test, given.seeds, options, given.variants)

    try:
        for name in given.measures:
            found = measured(name)
            # After each, so that what is done can be looked at, and is there if the next one fails.
            write_json(out / SUMMARY, {**read_json(out / SUMMARY), name: found, "environment": environment()})
            SHOW[name](console, out, found)
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.mining: {error}") from error
    print(f"The numbers are in {short(out / SUMMARY)}, and plots beside it.")


if __name__ == "__main__":
    main()
