"""The map, the curves and the confusions of a report as PNG and SVG, for papers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lit_metric.report.structure import Floats, Items, Report

COLOURED = 10
"""Labels with a colour of their own; items of others are grey."""
BARS = 20
"""Confusions that are drawn."""
DPI = 200


def check_matplotlib() -> None:
    """Refuse to plot without matplotlib, before long work.

    Raises:
        ValueError: says how to install it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plots needs matplotlib: pip install matplotlib")


def draw_plots(report: Report, folder: Path) -> list[Path]:
    """Draw what there is of ``map``, ``curves`` and ``confusions``, each as ``.png`` and ``.svg``.

    Args:
        report: to be drawn.
        folder: of the files; made if it isn't there.

    Returns:
        The files.

    Raises:
        ValueError: without matplotlib.
    """
    check_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    plots: dict[str, tuple[bool, Callable[[Report, Any], None], tuple[float, float]]] = {
        "map": (report.items.map_after is not None, _draw_map, (10, 5)),
        "curves": (any(_shown_curves(report)), _draw_curves, (10, 4)),
        "confusions": (bool(report.confusions), _draw_confusions, (8, 6)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    # Labels may hold dollar signs, which would be read as mathematics.
    with rc_context({"svg.fonttype": "none", "text.parse_math": False}):
        for name, (there, draw, size) in plots.items():
            if not there:
                continue
            figure = Figure(figsize=size, layout="constrained")
            draw(report, figure)
            for ending in ("png", "svg"):
                path = folder / f"{name}.{ending}"
                figure.savefig(path, dpi=DPI)
                written.append(path)
    return written


def _draw_map(report: Report, figure: Any) -> None:
    items = report.items
    sides = [(items.map_before, report.names[0]), (items.map_after, report.names[1])]
    known = [(places, name) for places, name in sides if places is not None]
    colours, names = _colours(items)
    for axes, (places, name) in zip(
        np.atleast_1d(figure.subplots(1, len(known))).tolist(), known, strict=True
    ):
        _scatter(axes, places, colours, names)
        axes.set_title(name)
    if names:
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=5, fontsize=7, markerscale=4)
    figure.suptitle(items.projection, fontsize=8)


def _colours(items: Items) -> tuple[np.ndarray, list[str]]:
    """``[N]`` the number of each item's colour, -1 for grey; and the labels of the colours."""
    counts = np.bincount(items.label_ids, minlength=len(items.labels))
    most = np.argsort(-counts, kind="stable")[:COLOURED]
    number = np.full(len(items.labels) + 1, -1)
    number[most] = np.arange(len(most))
    first = np.full(len(items), -1)
    having = np.diff(items.label_offsets) > 0
    first[having] = items.label_ids[items.label_offsets[:-1][having]]
    return number[first], [items.labels[label] for label in most.tolist()]


def _scatter(axes: Any, places: Floats, colours: np.ndarray, names: list[str]) -> None:
    size = float(np.clip(20_000 / max(len(places), 1), 0.5, 12))
    how: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": True}
    grey = colours < 0
    axes.scatter(*places[grey].T, color="0.8", **how)
    for number, name in enumerate(names):
        axes.scatter(*places[colours == number].T, color=f"C{number}", label=name[:40], **how)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def _shown_curves(report: Report) -> tuple[list[Any], list[Any]]:
    main = report.metrics[0].name if report.metrics else ""
    losses = [curve for curve in report.run.curves if curve.name.startswith("train/loss")]
    return losses, [curve for curve in report.run.curves if curve.name == f"val/{main}"]


def _draw_curves(report: Report, figure: Any) -> None:
    groups = [group for group in _shown_curves(report) if group]
    for axes, group in zip(np.atleast_1d(figure.subplots(1, len(groups))).tolist(), groups, strict=True):
        for curve in group:
            axes.plot(curve.steps, curve.values, label=curve.name)
        axes.set_xlabel("step")
        axes.legend(fontsize=8)


def _draw_confusions(report: Report, figure: Any) -> None:
    labels, worst = report.items.labels, report.confusions[:BARS][::-1]
    axes = figure.subplots()
    places = np.arange(len(worst))
    axes.barh(places + 0.2, [each.count for each in worst], 0.4, label=report.names[1])
    axes.barh(places - 0.2, [each.before_count for each in worst], 0.4, color="0.7", label=report.names[0])
    axes.set_yticks(places, [f"{labels[each.first][:30]} → {labels[each.second][:30]}" for each in worst])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("items whose nearest is of the other class")
    axes.legend()
