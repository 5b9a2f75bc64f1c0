"""Trained encoders in and out: load a folder or a run, export to the format of sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Transformer
from sentence_transformers.models import Pooling as ReferencePooling
from torch import nn

from lit_metric.encoders import Encoder, Projection, TextEncoder
from lit_metric.encoders.base import CONFIG
from lit_metric.encoders.projection import ACTIVATIONS
from lit_metric.encoders.recipe import POOLINGS

RUN_FOLDER = "model"


def load(folder: str | Path, trust_remote_code: bool = False) -> Encoder:
    """Load an encoder.

    Args:
        folder: what ``Encoder.save`` wrote, a run's folder that holds one under ``model/``, or a folder of
            a sentence-transformers or Hugging Face model.
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
    raise FileNotFoundError(
        f"{folder} holds no encoder: neither {CONFIG} nor {RUN_FOLDER}/{CONFIG}, modules.json or config.json"
    )


def export(encoder: Encoder, folder: str | Path) -> None:
    """Write a folder that ``SentenceTransformer(folder)`` loads, with the same embeddings.

    The folder is also an ordinary Hugging Face model, and :func:`load` reads it back.

    Args:
        encoder: a TextEncoder whose pooling is mean, CLS, max or last token.
        folder: is created.

    Raises:
        ValueError: for an encoder that sentence-transformers has no modules for.
    """
    if not isinstance(encoder, TextEncoder):
        raise ValueError(
            f"sentence-transformers has no counterpart of {type(encoder).__name__}: keep the folder that "
            "Encoder.save wrote and read it with lit_metric.hub.load"
            + (", or export its text tower, encoder.text" if hasattr(encoder, "text") else "")
        )
    modes = [name for name, pooling in POOLINGS.items() if type(encoder.pooling) is pooling]
    if not modes:
        raise ValueError(
            f"sentence-transformers has no {type(encoder.pooling).__name__}, only {', '.join(POOLINGS)}: "
            "keep the folder that Encoder.save wrote and read it with lit_metric.hub.load"
        )
    tokenizer = encoder.tokenizer
    if tokenizer.replacements:
        raise ValueError(
            f"sentence-transformers has no counterpart of replacements={tokenizer.replacements}: keep the "
            "folder that Encoder.save wrote and read it with lit_metric.load"
        )
    folder = Path(folder)
    encoder.backbone.save(folder)
    transformer = Transformer(
        str(folder), max_seq_length=tokenizer.max_length, do_lower_case=tokenizer.lower_case
    )
    modules: list[nn.Module] = [transformer, ReferencePooling(encoder.backbone.hidden_size, modes[0])]
    modules += [_dense(layer) for layer in encoder.projection if isinstance(layer, Projection)]
    if encoder.normalize:
        modules.append(Normalize())
    prompts = {"default": tokenizer.prompt} if tokenizer.prompt else None
    default = "default" if tokenizer.prompt else None
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name=default)
    model.save(str(folder))


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
