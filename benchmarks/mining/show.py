"""Tables and plots of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from rich.console import Console

from benchmarks.mining import draw, offline, table
from benchmarks.results import Rows, plot, score_table

WIDTH = 88
"""Characters of a title in a line."""


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


def show_scale(console: Console, out: Path, name: str, found: Mapping[str, Any]) -> None:
    """A row for each kind and number of vectors."""
    columns = ("seconds", "peak_memory", "recall", "rows")
    rows: Rows = {
        f"{kind}, {int(count):,}": {name: float(run[name]) for name in columns}
        for kind, runs in found["runs"].items()
        for count, run in runs.items()
    }
    console.print(score_table("The 100 nearest of every row (MiB)", rows, columns, digits=2, stars=False))
    growth_plot(out / f"{name}.png", found)


def show_offline(console: Console, out: Path, name: str, found: Mapping[str, Any]) -> None:
    """Both, and a plot of the seconds."""
    rows: Rows = {by: found[by] for by in offline.BY}
    columns = ("seconds", "search_seconds", "peak_memory", "anchors", "false_negatives")
    console.print(score_table("One pass of mining over Banking77 (MiB)", rows, columns, stars=False))
    panels: dict[str, Rows] = {
        name: {by: {name: found[by][name]} for by in offline.BY} for name in ("seconds", "false_negatives")
    }
    plot(out / f"{name}.png", "One pass of mining over Banking77", panels, "")


def show_draw(console: Console, out: Path, name: str, found: Mapping[str, Any]) -> None:
    """A row for each variant, and a plot of what counts."""
    rows: Rows = found["runs"]
    console.print(
        score_table("Banking77 with a fifth of the labels hidden", rows, draw.MEASURES, stars=False)
    )
    panels: dict[str, Rows] = {
        name: {title: {name: row[name]} for title, row in rows.items() if name in row}
        for name in draw.MEASURES[:2]
    }
    plot(out / f"{name}.png", "A fifth of the labels hidden", panels, "share")


def show_modes(console: Console, out: Path, name: str, found: Mapping[str, Any]) -> None:
    """A row for each mode: what an epoch costs, where that goes, what it is worth; and whether it is cheap
    enough."""
    rows: Rows = found["runs"]
    title = f"An epoch of {told(found)}"
    costs = ("epoch_seconds", "ratio", "ratio_per_token", "within", "cpu_ratio", "stall", "map@r")
    console.print(score_table(title, rows, costs, stars=False))
    where = ("waited", "encode", "search", "contention", "encoded", "first_epoch_ratio", "cold_start_seconds")
    console.print(score_table("Where it goes (seconds of an epoch)", rows, where, digits=2, stars=False))
    show_targets(console, found)
    panels: dict[str, Rows] = {
        measure: {mode: {measure: row[measure]} for mode, row in rows.items()}
        for measure in ("epoch_seconds", "ratio", "map@r")
    }
    plot(out / f"{name}.png", title, panels, "")


def show_table(console: Console, out: Path, name: str, found: Mapping[str, Any]) -> None:
    """How alike the tables are, and what they are worth."""
    rows: Rows = found["runs"]
    title = f"Tables of negatives, {told(found)}"
    columns = [f"{what}@{k}" for k in table.KS for what in ("overlap", "stale")]
    console.print(score_table(title, rows, [*columns, "encoded", "map@r"], stars=False))
    panels: dict[str, Rows] = {
        "candidates of a table encoded anew": {
            kind: {column: row[column] for column in columns} for kind, row in rows.items()
        },
        "map@r": {kind: {"map@r": row["map@r"]} for kind, row in rows.items()},
    }
    plot(out / f"{name}.png", title, panels, "share")


def show_peer(console: Console, out: Path, name: str, found: Mapping[str, Any]) -> None:
    """Both sides, and MAP@R by time."""
    title = f"Against mining offline once an epoch, {told(found)}"
    columns = ("map@r", "seconds", "reach", "mining", "refresh")
    rows: Rows = {
        side: {one: found["runs"][f"{side}_{one}"] for one in columns if f"{side}_{one}" in found["runs"]}
        for side in ("ours", "peer")
    }
    console.print(score_table(title, rows, columns, stars=False))
    shares = ", ".join(f"{which} {ratio:.3f}" for which, ratio in found["mining"].items())
    console.print(f"Seconds spent on mining, divided by the peer's: {shares}")
    ratio = found["ratio"]
    console.print(
        "Ours did not reach the peer's last MAP@R with every seed"
        if ratio is None
        else f"Time to the peer's last MAP@R, divided by the peer's: {ratio:.3f}"
    )
    show_targets(console, found)
    lines = {
        f"{side}, seed {seed}": (curve["seconds"], curve["map@r"])
        for side, curves in found["curves"].items()
        for seed, curve in enumerate(curves)
    }
    line_plot(out / f"{name}.png", title, lines, "seconds, mining included", "map@r")


def show_staleness(console: Console, out: Path, name: str, found: Mapping[str, Any]) -> None:
    """MAP@R by the time between two tables."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    title = f"How often to mine, {told(found)}"
    rows: Rows = {
        one: {column: row[column] for column in ("map@r", "seconds")} for one, row in found["runs"].items()
    }
    console.print(score_table(title, rows, ("map@r", "seconds"), stars=False))
    figure = plt.figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    periods = {row["epochs"]: row["map@r"] for row in found["runs"].values()}
    never = periods.pop(None)
    every = sorted(periods)
    means, spreads = ([getattr(periods[one], part) for one in every] for part in ("mean", "deviation"))
    axis.errorbar(every, means, spreads, fmt="o-", capsize=3, label="a table in so many epochs")
    axis.axhline(never.mean, color="C1", label="one table for all")
    axis.axhspan(never.mean - never.deviation, never.mean + never.deviation, color="C1", alpha=0.15)
    axis.set(xscale="log", xlabel="epochs from one table to the next", ylabel="map@r")
    axis.set_xticks(every, [f"{one:g}" for one in every])
    axis.minorticks_off()
    axis.set_title(fill(title, WIDTH), fontsize=9)
    axis.legend(frameon=False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=150)
    plt.close(figure)


