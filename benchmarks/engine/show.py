"""Tables and plots of the engine's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

COLUMNS = ("measure", "lit-metric", "peer", "ratio", "lowest to highest", "to reach")


def number(value: float | None) -> str:
    """Three digits that count, or a dash.

    Example:
        >>> [number(value) for value in (None, 0.01234, 3.14159, 271.8, 20000.0)]
        ['–', '0.0123', '3.14', '272', '20,000']
    """
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells of each result, as ``COLUMNS`` names them."""
    rows = []
    for result in results:
        low, high = result.get("spread") or (None, None)
        within = "–" if low is None else f"{number(low)} – {number(high)}"
        figures = [number(result[key]) for key in ("ours", "peer", "ratio")]
        rows.append([result["title"], *figures, within, number(result.get("target"))])
    return rows


def terminal_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """All results; a ratio below its target is red."""
    table = Table(title="Higher ratios are better for lit-metric", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "measure" else "right")
    for result, cells in zip(results, rows_of(results), strict=True):
        ratio, target = result["ratio"], result.get("target")
        missed = ratio is not None and target is not None and ratio < target
        style = "" if target is None or ratio is None else "red" if missed else "green"
        table.add_row(*(Text(cell, style if place == 3 else "") for place, cell in enumerate(cells)))
    return table


def markdown_table(results: Sequence[Mapping[str, Any]]) -> str:
    """The same as Markdown."""
    lines = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)], *rows_of(results)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot_growth(path: Path, title: str, growth: Mapping[str, Any]) -> None:
    """Cost against work, both in logarithms, with the fitted power of each contender.

    Args:
        path: PNG or SVG.
        title: above the plot.
        growth: see :func:`benchmarks.engine.measures.growth`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, curve in growth["curves"].items():
        x, y = np.array([int(amount) for amount in curve]), np.array([*curve.values()])
        power = growth["exponent"][name]
        label = name if power is None else f"{name}, n^{power:.2f}"
        (line,) = axis.plot(x, y, "o", label=label)
        if power is not None:
            factor = np.exp(np.mean(np.log(y) - power * np.log(x)))
            axis.plot(x, factor * x**power, "-", color=line.get_color(), linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel=growth["work"], ylabel=growth["cost"], title=title)
    axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
