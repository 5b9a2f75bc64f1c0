"""Carry a model away."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_metric.hub import export as write
from lit_metric.hub import load

log = logging.getLogger(__name__)


def export(model: str, output: str, trust_remote_code: bool = False) -> None:
    """Write a folder that sentence-transformers and Hugging Face load.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        output: folder to write; must be new or empty.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        ValueError: when the folder holds something, or sentence-transformers has no modules for the encoder.

    Example:
        lit-metric export --model runs/triplet --output my-encoder
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output {output} exists already and is not an empty folder; name another")
    write(load(model, trust_remote_code), folder)
    folders = [folder / "query", folder / "document"] if (folder / "query").is_dir() else [folder]
    told = " and ".join(f'SentenceTransformer("{each}")' for each in folders)
    log.info("Wrote %s; use it with %s", folder, told)