def show_targets(console: Console, found: Mapping[str, Any]) -> None:
    """What should be, and whether it is."""
    for name, target in found["targets"].items():
        wanted = " ".join(f"{key} {value}" for key, value in target.items() if key not in ("is", "met"))
        console.print(f"{name}: {target['is']:.4f}, wanted {wanted}: {'met' if target['met'] else 'NOT met'}")


def told(found: Mapping[str, Any]) -> str:
    """The size of what was measured."""
    settings = found["settings"]
    return (
        f"{settings['data']}: {settings['texts']:,} texts, {settings['batches']} batches of "
        f"{settings['batch']}, {settings['epochs']} epochs, {settings['seeds']} seeds, "
        f"{settings['threads']} threads"
    )


def line_plot(
    path: Path,
    title: str,
    lines: Mapping[str, tuple[list[float], list[float]]],
    horizontal: str,
    vertical: str,
) -> None:
    """A line with dots for each entry; those that share what stands before the comma share a colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    kinds = list(dict.fromkeys(name.partition(",")[0] for name in lines))
    for name, (across, up) in lines.items():
        kind = name.partition(",")[0]
        known = kind in axis.get_legend_handles_labels()[1]
        axis.plot(across, up, "o-", color=f"C{kinds.index(kind)}", label=None if known else kind)
    axis.set(title=fill(title, WIDTH), xlabel=horizontal, ylabel=vertical)
    axis.title.set_fontsize(9)
    axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


SHOW = {
    "scale": show_scale,
    "offline": show_offline,
    "draw": show_draw,
    "modes": show_modes,
    "table": show_table,
    "peer": show_peer,
    "staleness": show_staleness,
}
