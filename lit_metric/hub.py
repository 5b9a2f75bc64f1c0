"""Trained encoders in and out: load a folder or a run, export to the format of sentence-transformers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Transformer
from sentence_transformers.models import Pooling as ReferencePooling
from torch import nn

from lit_metric.encoders import Encoder, Projection, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.base import CONFIG
from lit_metric.encoders.projection import ACTIVATIONS
from lit_metric.encoders.recipe import MAX_LENGTHS, POOLINGS
from lit_metric.encoders.tokenizer import DOCUMENT_NAMES, QUERY, TextTokenizer

log = logging.getLogger(__name__)

RUN_FOLDER = "model"
TOWERS = (QUERY, DOCUMENT_NAMES[0])
"""Folders of an exported TwoTowerEncoder, and the roles of their texts."""

DEFAULT = "default"
"""The name of the prompt of texts without a role in an export."""


def load(folder: str | Path, trust_remote_code: bool = False) -> Encoder:
    """Load an encoder.

    Args:
        folder: what ``Encoder.save`` wrote, a run's folder that holds one under ``model/``, a folder of a
            sentence-transformers or Hugging Face model, or one that holds two of them, ``query`` and
            ``document``.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        FileNotFoundError: if there is no encoder in any of these forms.
    """
    folder = Path(folder)
    for place in (folder, folder / RUN_FOLDER):
        if (place / CONFIG).is_file():
            return Encoder.load(place, trust_remote_code)
    if (folder / "modules.json").is_file() or (folder / "config.json").is_file():
        return TextEncoder(str(folder), trust_remote_code=trust_remote_code)
    if all((folder / tower / "modules.json").is_file() for tower in TOWERS):
        query, document = (load(folder / tower, trust_remote_code) for tower in TOWERS)
        return TwoTowerEncoder(query, document)
    raise FileNotFoundError(
        f"{folder} holds no encoder: neither {CONFIG} nor {RUN_FOLDER}/{CONFIG}, modules.json or config.json"
    )


def export(encoder: Encoder, folder: str | Path) -> None:
    """Write a folder that ``SentenceTransformer(folder)`` loads, with the same embeddings.

    The folder is also an ordinary Hugging Face model, and :func:`load` reads it back. Prompts by role become
    its prompts, which ``encode_query``, ``encode_document`` and ``prompt_name`` choose. Two towers become two
    such folders, ``query`` and ``document``.

    Args:
        encoder: a TextEncoder whose pooling is mean, CLS, max or last token, or two of them.
        folder: is created.

    Raises:
        ValueError: for an encoder that sentence-transformers has no modules for.
    """
    folder = Path(folder)
    if isinstance(encoder, TwoTowerEncoder):
        towers = [(_exportable(getattr(encoder, name)), folder / name) for name in TOWERS]
    else:
        towers = [(_exportable(encoder), folder)]
    for tower, place in towers:
        _export_text(tower, place)


def _exportable(encoder: Encoder) -> TextEncoder:
    """The encoder, if sentence-transformers has modules for all of it."""
    if not isinstance(encoder, TextEncoder):
        raise ValueError(
            f"sentence-transformers has no counterpart of {type(encoder).__name__}: keep the folder that "
            "Encoder.save wrote and read it with lit_metric.hub.load"
            + (", or export its text tower, encoder.text" if hasattr(encoder, "text") else "")
        )
    if type(encoder.pooling) not in POOLINGS.values():
        raise ValueError(
            f"sentence-transformers has no {type(encoder.pooling).__name__}, only {', '.join(POOLINGS)}: "
            "keep the folder that Encoder.save wrote and read it with lit_metric.hub.load"
        )
    if encoder.tokenizer.replacements:
        raise ValueError(
            f"sentence-transformers has no counterpart of replacements={encoder.tokenizer.replacements}: "
            "keep the folder that Encoder.save wrote and read it with lit_metric.load"
        )
    _prompts(encoder.tokenizer)
    return encoder


def _export_text(encoder: TextEncoder, folder: Path) -> None:
    tokenizer = encoder.tokenizer
    encoder.backbone.save(folder)
    transformer = Transformer(
        str(folder), max_seq_length=tokenizer.max_length, do_lower_case=tokenizer.lower_case
    )
    mode = next(name for name, pooling in POOLINGS.items() if type(encoder.pooling) is pooling)
    pooling = ReferencePooling(encoder.backbone.hidden_size, mode, include_prompt=tokenizer.pool_prompt)
    modules: list[nn.Module] = [transformer, pooling]
    modules += [_dense(layer) for layer in encoder.projection if isinstance(layer, Projection)]
    if encoder.normalize:
        modules.append(Normalize())
    default = DEFAULT if tokenizer.prompt else None
    model = SentenceTransformer(
        modules=modules, device="cpu", prompts=_prompts(tokenizer), default_prompt_name=default
    )
    model.save(str(folder))
    if tokenizer.max_lengths:
        _add_lengths(folder / "config_sentence_transformers.json", tokenizer)


def _prompts(tokenizer: TextTokenizer) -> dict[str, str] | None:
    """All prompts by name. Those of queries and documents are always said: sentence-transformers takes what
    isn't said for an empty prompt, and not for the default one."""
    if not tokenizer.prompt and not tokenizer.prompts:
        return None
    prompts = {role: tokenizer.prompt_of(role) for role in TOWERS} | tokenizer.prompts
    if tokenizer.prompt and prompts.setdefault(DEFAULT, tokenizer.prompt) != tokenizer.prompt:
        raise ValueError(
            f"the prompt of the role {DEFAULT!r} differs from that of texts without a role, which an export "
            "gives this name: rename the role"
        )
    return prompts


def _add_lengths(config: Path, tokenizer: TextTokenizer) -> None:
    content = json.loads(config.read_text(encoding="utf-8")) | {MAX_LENGTHS: tokenizer.max_lengths}
    config.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lengths = ", ".join(f"{role}: {length}" for role, length in tokenizer.max_lengths.items())
    log.warning(
        "sentence-transformers has one length for all texts and cuts them to %d tokens; the lengths by role "
        "(%s) stay in the export for lit_metric.load",
        tokenizer.max_length,
        lengths,
    )


def _dense(layer: Projection) -> Dense:
    dense = Dense(
        layer.linear.in_features,
        layer.dimension,
        layer.bias,
        activation_function=ACTIVATIONS[layer.activation](),
    )
    with torch.no_grad():
        dense.linear.load_state_dict(layer.linear.state_dict())
    return dense
