"""The report of a run: the file ``metrics.json``, and the text at the end of a fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_metric.store import write_json


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

    def shown(value: float, form: str = ".4f") -> str:
        return "–" if math.isnan(value) else f"{value:{form}}"

    before, after = (
        {name: math.nan if value is None else value for name, value in (report.get(when) or {}).items()}
        for when in ("before", "after")
    )
    names = [name for name in names if name in before or name in after]
    title = f"{report.get('split', '')} split"
    width = max(map(len, [title, *names])) + 2
    lines = [f"{title:<{width}}{'before':>8}{'after':>9}{'change':>9}"]
    for name in names:
        old, new = before.get(name, math.nan), after.get(name, math.nan)
        lines.append(f"{name:<{width}}{shown(old):>8}{shown(new):>9}{shown(new - old, '+.4f'):>9}")
    return "\n".join(lines)


def worse_than_before(report: Mapping[str, Any]) -> str | None:
    """A warning if the main measure is lower after training than before; None if it isn't, or is unknown.

    Args:
        report: the content of ``metrics.json``, which names the measure under ``main_metric``.

    Example:
        >>> report = {"main_metric": "mrr", "before": {"mrr": 0.75}, "after": {"mrr": 0.5}}
        >>> worse_than_before(report).partition(":")[0]
        'mrr is lower after training than before (by 0.2500)'
    """
    name = report.get("main_metric")
    before, after = ((report.get(when) or {}).get(name) for when in ("before", "after"))
    if before is None or after is None or not after < before:
        return None
    return (
        f"{name} is lower after training than before (by {before - after:.4f}): lower the learning rate, "
        "train for fewer epochs, or check the labels; so far the untrained encoder is better"
    )


def next_steps(folder: Path, checkpoint: Path | None, split: str | None) -> str:
    """What to type next: commands where the run has a config, else Python.

    Args:
        folder: of the run.
        checkpoint: the measured one, if any.
        split: "test" if there are test data; None if nothing can be measured.
    """
    python = [
        "import lit_metric",
        f"encoder = lit_metric.load({str(folder)!r})",
        'vectors = encoder.encode(["a text"])',
    ]
    if not (folder / "config.yaml").is_file():
        return "\n".join(["Next:", *(f"  {line}" for line in python)])

    def quoted(path: Path) -> str:
        return f'"{path}"' if " " in str(path) else str(path)

    shown, command = quoted(folder), "test" if split == "test" else "validate"
    steps = [
        f'lit-metric search --model {shown} --corpus TEXTS.csv --query "a text"',
        f"lit-metric export --model {shown} --output FOLDER",
    ]
    if checkpoint is not None and split is not None:
        steps.append(f"lit-metric {command} --config {shown}/config.yaml --ckpt_path {quoted(checkpoint)}")
    return "\n".join(["Next:", *(f"  {step}" for step in steps), f"In Python: {python[1]}"])
