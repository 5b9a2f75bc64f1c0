"""Whether a model is better than before its training, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
