"""A Hugging Face text model with its tokenizer, run on texts laid end to end."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.adapter import Adapter
from lit_metric.encoders.adapter_source import Base, SavedAdapter, adapter_config
from lit_metric.encoders.attention import PACKED
from lit_metric.encoders.inference import HalfCopy, reentrant, run_pieces
from lit_metric.encoders.packing import (
    Verdict,
    Way,
    packed_forward,
    padded_forward,
    probe,
    unpadded_forward,
    use_attention,
)
from lit_metric.encoders.pretrained import Missing, given_weights, load_model, locate, quietly, resolve
from lit_metric.encoders.recipe import Recipe
from lit_metric.encoders.tokenizer import TextTokenizer

log = logging.getLogger(__name__)

Packing = Literal["auto", "always", "never"]


class Backbone(nn.Module):
    """The text model of an encoder.

    Args:
        model: its last hidden states are used.
        tokenizer: the one that the model was trained with.
        packing: "auto" packs if the probe finds no difference, "always" raises if it does, "never" pads.
        name: what to call the model in messages.
        missing: weights that were not loaded.
        adapter: that is in the model; all else is frozen.

    Raises:
        ValueError: if outputs depend on weights that were not loaded, if ``packing`` is "always" and packing
            changes the model's outputs, or if a text's output depends on other texts however it is run.
    """

    adapter: Adapter | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        packing: Packing = "auto",
        name: str = "the backbone",
        missing: Missing | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__()
        if packing not in ("auto", "always", "never"):
            raise ValueError(f"packing is {packing!r}; choose 'auto', 'always' or 'never'")
        self.model = model
        self.tokenizer = tokenizer
        self.adapter = adapter
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        self.way: Way = "padded"
        self.rounded = HalfCopy()
        self.unused: tuple[str, ...] = ()
        if model.device.type == "meta":  # names and shapes only
            return
        with nullcontext() if adapter is None else adapter.probing():
            verdict = probe(
                model,
                tokenizer.max_length,
                tokenizer.special_ids,
                tokenizer.padding_id,
                pack=packing != "never",
            )
        self.unused = verdict.unused
        if missing is not None:
            renamed = {} if adapter is None else adapter.renamed
            missing.refuse(name, [renamed.get(each, each) for each in self.unused])
        self.way = self._choose(verdict, packing, name)
        if self.packed:
            use_attention(model, PACKED)
        self.freeze_unused()
        if self.unused:
            log.debug("%s: frozen, as no output depends on them: %s", name, ", ".join(self.unused))

    @staticmethod
    def _choose(verdict: Verdict, packing: Packing, name: str) -> Way:
        """The way that a model takes; the log says so if it is not the fastest."""
        if verdict.way == "none":
            raise ValueError(
                f"{name}: the vector of a text depends on the other texts of its batch, padded or not "
                f"({verdict.unpadded}): take another model"
            )
        if packing == "always" and not verdict.packed:
            raise ValueError(f"{name} can't be packed: {verdict.reason}; packing='auto' pads it instead")
        if verdict.way == "unpadded":
            log.warning(
                "%s runs in batches of texts of one length, which is slow, as padding changes its vectors: "
                "%s",
                name,
                verdict.unpadded,
            )
        elif verdict.way == "padded" and packing == "auto":
            log.warning("%s runs padded, not packed: %s", name, verdict.reason)
        return verdict.way

    @property
    def packed(self) -> bool:
        """Whether texts run end to end."""
        return self.way == "packed"

    @classmethod
    def recipe(cls, source: str, head: bool = True) -> Recipe:
        """How a source wants its texts encoded; see :meth:`Recipe.read`. An adapter that says nothing of that
        wants it as its base does.

        Raises:
            ValueError: if it is a static model, or has a part that this library can't reproduce.
        """
        saved = SavedAdapter.find(source)
        recipe = Recipe.read(locate(source) if saved is None else saved.recipe_source, head)
        if recipe.static:
            raise ValueError(f"{source} is a static model, a table of token vectors: use a StaticEncoder")
        return recipe

    @classmethod
    def load(
        cls,
        source: str,
        max_length: int | None = None,
        dropout: float | None = None,
        packing: Packing = "auto",
        trust_remote_code: bool = False,
        subfolder: str = "",
        adapter: dict[str, Any] | None = None,
        **tokenizing: Any,
    ) -> Backbone:
        """Load model and tokenizer, from safetensors only, in float32.

        Args:
            source: a Hugging Face id, a folder, or ``package:NAME/folder``, with a model or an adapter.
            max_length: tokens per text including special ones; what the model can take if None.
            dropout: replaces every dropout probability of the model.
            packing: see :class:`Backbone`.
            trust_remote_code: run model code that comes with the weights.
            subfolder: of the source.
            adapter: to put into the model; see :func:`~lit_metric.encoders.adapter.adapter_config`.
            tokenizing: prompts and the like; see :class:`~lit_metric.encoders.TextTokenizer`.

        Raises:
            FileNotFoundError: if there is no such model, or it has no safetensors weights.
            ImportError: for an adapter without peft.
            ValueError: if weights are missing or of other shapes, the tokenizer is of another model, or the
                adapter doesn't fit.
        """
        saved = SavedAdapter.find(source, subfolder)
        if saved is not None:
            if adapter is not None:
                raise ValueError(
                    f"{source} holds an adapter already, which is trained further: leave adapter out, or "
                    f"merge it first by `lit-metric export --model {source} --output FOLDER`"
                )
            return cls._with_saved(saved, max_length, dropout, packing, trust_remote_code, tokenizing)
        config = None if adapter is None else adapter_config(adapter)
        path, options = resolve(source, subfolder)
        options["trust_remote_code"] = trust_remote_code
        model, missing = load_model(source, path, options, dropout)
        tokenizer = TextTokenizer.load(path, model, max_length, options, **tokenizing)
        base = Base(source, subfolder, dropout=dropout)
        fitted = None if config is None else Adapter(model, config, base, missing)
        return cls(model, tokenizer, packing, source, missing, fitted)

    @classmethod
    def _with_saved(
        cls,
        saved: SavedAdapter,
        max_length: int | None,
        dropout: float | None,
        packing: Packing,
        trust_remote_code: bool,
        tokenizing: dict[str, Any],
    ) -> Backbone:
        """The base of a saved adapter with the adapter in it."""
        config = saved.config()
        base = saved.base if dropout is None else replace(saved.base, dropout=dropout)
        model, missing, path, options = base.load(trust_remote_code)
        if saved.tokenizer_path is not None:
            path, options = saved.tokenizer_path, options | {"subfolder": ""}
        tokenizer = TextTokenizer.load(path, model, max_length, options, **tokenizing)
        adapter = Adapter(model, config, base, missing, saved.weights(), given_weights(saved.source))
        return cls(model, tokenizer, packing, saved.source, missing, adapter)

    @property
    def layers(self) -> str:
        """The name of the list of the model's layers, from the lowest to the top.

        Raises:
            ValueError: if the model has none, as where all layers share their weights.
        """
        config: Any = getattr(self.model, "config", None)
        count = None if config is None else getattr(config.get_text_config(), "num_hidden_layers", None)
        for name, part in self.model.named_modules():
            if isinstance(part, nn.ModuleList) and len(part) == count:
                return name
        kind = type(self.model).__name__ if config is None else config.model_type
        raise ValueError(f"models of type {kind} have no list of layers")

    def freeze_unused(self) -> None:
        """Freeze the parameters that no output depends on, for DDP stops at them, and an adapter's base."""
        for name in self.unused:
            self.model.get_parameter(name).requires_grad_(False)
        if self.adapter is not None:
            self.adapter.freeze_base()

    def forward(self, tokens: Ragged) -> Ragged:
        """``[T]`` token ids to ``[T, h]`` last hidden states, with the same offsets."""
        model = self.model
        if torch.is_grad_enabled() or model.training or tokens.values.device.type != "cpu":
            return Ragged(self._states(model, tokens), tokens.offsets)
        half = (
            self.rounded.of(model, tokens, self._states)
            if self.rounded.wanted and len(tokens.values)
            else None
        )
        with torch.autocast("cpu", enabled=False) if half is not None else nullcontext():
            # Autocast is on in one thread only.
            at_once = self.packed and reentrant(model) and not torch.is_autocast_enabled("cpu")
            states = run_pieces(partial(self._states, half or model), tokens, at_once)
        return Ragged(states, tokens.offsets)

    def _states(self, model: PreTrainedModel, tokens: Ragged) -> Tensor:
        if self.way == "packed":
            return packed_forward(model, tokens)
        if self.way == "padded":
            return padded_forward(model, tokens, self.tokenizer.padding_id)
        return unpadded_forward(model, tokens)

    def save(self, folder: Path, weights: bool = True, pad: bool = False, merge: bool = False) -> None:
        """Write an ordinary Hugging Face folder with model (safetensors) and tokenizer; of a backbone with an
        adapter, the adapter and a reference to its base instead of the model.

        Args:
            folder: is created.
            weights: without them, the folder only describes the model.
            pad: give the tokenizer a padding token if it has none, for libraries that can't do without.
            merge: write the whole model, with an adapter worked into its weights.

        Raises:
            ValueError: if an adapter can't be merged, or its base has been trained.
        """
        if self.adapter is not None and not merge:
            self.adapter.save(folder, weights)
        elif weights:
            model = self.model if self.adapter is None else self.adapter.merged()
            quietly(model.save_pretrained, folder)
        else:  # by its configuration, as a model is saved by the first of several processes only
            if getattr(self.model, "_auto_class", None):
                config: Any = self.model.config
                folder.mkdir(parents=True, exist_ok=True)
                custom_object_save(self.model, folder, config=config)
            self.model.config.save_pretrained(folder)
        self.tokenizer.save(folder, pad)


def freeze_parameters(model: nn.Module, freeze: bool | Sequence[str]) -> None:
    """Freeze all of a model, or the parameters under the named parts or matching the patterns.

    Raises:
        ValueError: if a name or pattern fits no parameter.
    """
    if isinstance(freeze, bool):
        if freeze:
            model.requires_grad_(False)
        return
    names = dict(model.named_parameters())
    for pattern in freeze:
        chosen = [
            name for name in names if f"{name}.".startswith(f"{pattern}.") or fnmatch.fnmatch(name, pattern)
        ]
        if not chosen:
            parts = ", ".join(name for name, _ in model.named_children())
            raise ValueError(
                f"freeze: no parameter of the backbone is called {pattern!r}; its parts are {parts}"
            )
        for name in chosen:
            names[name].requires_grad_(False)
