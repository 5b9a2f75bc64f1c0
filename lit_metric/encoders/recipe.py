"""What a sentence-transformers folder says beyond the backbone: pooling, dense layers, prompt, length."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers.utils import cached_file

from lit_metric.encoders.pooling import (
    Activation,
    CLSPooling,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    Projection,
)

log = logging.getLogger(__name__)

POOLINGS: dict[str, type[Pooling]] = {
    "mean": MeanPooling,
    "cls": CLSPooling,
    "max": MaxPooling,
    "lasttoken": LastTokenPooling,
}
"""Pooling modes of sentence-transformers that are known here."""

MAX_LENGTHS = "max_lengths"
"""Where an exported ``config_sentence_transformers.json`` has lengths by role, read here only."""

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

ACTIVATION_CLASSES: dict[str, Activation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
}


IGNORE = "pass pooling=... to use the backbone alone"

VECTOR = "sentence_embedding"
"""Where modules of sentence-transformers have the vector of a text."""

_TRANSFORMERS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
"""In the names of files in which sentence-transformers has kept the settings of a Transformer."""

_ARGUMENTS, _HARMLESS = (
    ("config", "tokenizer", "processor"),
    {"trust_remote_code", "padding_side", "use_fast"},
)
"""Extra arguments of what a Transformer loads, and those among them that change no vector."""

_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


@dataclass
class Recipe:
    """How a source wants its texts encoded.

    Args:
        subfolder: where the backbone lies inside the source.
        pooling: from states to a vector; None if the source says nothing.
        projection: layers after it, with their weights.
        normalize: whether embeddings have length 1; None if the source says nothing.
        prompt: put before every text.
        max_length: tokens per text.
        prompts: by role, those that differ from ``prompt``.
        max_lengths: tokens per text by role, which only exports of this library say.
        pool_prompt: whether the pooling sees a prompt's tokens.
        lower_case: whether texts are lower-cased first.
        truncate_dim: how many leading components are kept; None for all.
    """

    subfolder: str = ""
    pooling: Pooling | None = None
    projection: list[Projection] = field(default_factory=list)
    normalize: bool | None = None
    prompt: str = ""
    max_length: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    max_lengths: dict[str, int] = field(default_factory=dict)
    pool_prompt: bool = True
    truncate_dim: int | None = None


def read_recipe(source: str, head: bool = True) -> Recipe:
    """Read a sentence-transformers folder or hub id; an empty recipe for one that is not.

    Args:
        source: a folder or a Hugging Face id.
        head: also read pooling, dense layers and normalisation; without, what can't be reproduced is no
            error.

    Raises:
        ValueError: for a part that this library can't reproduce.
    """
    if Path(source, "encoder.json").is_file():
        raise ValueError(f"{source} holds a whole encoder: lit_metric.load reads it")
    modules = _json(source, "modules.json")
    if modules is None:
        return Recipe()
    parts = [(_kind(module, source, place), module["path"]) for place, module in enumerate(modules)]
    if not parts or parts[0][0] != "Transformer":
        first = parts[0][0] if parts else "nothing"
        raise ValueError(f"{source}: its first module is {first}, and only Transformer can be read")
    recipe = Recipe(subfolder=parts[0][1])
    _read_transformer(recipe, source)
    _read_general(recipe, source, head)
    if head:
        if len(parts) == 1:
            raise ValueError(f"{source}: no module follows the Transformer, so there is no pooling; {IGNORE}")
        recipe.normalize = False
        for kind, path in parts[1:]:
            _read_part(recipe, source, kind, path)
    return recipe


def _kind(module: dict[str, Any], source: str, place: int) -> str:
    """The name of a module's class, if it is one of sentence-transformers."""
    root, name = module["type"].split(".")[0], module["type"].rpartition(".")[2]
    if root != "sentence_transformers" and place == 0:
        raise ValueError(
            f"{source}: its first module is {module['type']}, a class of its own, and only Transformer of "
            "sentence-transformers can be read"
        )
    return name if root == "sentence_transformers" else module["type"]


