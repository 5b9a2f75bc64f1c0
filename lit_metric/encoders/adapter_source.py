"""Where adapters come from: a configuration of peft, or a folder with an adapter that names its base."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from lit_metric.encoders.pretrained import (
    ADAPTER,
    Missing,
    fingerprint,
    given_weights,
    load_model,
    locate,
    resolve,
)
from lit_metric.encoders.recipe import find_file
from lit_metric.store import PACKAGE

WEIGHTS = "adapter_model.safetensors"
BASE = "base.json"
"""Beside an adapter that this library wrote: the fields of :class:`Base`."""

PREFIX = "base_model.model."
"""With which the names of modules begin in a file of peft; other programs leave it out."""

UNSUPPORTED = {
    "ADALORA": "it has to be called after each step to share out its ranks",
    "ADAPTION_PROMPT": "it puts tokens before those of the text",
    "POLY": "it wants the number of a task with each text",
    "SHADOW": "its layers don't return plain states",
    "XLORA": "it mixes adapters that were trained before",
}
"""Types that can't be trained here, and why; besides those that learn prompts."""

NEED_DATA = ("eva", "corda", "lora_ga")
"""Ways of setting the initial weights of LoRA that look at data first."""


def peft_module() -> Any:
    """The package peft.

    Raises:
        ImportError: names the extra to install.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError('adapters need the package peft: pip install "lit-metric[peft]"') from error


def check_trainable(kind: str, name: str) -> None:
    """Raise ``ValueError`` for a type of adapter that peft doesn't have, or that can't be trained here.

    Args:
        kind: of peft.
        name: what the user calls it.
    """
    peft = peft_module()
    kinds = {str(getattr(each, "value", each)): cls for each, cls in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    prompts = {each for each, cls in kinds.items() if issubclass(cls, peft.PromptLearningConfig)}
    usable = kinds.keys() - UNSUPPORTED.keys() - prompts
    if kind in usable:
        return
    reason = UNSUPPORTED.get(kind, UNSUPPORTED["ADAPTION_PROMPT"])
    problem = f"can't be trained here: {reason}" if kind in kinds else "is unknown to peft"
    raise ValueError(f"adapter: peft_type {name!r} {problem}; choose one of {', '.join(sorted(usable))}")


def adapter_config(given: Mapping[str, Any]) -> Any:
    """peft's configuration of a new adapter.

    Args:
        given: ``peft_type``, such as ``LORA``, or the name of a configuration of peft, such as
            ``LoraConfig``; and any of its fields. The others have peft's defaults.

    Raises:
        ImportError: without peft.
        ValueError: for an unknown type or field, a type that can't be trained here, or values that peft
            refuses.
    """
    peft = peft_module()
    if not isinstance(given, Mapping) or not isinstance(given.get("peft_type"), str):
        raise ValueError(
            f"adapter is {given!r:.80}; it has to be a mapping with peft_type, such as "
            "{peft_type: LORA, r: 16, target_modules: all-linear}"
        )
    fields = dict(given)
    wanted = fields.pop("peft_type")
    kinds = {str(getattr(kind, "value", kind)): cls for kind, cls in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    named = {cls.__name__: kind for kind, cls in kinds.items()}
    kind = named.get(wanted.rpartition(".")[2], wanted.upper())
    check_trainable(kind, wanted)
    cls = kinds[kind]
    known = [field.name for field in dataclasses.fields(cls) if field.init and field.name != "peft_type"]
    if unknown := [name for name in fields if name not in known]:
        close = difflib.get_close_matches(unknown[0], known, 1)
        meant = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(
            f"adapter: {cls.__name__} has no field {unknown[0]!r}{meant} Its fields are {', '.join(known)}"
        )
    if isinstance(fields.get("init_lora_weights"), str) and fields["init_lora_weights"] in NEED_DATA:
        raise ValueError(
            f"adapter: init_lora_weights={fields['init_lora_weights']!r} needs batches of data before "
            "training, which are not passed to it; leave it out"
        )
    try:
        return cls(**{"task_type": "FEATURE_EXTRACTION", **fields})
    except (TypeError, ValueError) as error:
        raise ValueError(f"adapter: {cls.__name__} refuses its values: {error}") from error


@dataclass(frozen=True)
class Base:
    """A reference to the model that an adapter changes.

    Args:
        source: a Hugging Face id, a folder, or ``package:NAME/folder``.
        subfolder: of the source.
        revision: of a Hugging Face id; None for the latest.
        dropout: that replaces every dropout probability of the base; None keeps them.
        sha256: of the weights that the source holds, see
            :func:`~lit_metric.encoders.pretrained.fingerprint`; None is not checked.
    """

    source: str
    subfolder: str = ""
    revision: str | None = None
    dropout: float | None = None
    sha256: str | None = None

    def lasting(self) -> Base:
        """The reference as it is written: a folder by its absolute path."""
        place = Path(self.source)
        if self.source.startswith(PACKAGE) or not place.is_dir():
            return self
        return dataclasses.replace(self, source=str(place.resolve()))

    def load(self, trust_remote_code: bool) -> tuple[PreTrainedModel, Missing, str, dict[str, Any]]:
        """The model, its missing weights, where transformers finds it, and with which options.

        Raises:
            FileNotFoundError: if it isn't there; says what can be done.
            ValueError: if it has other weights than those that the adapter was trained on.
        """
        try:
            path, options = resolve(self.source, self.subfolder)
            options["trust_remote_code"] = trust_remote_code
            if self.revision is not None:
                options["revision"] = self.revision
            model, missing = load_model(self.source, path, options, self.dropout)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the base model of the adapter, {self.source!r}, can't be loaded: {error}. Put it there, or "
                "export the model merged where its base is (`lit-metric export --model MODEL --output "
                "FOLDER`), and take that folder"
            ) from error
        known = self.sha256 is not None and model.device.type != "meta"
        if known and fingerprint(model, missing.names) != self.sha256:
            raise ValueError(
                f"the base model of the adapter, {self.source!r}, has other weights than when the adapter "
                "was trained, so its vectors would be others: put the old base there, or train again"
            )
        return model, missing, path, options


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter in a folder or on the hub, by this library or by peft.

    Args:
        source: as the user gave it.
        place: where ``adapter_config.json`` is, inside of the source.
        located: the folder or the Hugging Face id.
        base: what it changes.
        ours: whether this library wrote it.
    """

    source: str
    place: str
    located: str
    base: Base
    ours: bool

    @classmethod
    def find(cls, source: str, subfolder: str = "") -> SavedAdapter | None:
        """The adapter that a source holds, None if it holds none.

        Raises:
            ValueError: if it doesn't name its base.
        """
        located = locate(source)
        for place in dict.fromkeys([subfolder, ""]):
            config = find_file(located, _inside(place, ADAPTER))
            if config is None:
                continue
            base = find_file(located, _inside(place, BASE))
            if base is not None:
                reference = Base(**json.loads(base.read_text(encoding="utf-8")))
                return cls(source, place, located, reference, True)
            content = json.loads(config.read_text(encoding="utf-8"))
            name = content.get("base_model_name_or_path")
            if not name:
                raise ValueError(
                    f"{source}: {ADAPTER} doesn't name the model that the adapter was trained on; write its "
                    "folder or its Hugging Face id there as base_model_name_or_path"
                )
            inside = "" if place == subfolder else subfolder
            return cls(source, place, located, Base(name, inside, content.get("revision")), False)
        return None

    @property
    def recipe_source(self) -> str:
        """Where the settings of sentence-transformers are: at the base, unless the adapter has its own."""
        own = self.ours or find_file(self.located, "modules.json") is not None
        return self.located if own else locate(self.base.source)

    @property
    def tokenizer_path(self) -> str | None:
        """The folder with the adapter's tokenizer, None if it has none."""
        found = find_file(self.located, _inside(self.place, "tokenizer_config.json"))
        return None if found is None else str(found.parent)

    def config(self) -> Any:
        """peft's configuration.

        Raises:
            ImportError: without peft.
            ValueError: for a type that can't be trained here.
        """
        peft = peft_module()
        folder = find_file(self.located, _inside(self.place, ADAPTER))
        assert folder is not None
        config = peft.PeftConfig.from_pretrained(str(folder.parent))
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        check_trainable(kind, kind)
        config.inference_mode = False  # it may be trained further
        return config

    def weights(self) -> dict[str, Tensor] | None:
        """Its weights by peft's names; None under ``torch.device("meta")``, or where weights are given.

        Raises:
            FileNotFoundError: if there are none in safetensors format.
        """
        if torch.get_default_device().type == "meta" or given_weights(self.source) is not None:
            return None
        path = find_file(self.located, _inside(self.place, WEIGHTS))
        if path is None:
            raise FileNotFoundError(
                f"{self.source}: the adapter has no {WEIGHTS}, and other formats are not read: save it with "
                "safe_serialization=True"
            )
        content = load_file(path, device="cpu")
        whole = any(name.startswith("base_model.") for name in content)
        return content if whole else {PREFIX + name: value for name, value in content.items()}


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
