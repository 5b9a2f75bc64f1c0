"""Export a model."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lit_metric.commands.items import RoleEncoder
from lit_metric.configurable import needs_trust
from lit_metric.encoders.recipe import EXPORTED
from lit_metric.encoders.tokenizer import QUERY
from lit_metric.hub import Check, export_onnx, load, write_card
from lit_metric.hub import export as write
from lit_metric.hub.card import run_of
from lit_metric.hub.card_examples import examples_of
from lit_metric.hub.onnx import OnnxCheck, OnnxPrecision
from lit_metric.hub.pushing import check_name
from lit_metric.hub.pushing import push as upload

log = logging.getLogger(__name__)


def export(
    model: str,
    output: str,
    format: Literal["sentence-transformers", "lit-metric"] | None = None,
    merge: bool = True,
    onnx: OnnxPrecision | None = None,
    sample: str | None = None,
    trust_remote_code: bool = False,
    push: str | None = None,
    private: bool = False,
    card_examples: int = 0,
) -> None:
    """Write a folder that sentence-transformers loads, with a model card, and compare its vectors.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        output: folder to write; must be new or empty.
        format: of the folder; sentence-transformers unless --merge is false. Attention pooling, replacements
            and encoders of sets carry a file of modules, which sentence-transformers runs with
            trust_remote_code=True. lit-metric writes a folder for lit_metric.load, which also holds encoders
            of classes of your own.
        merge: work adapters into the weights of their base models. Without, a folder in the format of
            lit-metric holds the adapters and names their bases.
        onnx: graphs for ONNX Runtime to write into the folder onnx: float32, int8 or both; see docs/onnx.md.
        sample: file of items like those that will be encoded, with which int8 is compared; random texts of
            the vocabulary if none is named.
        trust_remote_code: allow classes outside lit_metric and transformers.
        push: upload it to the Hugging Face hub as OWNER/NAME.
        private: make a new model on the hub private.
        card_examples: how many texts of the training data the model card shows. They are published with it.

    Raises:
        ValueError: when the folder holds something, the encoder can't be carried to the format, its vectors
            differ there, or an adapter can't be merged.

    Example:
        lit-metric export --model runs/triplet --output my-encoder --onnx both
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output {output} exists already and is not an empty folder; name another")
    if not merge and format == "sentence-transformers":
        raise ValueError("folders for sentence-transformers are merged: take --format lit-metric")
    format = format or ("sentence-transformers" if merge else "lit-metric")
    if sample is not None and onnx is None:
        raise ValueError("--sample is for ONNX graphs: name them by --onnx float32, int8 or both")
    if private and push is None:
        raise ValueError("--private is for a model that is uploaded: add --push OWNER/NAME")
    if card_examples < 0 or (card_examples and format == "lit-metric"):
        raise ValueError(
            f"--card_examples {card_examples} is a number of texts, for folders of sentence-transformers"
        )
    if push is not None:
        check_name(push)
    examples = examples_of(run_of(model), card_examples) if card_examples else []
    encoder = load(model, trust_remote_code)
    items = None if sample is None else RoleEncoder(encoder, None, "--role", QUERY).read(sample).inputs()
    checks: list[Check | OnnxCheck] = []
    if format == "lit-metric":
        encoder.save(folder, merge=merge)
        code = ", trust_remote_code=True" if needs_trust(encoder) else ""
        log.info('Wrote %s; use it with lit_metric.load("%s"%s)', folder, folder, code)
    else:
        checks.append(write(encoder, folder, card=False))
        code = ", trust_remote_code=True" if (folder / f"{EXPORTED}.py").is_file() else ""
        log.info('Wrote %s; use it with SentenceTransformer("%s"%s)', folder, folder, code)
        log.info("%s", checks[0])
    try:
        for check in export_onnx(encoder, folder / "onnx", onnx, items) if onnx is not None else ():
            log.info("Wrote %s", check)
            checks.append(replace(check, folder=check.folder.relative_to(folder)))
    finally:  # also of a model without graphs
        if format != "lit-metric":
            write_card(folder, encoder, checks, run_of(model), push, examples)
    if push is not None:
        log.info("Uploaded it: %s", upload(folder, push, private))
