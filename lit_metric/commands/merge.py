"""Average models."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_metric.encoders.merging import merge_encoders
from lit_metric.hub import load

log = logging.getLogger(__name__)


def merge(
    models: list[str], output: str, weights: list[float] | None = None, trust_remote_code: bool = False
) -> None:
    """Write the weighted mean of models that have one shape and one tokenizer.

    That pays for models that were trained from the same backbone: with other seeds or data, or a trained one
    and its backbone, to keep more of what the backbone knows.

    Args:
        models: run folders, checkpoints, saved encoders, model folders, or hub ids; two or more.
        output: folder to write; must be new or empty.
        weights: how much each counts, divided by their sum; equally if not given.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        ValueError: when the models don't fit each other, or the folder holds something.

    Example:
        lit-metric merge runs/one runs/two --weights 0.7 0.3 --output runs/merged
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output {output} exists already and is not an empty folder; name another")
    merged = merge_encoders([load(model, trust_remote_code) for model in models], weights)
    merged.save(folder)
    log.info("Wrote the mean of %d models to %s; use it as --model %s", len(models), folder, folder)
