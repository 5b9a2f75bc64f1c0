"""List runs."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

MAIN = ("mean", "map@r", "mrr", "ndcg@10", "spearman", "tot", "filtered_mrr", "knn10_accuracy")
"""Measures by which runs are compared where a report doesn't name its main one, the first that it has."""
FIXED = ("name", "metric", "before", "after", "seconds")
WIDTH = 40


def runs(folder: str = "runs", output: str | None = None) -> None:
    """List the runs in a folder: what differs in their configs, and their main metric before and after.

    Args:
        folder: of all runs.
        output: file to write in place of showing them: .csv or .json, with all names and values whole.

    Raises:
        FileNotFoundError: when there is no run.
        ValueError: when the output has another end.

    Example:
        lit-metric runs
    """
    if output is not None and Path(output).suffix not in (".csv", ".json"):
        raise ValueError(f"--output {output}: the name must end in .csv or .json")
    found = [read_run(path.parent) for path in sorted(Path(folder).glob("*/config.yaml"))]
    if not found:
        raise FileNotFoundError(f"there is no run in {folder!r}: no folder in it holds a config.yaml")
    configs = [run.pop("config") for run in found]
    every = dict.fromkeys(name for config in configs for name in config)
    # Each run has its own name and its own folders of loggers.
    names = [name for name in every if name != "name" and not name.startswith("trainer.logger.")]
    varied = [name for name in names if any(config.get(name) != configs[0].get(name) for config in configs)]
    rows = [
        {**run, **{name: config.get(name) for name in varied}}
        for run, config in zip(found, configs, strict=True)
    ]
    if output is None:
        show(rows, varied)
    elif output.endswith(".json"):
        Path(output).write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        with open(output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read_run(folder: Path) -> dict[str, Any]:
    """Name, main metric before and after, seconds and config of a run.

    Args:
        folder: with ``config.yaml``, and ``metrics.json`` if the run has got that far.
    """
    config = yaml.load(
        (folder / "config.yaml").read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    try:
        report = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = {}
    before, after = report.get("before") or {}, report.get("after") or {}
    measured = {**before, **after}
    metric = report.get("main_metric") or next((name for name in MAIN if name in measured), None)
    return {
        "name": folder.name,
        "metric": metric,
        "before": before.get(metric),
        "after": after.get(metric),
        "seconds": report.get("seconds"),
        "config": flat(config if isinstance(config, dict) else {}),
    }


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """The values of nested mappings and lists by dotted names without ``class_path`` and ``init_args``.

    Example:
        >>> flat({"model": {"class_path": "a.B", "init_args": {"lr": 1.0}}, "x": [{"class_path": "c.D"}]})
        {'model': 'B', 'model.lr': 1.0, 'x.0': 'D'}
    """
    if isinstance(node, list) and any(isinstance(each, (dict, list)) for each in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return {path: node}
    values: dict[str, Any] = {}
    for key, value in node.items():
        if key == "class_path":
            values[path] = str(value).rpartition(".")[2]
        elif key == "init_args":
            values |= flat(value, path)
        else:
            values |= flat(value, f"{path}.{key}" if path else str(key))
    return values


def show(rows: list[dict[str, Any]], varied: list[str]) -> None:
    """Print a line for each run, and the whole names of the options in which they differ."""

    def cell(value: Any) -> Text:
        text = f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
        return Text(text if len(text) <= WIDTH else text[: WIDTH - 1] + "…")

    table = RichTable(box=None, pad_edge=False)
    for name in ("name", *varied, *FIXED[1:]):
        table.add_column(Text(name.rpartition(".")[2] if name not in FIXED else name), overflow="fold")
    for row in rows:
        table.add_row(*(cell(row[name]) for name in ("name", *varied, *FIXED[1:])))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for name in varied:
        print(f"{name.rpartition('.')[2]} is {name}")
