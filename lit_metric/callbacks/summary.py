"""What people read at the end of a fit: before, after and change, and what they may type next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def table(report: Mapping[str, Any], names: Sequence[str]) -> str:
    """Before, after and change of some measures, as lines of text.

    Args:
        report: the content of ``metrics.json``.
        names: of the measures; those that were not measured are left out.

    Example:
        >>> report = {"split": "test", "before": {"map@r": 0.5}, "after": {"map@r": 0.625}}
        >>> print(table(report, ["map@r", "mrr"]))
        test split    before    after   change
        map@r         0.5000   0.6250  +0.1250
    """
    before, after = report.get("before") or {}, report.get("after") or {}
    names = [name for name in names if name in before or name in after]
    title = f"{report.get('split', '')} split"
    width = max(map(len, [title, *names])) + 2
    lines = [f"{title:<{width}}{'before':>8}{'after':>9}{'change':>9}"]
    for name in names:
        old, new = _number(before.get(name)), _number(after.get(name))
        change = _shown(new - old, "+.4f")
        lines.append(f"{name:<{width}}{_shown(old):>8}{_shown(new):>9}{change:>9}")
    return "\n".join(lines)


def change_of(report: Mapping[str, Any], name: str) -> float:
    """How much higher a measure is after than before; NaN if one of both is unknown."""
    before, after = report.get("before") or {}, report.get("after") or {}
    return _number(after.get(name)) - _number(before.get(name))


def next_steps(folder: Path, checkpoint: Path | None, split: str | None) -> str:
    """What to type next: commands where the run has a config, else Python.

    Args:
        folder: of the run.
        checkpoint: the one that was measured, if any.
        split: "test" if there are test data; None if nothing can be measured.
    """
    python = [
        "import lit_metric",
        f"encoder = lit_metric.load({str(folder)!r})",
        'vectors = encoder.encode(["a text"])',
    ]
    if not (folder / "config.yaml").is_file():
        return "\n".join(["Next:", *(f"  {line}" for line in python)])
    shown, measured = _quoted(folder), "test" if split == "test" else "validate"
    steps = [
        f'lit-metric search --model {shown} --corpus TEXTS.csv --query "a text"',
        f"lit-metric export --model {shown} --output FOLDER",
    ]
    if checkpoint is not None and split is not None:
        place = _quoted(checkpoint)
        steps.append(f"lit-metric {measured} --config {shown}/config.yaml --ckpt_path {place}")
    return "\n".join(["Next:", *(f"  {step}" for step in steps), f"In Python: {python[1]}"])


def _quoted(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if " " in text else text


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _shown(value: float, form: str = ".4f") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"
