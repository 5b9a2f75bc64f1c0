"""A Hugging Face text model with its tokenizer, run on texts laid end to end."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedModel
from transformers import logging as hf_logging

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.attention import PACKED
from lit_metric.encoders.packing import packed_forward, padded_forward, probe, use_attention
from lit_metric.encoders.tokenizer import TextTokenizer, load_tokenizer

log = logging.getLogger(__name__)

Packing = Literal["auto", "always", "never"]

PACKAGE = "package:"

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "embedding_dropout",
    "embeddings_dropout",
    "mlp_dropout",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
)


def locate(source: str) -> str:
    """Where a backbone is: a Hugging Face id and a folder are left alone, ``package:NAME/folder`` becomes a
    folder.

    The package is found, not imported.

    Raises:
        FileNotFoundError: if the package is not installed or has no such folder.
    """
    if not source.startswith(PACKAGE):
        return source
    name, _, folder = source[len(PACKAGE) :].partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        distribution = name.replace("_", "-")
        raise FileNotFoundError(
            f"{source}: there is no package {name!r} here; try `pip install {distribution}`"
        )
    path = Path(next(iter(found.submodule_search_locations)), folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{source}: the package {name!r} has no folder {folder!r}")
    return str(path)


class Backbone(nn.Module):
    """The text model of an encoder.

    Args:
        model: its last hidden states are used.
        tokenizer: the one that the model was trained with.
        packing: "auto" packs if the probe finds no difference, "always" raises if it does, "never" pads.
        name: what to call the model in messages.

    Raises:
        ValueError: if ``packing`` is "always" and packing changes the model's outputs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        packing: Packing = "auto",
        name: str = "the backbone",
    ) -> None:
        super().__init__()
        if packing not in ("auto", "always", "never"):
            raise ValueError(f"packing is {packing!r}; choose 'auto', 'always' or 'never'")
        self.model = model
        self.tokenizer = tokenizer
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        verdict = probe(
            model, tokenizer.max_length, tokenizer.special_ids, tokenizer.padding_id, pack=packing != "never"
        )
        self.packed = verdict.packed
        self.unused = verdict.unused
        if verdict.packed:
            use_attention(model, PACKED)
        elif packing == "always":
            raise ValueError(f"{name} can't be packed: {verdict.reason}; packing='auto' pads it instead")
        elif packing == "auto":
            log.warning("%s runs padded, not packed: %s", name, verdict.reason)
        self.freeze_unused()
        if self.unused:
            log.info("%s: frozen, as no output depends on them: %s", name, ", ".join(self.unused))

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
        """
        path = locate(source)
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "subfolder": subfolder}
        if Path(path).is_dir():
            path, options["subfolder"] = str(Path(path, subfolder)), ""
            if not Path(path, "config.json").is_file():
                raise FileNotFoundError(
                    f"{source}: no config.json in {path}, so this is no Hugging Face model folder"
                )
        elif not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
            raise FileNotFoundError(f"the backbone {source!r}: there is no such folder; correct the path")
        try:
            config = AutoConfig.from_pretrained(path, **options)
            if dropout is not None:
                set_dropout(config, dropout)
            kind = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
            model = _quietly(
                kind.from_pretrained,
                path,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                **options,
            )
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(
                f"the backbone {source!r} could not be loaded: {reason} It has to be a Hugging Face id, a "
                "folder or package:NAME/folder, with weights in safetensors format"
            ) from error
        tokenizer = load_tokenizer(path, model, max_length, options, **tokenizing)
        return cls(model, tokenizer, packing, source)

    def freeze_unused(self) -> None:
        """Freeze the parameters that no output depends on, for DDP stops at them."""
        for name in self.unused:
            self.model.get_parameter(name).requires_grad_(False)

    def forward(self, tokens: Ragged) -> Ragged:
        """``[T]`` token ids to ``[T, h]`` last hidden states, ragged alike."""
        if self.packed:
            states: Tensor = packed_forward(self.model, tokens)
        else:
            states = padded_forward(self.model, tokens, self.tokenizer.padding_id)
        return Ragged(states, tokens.offsets)

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder with model (safetensors) and tokenizer."""
        _quietly(self.model.save_pretrained, folder)
        self.tokenizer.save(folder)


def set_dropout(config: Any, probability: float) -> None:
    """Set every dropout probability of a model's configuration.

    Raises:
        ValueError: if the probability is not in [0, 1), or the configuration has none that is known.
    """
    if not 0 <= probability < 1:
        raise ValueError(f"dropout is {probability}; it has to be at least 0 and less than 1")
    names = [name for name in _DROPOUTS if isinstance(getattr(config, name, None), (int, float))]
    if not names:
        raise ValueError(f"dropout: models of type {config.model_type} have no dropout that could be set")
    for name in names:
        setattr(config, name, float(probability))


def _quietly(load: Any, *args: Any, **kwargs: Any) -> Any:
    """Without transformers' progress bar and its report on weights that this library doesn't use."""
    shown, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        return load(*args, **kwargs)
    finally:
        hf_logging.set_verbosity(level)
        if shown:
            hf_logging.enable_progress_bar()
