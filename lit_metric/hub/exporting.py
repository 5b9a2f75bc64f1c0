"""Export encoders to the format of sentence-transformers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from tokenizers import Tokenizer

from lit_metric.encoders import Encoder, Projection, StaticEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.pooling import ACTIVATIONS
from lit_metric.encoders.pretrained import quietly
from lit_metric.encoders.recipe import MAX_LENGTHS, POOLINGS
from lit_metric.encoders.static import StaticBackbone
from lit_metric.hub.loading import TOWERS

log = logging.getLogger(__name__)

DEFAULT = "default"
"""The name of the prompt of texts without a role in an export."""


def export(encoder: Encoder, folder: str | Path) -> None:
    """Write a folder that ``SentenceTransformer(folder)`` loads, with the same embeddings.

    The folder is also an ordinary Hugging Face model, and :func:`load` reads it back. Prompts by role become
    its prompts, which ``encode_query``, ``encode_document`` and ``prompt_name`` choose. Two towers become two
    such folders, ``query`` and ``document``. Adapters are merged into their bases.

    Args:
        encoder: a TextEncoder whose pooling is mean, CLS, max or last token, a StaticEncoder as
            :meth:`StaticEncoder.folded` says, or a TwoTowerEncoder of such.
        folder: is created.

    Raises:
        ValueError: for an encoder that sentence-transformers has no modules for.
    """
    towers = {"": encoder}
    if isinstance(encoder, TwoTowerEncoder):
        towers = {name: getattr(encoder, name) for name in TOWERS}
    checked = {name: (tower, *_exportable(tower)) for name, tower in towers.items()}
    for name, (tower, mode, prompts) in checked.items():
        assert isinstance(tower, TextEncoder)
        _export_text(tower, mode, prompts, Path(folder, name))


def _exportable(encoder: Encoder) -> tuple[str, dict[str, str] | None]:
    """The pooling mode and the prompts of an encoder that sentence-transformers has modules for."""
    lacking = ""
    if not isinstance(encoder, TextEncoder):
        lacking = f"counterpart of {type(encoder).__name__}"
    elif isinstance(encoder, StaticEncoder) and encoder.folded() is None:
        lacking = (
            f"{type(encoder.pooling).__name__} of token vectors, only their mean, and attention with one "
            "head and without context where vectors have length 1 and no layer with a bias or an activation "
            "follows"
        )
    elif isinstance(encoder, StaticEncoder) and encoder.tokenizer.lower_case:
        lacking = "counterpart of lower_case=True for a static model"
    elif isinstance(encoder, StaticEncoder) and not encoder.tokenizer.tokenizer.is_fast:
        lacking = "way to use a tokenizer without tokenizer.json"
    elif not isinstance(encoder, StaticEncoder) and type(encoder.pooling) not in POOLINGS.values():
        lacking = f"{type(encoder.pooling).__name__}, only {', '.join(POOLINGS)}"
    elif encoder.tokenizer.replacements:
        lacking = f"counterpart of replacements={encoder.tokenizer.replacements}"
    if lacking or not isinstance(encoder, TextEncoder):
        other = ", or export its text tower, encoder.text" if hasattr(encoder, "text") else ""
        raise ValueError(
            f"sentence-transformers has no {lacking}: keep the folder that Encoder.save wrote and read it "
            f"with lit_metric.load{other}"
        )
    tokenizer = encoder.tokenizer
    mode = next((name for name, pooling in POOLINGS.items() if type(encoder.pooling) is pooling), "")
    if not tokenizer.prompt and not tokenizer.prompts:
        return mode, None
    # Always those of queries and documents: where one is missing, sentence-transformers takes an empty prompt
    # and not the default one.
    prompts = {role: tokenizer.prompt_of(role) for role in TOWERS} | tokenizer.prompts
    if tokenizer.prompt and prompts.setdefault(DEFAULT, tokenizer.prompt) != tokenizer.prompt:
        raise ValueError(
            f"the prompt of the role {DEFAULT!r} differs from that of texts without a role, which an export "
            "gives this name: rename the role"
        )
    return mode, prompts


def _export_text(encoder: TextEncoder, mode: str, prompts: dict[str, str] | None, folder: Path) -> None:
    # Here, as it takes seconds, and nothing else needs it.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        StaticEmbedding,
        Transformer,
    )

    tokenizer = encoder.tokenizer
    modules: list[torch.nn.Module]
    if isinstance(encoder.backbone, StaticBackbone):
        own = Tokenizer.from_str(tokenizer.tokenizer.backend_tokenizer.to_str())
        own.enable_truncation(tokenizer.max_length)
        assert isinstance(encoder, StaticEncoder)
        modules = [StaticEmbedding(own, encoder.folded())]
    else:
        encoder.backbone.save(folder, pad=True, merge=True)
        transformer = quietly(
            Transformer, str(folder), max_seq_length=tokenizer.max_length, do_lower_case=tokenizer.lower_case
        )
        pooling = Pooling(encoder.backbone.hidden_size, mode, include_prompt=tokenizer.pool_prompt)
        modules = [transformer, pooling]
    for layer in encoder.projection:
        assert isinstance(layer, Projection)
        activation = ACTIVATIONS[layer.activation]()
        dense = Dense(layer.linear.in_features, layer.dimension, layer.bias, activation_function=activation)
        with torch.no_grad():
            dense.linear.load_state_dict(layer.linear.state_dict())
        modules.append(dense)
    if encoder.normalize:
        modules.append(Normalize())
    model = quietly(
        SentenceTransformer,
        modules=modules,
        device="cpu",
        prompts=prompts,
        default_prompt_name=DEFAULT if tokenizer.prompt else None,
        truncate_dim=encoder.truncate_dim,
    )
    quietly(model.save, str(folder))
    if not tokenizer.max_lengths:
        return
    config = folder / "config_sentence_transformers.json"
    content = json.loads(config.read_text(encoding="utf-8")) | {MAX_LENGTHS: tokenizer.max_lengths}
    config.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    log.warning(
        "sentence-transformers has one length for all texts and cuts them to %d tokens; the lengths by role "
        "(%s) stay in the export for lit_metric.load",
        tokenizer.max_length,
        ", ".join(f"{role}: {length}" for role, length in tokenizer.max_lengths.items()),
    )
