"""The report of a run: the file ``metrics.json``, and the text at the end of a fit."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_metric.data import Ragged
from lit_metric.metrics import QueryValues
from lit_metric.store import write_json

INTERVAL = "95% interval of the change"


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step; NaN and infinity, which JSON lacks, become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_json(path, plain(content))


def read_report(path: Path) -> dict[str, Any]:
    """The content of a JSON file, ``{}`` if there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def table(report: Mapping[str, Any], names: Sequence[str]) -> str:
    """Before, after and change of some measures, as lines of text, with the intervals of the changes.

    Args:
        report: the content of ``metrics.json``.
        names: of the measures; those that were not measured are left out.

    Example:
        >>> report = {"split": "test", "before": {"map@r": 0.5}, "after": {"map@r": 0.625}}
        >>> print(table(report, ["map@r", "mrr"]))
        test split    before    after   change
        map@r         0.5000   0.6250  +0.1250
        >>> report["intervals"] = {"map@r": {"change": [0.1, 0.15], "queries": 80}}
        >>> print(table(report, ["map@r"]))
        test split    before    after   change  95% interval of the change
        map@r         0.5000   0.6250  +0.1250  +0.1000 … +0.1500
    """

    def shown(value: float, form: str = ".4f") -> str:
        return "–" if math.isnan(value) else f"{value:{form}}"

    before, after = (
        {name: math.nan if value is None else value for name, value in (report.get(when) or {}).items()}
        for when in ("before", "after")
    )
    names = [name for name in names if name in before or name in after]
    title = f"{report.get('split', '')} split"
    width = max(map(len, [title, *names])) + 2
    bounds = {name: each["change"] for name, each in (report.get("intervals") or {}).items()}
    known = any(name in bounds for name in names)
    heading = f"  {INTERVAL}" if known else ""
    lines = [f"{title:<{width}}{'before':>8}{'after':>9}{'change':>9}{heading}"]
    for name in names:
        old, new = before.get(name, math.nan), after.get(name, math.nan)
        around = f"  {bounds[name][0]:+.4f} … {bounds[name][1]:+.4f}" if name in bounds else ""
        lines.append(f"{name:<{width}}{shown(old):>8}{shown(new):>9}{shown(new - old, '+.4f'):>9}{around}")
    return "\n".join(lines)


def confused_classes(report: Mapping[str, Any]) -> str:
    """The classes that take each other's neighbours most often, as lines of text; empty if there are none.

    Args:
        report: the content of ``metrics.json``, with what :func:`worst_confusions` found under
            ``confusions``.

    Example:
        >>> worst = {"class": "cash withdrawal", "nearest": "pending cash", "count": 12, "of": 40}
        >>> print(confused_classes({"confusions": [worst]}))
        Classes whose nearest items are of another class:
          cash withdrawal -> pending cash: 12 of 40
    """
    lines = [
        f"  {one_line(each['class'])} -> {one_line(each['nearest'])}: {each['count']} of {each['of']}"
        for each in report.get("confusions") or []
    ]
    return "\n".join(["Classes whose nearest items are of another class:", *lines]) if lines else ""


def one_line(label: str, most: int = 60) -> str:
    """A label without line breaks and other control characters, cut where it is long."""
    plain = " ".join("".join(each if each.isprintable() else " " for each in label).split())
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


def worst_confusions(
    labels: Tensor | Ragged, names: Sequence[str], queries: QueryValues, most: int = 3
) -> list[dict[str, Any]]:
    """Pairs of classes of which items of the first have an item of the second as their nearest.

    An item of several classes is confused if it has none in common with its nearest. Then each of its classes
    counts with each of the other's.

    Args:
        labels: ``[N]`` the class of each global id, negative where unlabelled; or ``N`` rows of classes.
        names: of the classes.
        queries: with the nearest item of each.
        most: how many pairs.

    Returns:
        The most frequent first: ``class``, ``nearest``, ``count``, and ``of``, the queries of the class.

    Example:
        >>> import torch
        >>> found = QueryValues(torch.arange(3), {}, {}, nearest=torch.tensor([2, 2, 0]))
        >>> worst_confusions(torch.tensor([0, 0, 1]), ["a", "b"], found, most=1)
        [{'class': 'a', 'nearest': 'b', 'count': 2, 'of': 2}]
    """
    found = queries.nearest >= 0
    sides = []
    for ids in (queries.ids[found].cpu(), queries.nearest[found].cpu()):
        own = labels.select(ids).tolist() if isinstance(labels, Ragged) else labels[ids].tolist()
        sides.append([each if isinstance(each, list) else [each] * (each >= 0) for each in own])
    counts: Counter[tuple[int, int]] = Counter()
    sizes: Counter[int] = Counter()
    for own, other in zip(*sides, strict=True):
        sizes.update(own)
        if not {*own} & {*other}:
            counts.update(itertools.product(own, other))
    worst = sorted(counts.items(), key=lambda each: (-each[1], -each[1] / sizes[each[0][0]], each[0]))
    return [
        {"class": str(names[one]), "nearest": str(names[other]), "count": count, "of": sizes[one]}
        for (one, other), count in worst[:most]
    ]


def next_steps(folder: Path, checkpoint: Path | None, split: str | None, trust: bool = False) -> str:
    """What to type next: commands where the run has a config, else Python.

    Args:
        folder: of the run.
        checkpoint: the measured one, if any.
        split: "test" if there are test data; None if nothing can be measured.
        trust: whether the model is loaded with ``trust_remote_code=True`` only.
    """
    argument, option = (", trust_remote_code=True", " --trust_remote_code true") if trust else ("", "")
    python = [
        "import lit_metric",
        f"encoder = lit_metric.load({str(folder)!r}{argument})",
        'vectors = encoder.encode(["a text"])',
    ]
    if not (folder / "config.yaml").is_file():
        return "\n".join(["Next:", *(f"  {line}" for line in python)])

    def quoted(path: Path) -> str:
        return f'"{path}"' if " " in str(path) else str(path)

    shown, command = quoted(folder), "test" if split == "test" else "validate"
    steps = [
        f'lit-metric search --model {shown} --corpus TEXTS.csv --query "a text"{option}',
        f"lit-metric export --model {shown} --output FOLDER{option}",
    ]
    if checkpoint is not None and split is not None:
        steps.append(f"lit-metric {command} --config {shown}/config.yaml --ckpt_path {quoted(checkpoint)}")
    return "\n".join(["Next:", *(f"  {step}" for step in steps), f"In Python: {python[1]}"])
