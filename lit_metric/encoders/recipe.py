"""Settings of a sentence-transformers folder besides the backbone: pooling, dense layers, prompt, length."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers.utils import cached_file

from lit_metric.encoders.composing import ComposedPooling
from lit_metric.encoders.conjunction import ConjunctionPooling
from lit_metric.encoders.pooling import (
    ACTIVATIONS,
    AttentionPooling,
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

LEARNED: dict[str, type[Pooling]] = {
    "attention": AttentionPooling,
    "conjunction": ConjunctionPooling,
    "composed": ComposedPooling,
}
"""Poolings with weights, by their modes in an exported folder."""

LEARNED_OPTIONS = {
    "attention": ("heads", "score", "hidden", "empty", "context"),
    "conjunction": ("heads", "hidden", "most_values"),
    "composed": ("hidden",),
}
"""Their arguments that such a folder keeps."""

STATIC = "lit-metric-static"
"""The ``model_type`` of a table of token vectors that this library saved."""

MAX_LENGTHS = "max_lengths"
"""Where an exported ``config_sentence_transformers.json`` has lengths by role, read here only."""

ACTIVATION_CLASSES = {f"{cls.__module__}.{cls.__qualname__}": name for name, cls in ACTIVATIONS.items()}
"""Names of activations by the class paths that sentence-transformers writes."""

IGNORE = "pass pooling=... to use the backbone alone"

VECTOR = "sentence_embedding"
"""Where modules of sentence-transformers have the vector of a text."""

_TRANSFORMERS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
"""In the names of files in which sentence-transformers has kept the settings of a Transformer."""

_HARMLESS = {"trust_remote_code", "padding_side", "use_fast"}
"""Extra arguments of what a Transformer loads that change no vector."""

FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
"""How a Transformer of sentence-transformers gets the states of tokens."""

EXPORTED = "lit_metric_modules"
"""The file of modules in an exported folder, without its ending."""

INPUT = "lit_metric_input.json"
"""What such a folder says of its texts."""


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
        static: whether it is a table of token vectors and no transformer.
        replacements: strings to be replaced in texts first; None if the source says nothing.
        source: the folder or the Hugging Face id that all this was read from.
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
    static: bool = False
    replacements: dict[str, str] | None = None

    source: str = field(default="", compare=False)

    @classmethod
    def read(cls, source: str, head: bool = True) -> Recipe:
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
        recipe = cls(source=source)
        modules = recipe._json("", "modules.json")
        if modules is None:
            recipe._read_table()
            return recipe
        kinds = []
        for module in modules:
            package, name = module["type"].split(".")[0], module["type"].rpartition(".")[2]
            kinds.append(name if package in ("sentence_transformers", EXPORTED) else module["type"])
        first = kinds[0] if kinds else "nothing"
        if first in ("Router", "Towers"):
            raise ValueError(f"{source} holds two towers: lit_metric.load reads it")
        if first not in ("Transformer", "StaticEmbedding", "TextInput"):
            raise ValueError(
                f"{source}: its first module is {first}, and only Transformer and StaticEmbedding of "
                "sentence-transformers can be read"
            )
        recipe.subfolder = "" if modules[0]["path"] == "." else modules[0]["path"]
        settings = (recipe._json(recipe.subfolder, INPUT) or {}) if first == "TextInput" else {}
        recipe.static = first == "StaticEmbedding"
        if settings.get("backbone") == "TokenTable":
            recipe._read_table()
        elif recipe.static:
            recipe.pooling = MeanPooling()
        else:
            recipe._read_transformer()
        recipe._read_general(head)
        if first == "TextInput":
            recipe.replacements = settings["replacements"]
            recipe.max_lengths = recipe.max_lengths or settings["max_lengths"]
        if head:
            if len(kinds) == 1 and not recipe.static:
                raise ValueError(
                    f"{source}: no module follows the Transformer, so there is no pooling; {IGNORE}"
                )
            recipe.normalize = False
            for kind, module in zip(kinds[1:], modules[1:], strict=True):
                recipe._read_module(kind, module["path"])
        return recipe

    @classmethod
    def read_head(cls, source: str, modules: list[dict[str, Any]]) -> Recipe:
        """Dense layers and normalisation of a folder of sentence-transformers, by entries of its
        ``modules.json`` that follow a pooling."""
        recipe = cls(source=source, pooling=MeanPooling(), normalize=False)
        for module in modules:
            recipe._read_module(module["type"].rpartition(".")[2], module["path"])
        return recipe

    def _json(self, folder: str, name: str) -> Any:
        path = find_file(self.source, f"{folder}/{name}" if folder else name)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def _read_table(self) -> None:
        """Whether a folder holds a static model, and what it says of texts."""
        settings = self._json(self.subfolder, "config.json") or {}
        kind = settings.get("model_type")
        # model2vec writes the second of these always, and the first where it has distilled the model.
        self.static = kind in (STATIC, "model2vec") or (kind is None and "embedding_dtype" in settings)
        if kind == STATIC:
            self.max_length, self.lower_case = settings["max_length"], settings["lower_case"]
            self.replacements = settings["replacements"]
        elif self.static:
            self.normalize = bool(settings.get("normalize", False))

    def _read_transformer(self) -> None:
        """Read length and case; other settings would change the vectors."""
        found = (self._json(self.subfolder, f"sentence_{name}_config.json") for name in _TRANSFORMERS)
        settings: dict[str, Any] = next((each for each in found if each is not None), {})
        self.max_length = settings.get("max_seq_length")
        self.lower_case = bool(settings.get("do_lower_case", False))
        lengths = {role: settings.get(f"{role}_length") for role in ("query", "document")}
        self.max_lengths = {role: length for role, length in lengths.items() if length is not None}
        modalities = settings.get("modality_config")
        names = {
            name
            for of in ("config", "tokenizer", "processor")
            for kind in ("args", "kwargs")
            for name in settings.get(f"{of}_{kind}") or {}
        }
        task, output = settings.get("transformer_task"), settings.get("module_output_name")
        usual = {
            "transformer_task": task in (None, "feature-extraction"),
            "modality_config": not modalities or modalities.get("text") == FORWARD,
            "module_output_name": output in (None, "token_embeddings"),
            "query_expansion": not settings.get("query_expansion"),
            "processing_kwargs": not settings.get("processing_kwargs"),
            "tokenizer_name_or_path": not settings.get("tokenizer_name_or_path"),
            "config_args": names <= _HARMLESS,
        }
        if odd := [name for name, fine in usual.items() if not fine]:
            raise ValueError(
                f"{self.source}: its {', '.join(odd)} can't be followed here, so its vectors would differ"
            )

    def _read_general(self, head: bool) -> None:
        """Prompts, lengths by role, components kept, and how vectors are compared."""
        general = self._json("", "config_sentence_transformers.json") or {}
        kind = general.get("model_type") or "SentenceTransformer"
        if kind != "SentenceTransformer":
            raise ValueError(
                f"{self.source} is a {kind} of sentence-transformers; only SentenceTransformer can be read"
            )
        prompts, default = general.get("prompts") or {}, general.get("default_prompt_name")
        if default and default not in prompts:
            raise ValueError(f"{self.source}: default_prompt_name is {default!r}, and it has no such prompt")
        if default:
            self.prompt = prompts[default] or ""
        self.prompts = {role: text or "" for role, text in prompts.items() if (text or "") != self.prompt}
        self.max_lengths = general.get(MAX_LENGTHS) or self.max_lengths
        self.truncate_dim = general.get("truncate_dim") if head else None
        similarity = general.get("similarity_fn_name") or "cosine"
        if similarity != "cosine":
            log.warning(
                "%s compares its vectors by %s; training, evaluation and search compare them by cosine here",
                self.source,
                similarity,
            )

    def _read_module(self, kind: str, path: str) -> None:
        """Pooling, a dense layer, or normalisation."""
        config = self._json(path, "config.json") or {}
        first = self.pooling is None
        names = {config.get("module_input_name") or VECTOR, config.get("module_output_name") or VECTOR}
        if kind == "Pooling" and first:
            self.pool_prompt = bool(config.get("include_prompt", True))
            old = [
                re.match(r"pooling_mode_(\w+?)(_tokens?)?$", key) for key, given in config.items() if given
            ]
            mode = config.get("pooling_mode") or [match[1] for match in old if match]
            mode = mode if isinstance(mode, str) else "+".join(mode) or "mean"
            if mode not in POOLINGS:
                raise ValueError(
                    f"{self.source}: pooling {mode!r} is not one of {', '.join(POOLINGS)}; {IGNORE}"
                )
            self.pooling = POOLINGS[mode]()
        elif kind == "SegmentPooling" and config["level"] == "texts":
            raise ValueError(f"{self.source} holds an encoder of sets: lit_metric.load reads it")
        elif kind == "SegmentPooling" and first:
            self.pool_prompt = config["include_prompt"]
            self.pooling = segment_pooling(self.source, path, config)
        elif kind == "Dense" and not first and self.normalize is not True and names == {VECTOR}:
            self.projection.append(self._dense(path, config))
        elif kind == "Normalize" and not first and names == {VECTOR}:
            self.normalize = True
        elif kind == "Dropout" and not first:
            log.info("%s: its Dropout acts in training only, and is left out", self.source)
        else:
            raise ValueError(f"{self.source}: a module {kind} in {path!r} can't be reproduced; {IGNORE}")

    def _dense(self, path: str, config: dict[str, Any]) -> Projection:
        layer = f"{self.source}: the dense layer in {path!r}"
        name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        if name not in ACTIVATION_CLASSES or config.get("use_residual"):
            raise ValueError(f"{layer} can't be reproduced; {IGNORE}")
        weights = find_file(self.source, f"{path}/model.safetensors")
        if weights is None:
            raise ValueError(f"{layer} has no model.safetensors; {IGNORE}")
        projection = Projection(
            config["out_features"],
            config.get("bias", True),
            ACTIVATION_CLASSES[name],
            input_dimension=config["in_features"],
        )
        projection.load_state_dict(load_file(weights))
        return projection


def segment_pooling(source: str, path: str, config: dict[str, Any]) -> Pooling:
    """The pooling that an export has as a SegmentPooling in a folder of that path."""
    mode = config["mode"]
    if mode not in LEARNED:
        return POOLINGS[mode]()
    names = (*LEARNED_OPTIONS[mode], "dimension")
    pooling = LEARNED[mode](**{name: config[name] for name in names if name in config})
    weights = find_file(source, f"{path}/model.safetensors")
    if weights is None:
        raise ValueError(f"{source}: the {mode} pooling in {path!r} has no model.safetensors; {IGNORE}")
    pooling.load_state_dict(load_file(weights))
    return pooling


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
