"""What a sentence-transformers folder says beyond the backbone: pooling, dense layers, prompt, length."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers.utils import cached_file

from lit_metric.encoders.pooling import CLSPooling, LastTokenPooling, MaxPooling, MeanPooling, Pooling
from lit_metric.encoders.projection import Activation, Projection

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
    parts = [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
    if not parts or parts[0][0] != "Transformer":
        first = parts[0][0] if parts else "nothing"
        raise ValueError(f"{source}: its first module is {first}, and only Transformer can be read")
    recipe = Recipe(subfolder=parts[0][1])
    settings = _json(source, _join(recipe.subfolder, "sentence_bert_config.json")) or {}
    recipe.max_length = settings.get("max_seq_length")
    recipe.lower_case = bool(settings.get("do_lower_case", False))
    general = _json(source, "config_sentence_transformers.json") or {}
    prompts = general.get("prompts") or {}
    if general.get("default_prompt_name"):
        recipe.prompt = prompts.get(general["default_prompt_name"]) or ""
    recipe.prompts = {role: text or "" for role, text in prompts.items() if (text or "") != recipe.prompt}
    recipe.max_lengths = general.get(MAX_LENGTHS) or {}
    if head:
        recipe.normalize = False
        for kind, path in parts[1:]:
            _read_part(recipe, source, kind, path)
    return recipe


def _read_part(recipe: Recipe, source: str, kind: str, path: str) -> None:
    config = _json(source, _join(path, "config.json")) or {}
    ignore = "pass pooling=... to use the backbone alone"
    if kind == "Pooling":
        recipe.pool_prompt = bool(config.get("include_prompt", True))
        mode = _pooling_mode(config)
        if mode not in POOLINGS:
            raise ValueError(f"{source}: pooling {mode!r} is not one of {', '.join(POOLINGS)}; {ignore}")
        recipe.pooling = POOLINGS[mode]()
    elif kind == "Dense" and recipe.normalize is not True:
        recipe.projection.append(_dense(source, path, config, ignore))
    elif kind == "Normalize":
        recipe.normalize = True
    elif kind != "Dropout":
        raise ValueError(f"{source}: a module {kind} in {path!r} can't be reproduced; {ignore}")


def _pooling_mode(config: dict[str, Any]) -> str:
    mode = config.get("pooling_mode") or [name for key, name in _OLD_MODES.items() if config.get(key)]
    if isinstance(mode, str):
        return mode
    return "+".join(mode) if mode else "mean"


def _dense(source: str, path: str, config: dict[str, Any], ignore: str) -> Projection:
    activation = ACTIVATION_CLASSES.get(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    vector = "sentence_embedding"
    renamed = {config.get("module_input_name", vector), config.get("module_output_name") or vector} != {
        vector
    }
    if activation is None or renamed or config.get("use_residual"):
        raise ValueError(f"{source}: the dense layer in {path!r} can't be reproduced; {ignore}")
    weights = find_file(source, _join(path, "model.safetensors"))
    if weights is None:
        raise ValueError(f"{source}: the dense layer in {path!r} has no model.safetensors; {ignore}")
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
