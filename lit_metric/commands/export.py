"""Export a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from lit_metric.commands.items import RoleEncoder
from lit_metric.encoders.tokenizer import QUERY
from lit_metric.hub import export as write
from lit_metric.hub import export_onnx, load
from lit_metric.hub.onnx import OnnxPrecision

log = logging.getLogger(__name__)


def export(
    model: str,
    output: str,
    format: Literal["sentence-transformers", "lit-metric"] | None = None,
    merge: bool = True,
    onnx: OnnxPrecision | None = None,
    sample: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write a folder that sentence-transformers and Hugging Face load, or one for lit_metric.load.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        output: folder to write; must be new or empty.
        format: of the folder. sentence-transformers has no counterpart of encoders of sets, attention pooling
            and replacements, so these get that of lit-metric if none is named.
        merge: work adapters into the weights of their base models. Without, a folder in the format of
            lit-metric holds the adapters and names their bases.
        onnx: graphs for ONNX Runtime to write into the folder onnx: float32, int8 or both; see docs/onnx.md.
        sample: file of items like those that will be encoded, with which int8 is compared; random texts of
            the vocabulary if none is named.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        ValueError: when the folder holds something, sentence-transformers is named and has no modules for
            the encoder, or an adapter can't be merged.

    Example:
        lit-metric export --model runs/triplet --output my-encoder --onnx both
    """
    encoder = load(model, trust_remote_code)
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output {output} exists already and is not an empty folder; name another")
    if sample is not None and onnx is None:
        raise ValueError("--sample is for ONNX graphs: name them by --onnx float32, int8 or both")
    if not merge:
        if format == "sentence-transformers":
            raise ValueError("folders for sentence-transformers are merged: take --format lit-metric")
        format = "lit-metric"
    if onnx is not None:
        items = None if sample is None else RoleEncoder(encoder, None, "--role", QUERY).read(sample).inputs()
        for check in export_onnx(encoder, folder / "onnx", onnx, items):
            log.info("Wrote %s", check)
    if format != "lit-metric":
        try:
            write(encoder, folder)
        except ValueError as error:
            if format is not None:
                raise
            log.info("Written in the format of lit-metric: %s", str(error).partition(": keep")[0])
        else:
            folders = [folder / "query", folder / "document"] if (folder / "query").is_dir() else [folder]
            calls = " and ".join(f'SentenceTransformer("{each}")' for each in folders)
            log.info("Wrote %s; use it with %s", folder, calls)
            return
    encoder.save(folder, merge=merge)
    log.info('Wrote %s; use it with lit_metric.load("%s")', folder, folder)
