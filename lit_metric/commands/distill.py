"""Make a static model of a trained one."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_metric.encoders import distill as write
from lit_metric.hub import load

log = logging.getLogger(__name__)


def distill(
    model: str,
    output: str,
    dimension: int | None = 256,
    sif: float | None = 1e-4,
    max_tokens: int = 16384,
    trust_remote_code: bool = False,
) -> None:
    """Write a static model of a trained encoder: a table with one vector for each token of its vocabulary.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id, of a TextEncoder.
        output: folder to write; must be new or empty.
        dimension: components of a vector, by PCA; null keeps the encoder's own.
        sif: the lower, the less frequent tokens count; null weighs all the same.
        max_tokens: tokens encoded together.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        TypeError: when the encoder is for sets of texts, has two towers, or is static.
        ValueError: when the folder holds something, or a number is out of range.

    Example:
        lit-metric distill --model runs/questions --output my-static
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output {output} exists already and is not an empty folder; name another")
    static = write(load(model, trust_remote_code), folder, dimension, sif, max_tokens)
    rows = len(static.backbone.tokenizer.tokenizer)
    log.info(
        "Wrote %s, %s tokens with %d components; train it with --model.encoder StaticEncoder "
        "--model.encoder.backbone %s, or use it with lit_metric.load",
        folder,
        f"{rows:,}",
        static.dimension,
        folder,
    )
