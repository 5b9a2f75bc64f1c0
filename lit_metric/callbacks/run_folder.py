"""Where a run writes, and how."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer) -> Path:
    """The folder of the trainer's first logger, else its ``default_root_dir``; the same on all ranks."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file as a whole; NaN, which JSON lacks, becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


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
