"""A Hugging Face text model with its tokenizer, run on texts laid end to end."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.attention import PACKED
from lit_metric.encoders.inference import HalfCopy, pieces
from lit_metric.encoders.packing import (
    Verdict,
    Way,
    packed_forward,
    padded_forward,
    probe,
    unpadded_forward,
    use_attention,
)
from lit_metric.encoders.pretrained import Missing, load_model, quietly, resolve
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

    Raises:
        ValueError: if outputs depend on weights that were not loaded, if ``packing`` is "always" and packing
            changes the model's outputs, or if a text's output depends on other texts however it is run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        packing: Packing = "auto",
        name: str = "the backbone",
        missing: Missing | None = None,
    ) -> None:
        super().__init__()
        if packing not in ("auto", "always", "never"):
            raise ValueError(f"packing is {packing!r}; choose 'auto', 'always' or 'never'")
        self.model = model
        self.tokenizer = tokenizer
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        self.way: Way = "padded"
        self.rounded = HalfCopy()
        self.unused: tuple[str, ...] = ()
        if model.device.type == "meta":  # names and shapes only
            return
        verdict = probe(
            model, tokenizer.max_length, tokenizer.special_ids, tokenizer.padding_id, pack=packing != "never"
        )
        self.unused = verdict.unused
        if missing is not None:
            missing.refuse(name, self.unused)
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
        """How a source wants its texts encoded; see :meth:`Recipe.read`.

        Raises:
            ValueError: if it is a static model, or has a part that this library can't reproduce.
        """
        recipe = Recipe.read(source, head)
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
        **tokenizing: Any,
    ) -> Backbone:
        """Load model and tokenizer, from safetensors only, in float32.

        Args:
            source: a Hugging Face id, a folder, or ``package:NAME/folder``.
            max_length: tokens per text including special ones; what the model can take if None.
            dropout: replaces every dropout probability of the model.
            packing: see :class:`Backbone`.
            trust_remote_code: run model code that comes with the weights.
            subfolder: of the source.
            tokenizing: prompts and the like; see :class:`~lit_metric.encoders.TextTokenizer`.

        Raises:
            FileNotFoundError: if there is no such model, or it has no safetensors weights.
            ValueError: if weights are missing or of other shapes, or the tokenizer is of another model.
        """
        path, options = resolve(source, subfolder)
        options["trust_remote_code"] = trust_remote_code
        model, missing = load_model(source, path, options, dropout)
        tokenizer = TextTokenizer.load(path, model, max_length, options, **tokenizing)
        return cls(model, tokenizer, packing, source, missing)

    def freeze_unused(self) -> None:
        """Freeze the parameters that no output depends on, for DDP stops at them."""
        for name in self.unused:
            self.model.get_parameter(name).requires_grad_(False)

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
            states = [self._states(half or model, piece) for piece in pieces(tokens)]
        return Ragged(torch.cat(states), tokens.offsets)

    def _states(self, model: PreTrainedModel, tokens: Ragged) -> Tensor:
        if self.way == "packed":
            return packed_forward(model, tokens)
        if self.way == "padded":
            return padded_forward(model, tokens, self.tokenizer.padding_id)
        return unpadded_forward(model, tokens)

    def save(self, folder: Path, weights: bool = True, pad: bool = False) -> None:
        """Write an ordinary Hugging Face folder with model (safetensors) and tokenizer.

        Args:
            folder: is created.
            weights: without them, the folder only describes the model.
            pad: give the tokenizer a padding token if it has none, for libraries that can't do without.
        """
        if weights:
            quietly(self.model.save_pretrained, folder)
        else:  # by its configuration, as a model is saved by the first of several processes only
            if getattr(self.model, "_auto_class", None):
                config: Any = self.model.config
                custom_object_save(self.model, folder, config=config)
            self.model.config.save_pretrained(folder)
        self.tokenizer.save(folder, pad)
