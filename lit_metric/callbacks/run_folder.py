"""Where a run writes, and how."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lit_metric.loggers import run_folder
from lit_metric.store import write_json

__all__ = ["read_json", "run_folder", "write_report"]


def write_report(path: Path, content: Any) -> None:
    """Replace a JSON file as a whole; NaN, which JSON lacks, becomes null."""
    write_json(path, _plain(content))


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, ``{}`` if there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
