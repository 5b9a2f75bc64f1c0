"""What the folder of a run says about it: how it ended, its curves, and where its time went."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_metric.callbacks.summary import read_report
from lit_metric.report.structure import Curve, Part, Run

METRICS, CONFIG, LOG = "metrics.json", "config.yaml", "metrics.csv"
POINTS = 2000
"""Points of a curve at most."""


def read_run(folder: Path) -> tuple[Run, dict[str, Any]]:
    """A run, and the content of its ``metrics.json``.

    Args:
        folder: of the run. Files that are missing leave their parts empty.

    Returns:
        The run with a warning if it ended early, and the content, ``{}`` if there is none.
    """
    metrics = read_report(folder / METRICS)
    config = folder / CONFIG
    logged = read_log(folder / LOG)
    ended = str(metrics.get("ended", "unknown"))
    how = ended if "ended" in metrics else "it was stopped by force, or it still runs"
    warnings = []
    if metrics and "after" not in metrics:
        warnings.append(
            f"The run isn't complete ({how}): its encoder is that of the best or latest checkpoint, and was "
            "measured for this page."
        )
    return (
        Run(
            folder=str(folder),
            command=str(metrics.get("command", "")),
            config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
            ended=ended,
            seconds=float(metrics.get("seconds") or 0.0),
            steps=int(metrics.get("steps") or 0),
            texts=int(metrics.get("texts") or 0),
            texts_per_second=float(metrics.get("texts_per_second") or 0.0),
            curves=curves_of(logged),
            parts=parts_of(metrics, logged),
            warnings=warnings,
        ),
        metrics,
    )


def read_log(path: Path) -> dict[str, dict[int, float]]:
    """The values of each column of ``metrics.csv`` by step, in rising order of steps.

    A resumed run has taken some steps twice; the later value counts. Columns without a number are left out.
    """
    if not path.is_file():
        return {}
    found: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                step = int(row["step"])
            except (KeyError, TypeError, ValueError):
                continue
            for name, text in row.items():
                if (
                    not isinstance(name, str)
                    or name in ("step", "epoch")
                    or not isinstance(text, str)
                    or not text
                ):
                    continue
                try:
                    value = float(text)
                except ValueError:
                    continue
                if math.isfinite(value):
                    found.setdefault(name, {})[step] = value
    return {name: dict(sorted(values.items())) for name, values in sorted(found.items())}


def curves_of(logged: Mapping[str, Mapping[int, float]]) -> list[Curve]:
    """A curve of each logged value; of a long one, evenly spaced points with the last."""
    curves = []
    for name, values in logged.items():
        steps = [*values]
        every = math.ceil(len(steps) / POINTS)
        kept = steps[::every] if every else []
        if steps and kept[-1] != steps[-1]:
            kept.append(steps[-1])
        curves.append(Curve(name, kept, [values[step] for step in kept]))
    return curves


def parts_of(metrics: Mapping[str, Any], logged: Mapping[str, Mapping[int, float]]) -> list[Part]:
    """Where the seconds of a fit went; none if they are unknown.

    Args:
        metrics: the content of ``metrics.json``.
        logged: by name and step. Where there is ``mining/stall_seconds``, a table was mined in the background
            and training waited that long for it; else it stood still for ``mining/seconds``.
    """
    total = metrics.get("seconds")
    if not total:
        return []
    parts = []
    if metrics.get("validation_seconds"):
        parts.append(Part("validate", float(metrics["validation_seconds"])))
    waited, mined = (logged.get(f"mining/{name}", {}) for name in ("stall_seconds", "seconds"))
    if standing := sum(value for step, value in mined.items() if step not in waited):
        parts.append(Part("mine", standing))
    if waited:
        parts.append(Part("wait for mining", sum(waited.values())))
    rest = float(total) - sum(part.seconds for part in parts)
    name = "train" if metrics.get("validation_seconds") is not None else "train and validate"
    return [Part(name, max(rest, 0.0)), *parts]