def _read_transformer(recipe: Recipe, source: str) -> None:
    """Length and case; whatever else is set there would change the vectors."""
    found = (_json(source, _join(recipe.subfolder, f"sentence_{name}_config.json")) for name in _TRANSFORMERS)
    settings: dict[str, Any] = next((each for each in found if each is not None), {})
    recipe.max_length = settings.get("max_seq_length")
    recipe.lower_case = bool(settings.get("do_lower_case", False))
    lengths = {role: settings.get(f"{role}_length") for role in ("query", "document")}
    recipe.max_lengths = {role: length for role, length in lengths.items() if length is not None}
    modalities = settings.get("modality_config")
    options = [
        {**(settings.get(f"{of}_args") or {}), **(settings.get(f"{of}_kwargs") or {})} for of in _ARGUMENTS
    ]
    usual = {
        "transformer_task": settings.get("transformer_task", "feature-extraction") == "feature-extraction",
        "modality_config": not modalities or modalities.get("text") == _FORWARD,
        "module_output_name": settings.get("module_output_name", "token_embeddings") == "token_embeddings",
        "query_expansion": not settings.get("query_expansion"),
        "processing_kwargs": not settings.get("processing_kwargs"),
        "tokenizer_name_or_path": not settings.get("tokenizer_name_or_path"),
        "config_args": not any({*each} - _HARMLESS for each in options),
    }
    if odd := [name for name, fine in usual.items() if not fine]:
        raise ValueError(
            f"{source}: its {', '.join(odd)} can't be followed here, so its vectors would differ"
        )


def _read_general(recipe: Recipe, source: str, head: bool) -> None:
    """Prompts, lengths by role, components kept, and how vectors are compared."""
    general = _json(source, "config_sentence_transformers.json") or {}
    kind = general.get("model_type") or "SentenceTransformer"
    if kind != "SentenceTransformer":
        raise ValueError(
            f"{source} is a {kind} of sentence-transformers, and only SentenceTransformer can be read"
        )
    prompts, default = general.get("prompts") or {}, general.get("default_prompt_name")
    if default and default not in prompts:
        raise ValueError(f"{source}: default_prompt_name is {default!r}, and it has no such prompt")
    if default:
        recipe.prompt = prompts[default] or ""
    recipe.prompts = {role: text or "" for role, text in prompts.items() if (text or "") != recipe.prompt}
    recipe.max_lengths = general.get(MAX_LENGTHS) or recipe.max_lengths
    recipe.truncate_dim = general.get("truncate_dim") if head else None
    similarity = general.get("similarity_fn_name") or "cosine"
    if similarity != "cosine":
        log.warning(
            "%s compares its vectors by %s; training, evaluation and search compare them by cosine here",
            source,
            similarity,
        )


def _read_part(recipe: Recipe, source: str, kind: str, path: str) -> None:
    config = _json(source, _join(path, "config.json")) or {}
    first = recipe.pooling is None
    names = {config.get("module_input_name") or VECTOR, config.get("module_output_name") or VECTOR}
    if kind == "Pooling" and first:
        recipe.pool_prompt = bool(config.get("include_prompt", True))
        mode = _pooling_mode(config)
        if mode not in POOLINGS:
            raise ValueError(f"{source}: pooling {mode!r} is not one of {', '.join(POOLINGS)}; {IGNORE}")
        recipe.pooling = POOLINGS[mode]()
    elif kind == "Dense" and not first and recipe.normalize is not True and names == {VECTOR}:
        recipe.projection.append(_dense(source, path, config))
    elif kind == "Normalize" and not first and names == {VECTOR}:
        recipe.normalize = True
    elif kind == "Dropout" and not first:
        log.info("%s: its Dropout acts in training only, and is left out", source)
    else:
        raise ValueError(f"{source}: a module {kind} in {path!r} can't be reproduced; {IGNORE}")


def _pooling_mode(config: dict[str, Any]) -> str:
    mode = config.get("pooling_mode") or [name for key, name in _OLD_MODES.items() if config.get(key)]
    if isinstance(mode, str):
        return mode
    return "+".join(mode) if mode else "mean"


def _dense(source: str, path: str, config: dict[str, Any]) -> Projection:
    activation = ACTIVATION_CLASSES.get(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if activation is None or config.get("use_residual"):
        raise ValueError(f"{source}: the dense layer in {path!r} can't be reproduced; {IGNORE}")
    weights = find_file(source, _join(path, "model.safetensors"))
    if weights is None:
        raise ValueError(f"{source}: the dense layer in {path!r} has no model.safetensors; {IGNORE}")
    layer = Projection(
        config["out_features"], config.get("bias", True), activation, input_dimension=config["in_features"]
    )
    layer.load_state_dict(load_file(weights))
    return layer


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _json(source: str, name: str) -> Any:
    path = find_file(source, name)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def find_file(source: str, name: str) -> Path | None:
    """A file of a folder or of a model of the hub, None if it has none of that name."""
    if Path(source).is_dir():
        path = Path(source, name)
        return path if path.is_file() else None
    try:
        found = cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # no such repository: loading the backbone says so
        return None
    return None if found is None else Path(found)
