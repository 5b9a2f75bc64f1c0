"""Load a Hugging Face model, and refuse files that would silently give wrong vectors."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedModel
from transformers import logging as hf_logging

from lit_metric.store import PACKAGE, package_path

log = logging.getLogger(__name__)

ADAPTER = "adapter_config.json"
"""The file by which a folder holds an adapter of peft."""

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

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

_given: ContextVar[Mapping[str, Mapping[str, Tensor]] | None] = ContextVar("lit_metric_weights", default=None)


@dataclass(frozen=True)
class Missing:
    """Weights that a source doesn't hold, and which are random.

    Args:
        names: of the model's parameters and buffers.
        prefix: under which the source has weights of these names, "" if it has not.
    """

    names: Sequence[str] = ()
    prefix: str = ""

    @classmethod
    def of(cls, names: Sequence[str], unread: Sequence[str]) -> Missing:
        """Look for the prefix under which the names of ``unread`` weights have all the missing ``names``.

        Example:
            >>> unread = ["module.a.weight", "module.b.bias", "head.bias"]
            >>> Missing.of(["a.weight", "b.bias"], unread).prefix
            'module.'
        """
        for other in unread if names else ():
            prefix = other.removesuffix(names[0]) if other.endswith(f".{names[0]}") else ""
            if prefix and all(f"{prefix}{name}" in unread for name in names):
                return cls(names, prefix)
        return cls(names)

    def refuse(self, source: str, unused: Sequence[str]) -> None:
        """Raise unless no output depends on them.

        Raises:
            ValueError: names them.
        """
        names = [name for name in self.names if name not in unused]
        if not names:
            return
        remedy = "it is not a whole model, or one of another library"
        if self.prefix:
            remedy = f"it has them under the prefix {self.prefix!r}: take that off their names"
        raise ValueError(
            f"{source}: the weights file lacks {len(names)} weights that the vectors depend on, which would "
            f"be random: {shortened(names)}; {remedy}"
        )


@contextmanager
def weights_given(weights: Mapping[str, Mapping[str, Tensor]]) -> Iterator[None]:
    """Within this block a model loaded from one of these folders takes its weights from here, by name, and
    needs no weights file."""
    token = _given.set(weights)
    try:
        yield
    finally:
        _given.reset(token)


def given_weights(folder: str) -> Mapping[str, Tensor] | None:
    """Those that :func:`weights_given` has for a model in this folder; None if it has none."""
    return (_given.get() or {}).get(folder)


def fingerprint(module: nn.Module, without: Collection[str] = ()) -> str:
    """The sha256 of all weights and their names, ``without`` those of these names."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if name in without:
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def locate(source: str) -> str:
    """Where a backbone is: a Hugging Face id and a folder are left alone, ``package:NAME/folder`` becomes a
    folder.

    The package is found, not imported.

    Raises:
        FileNotFoundError: if the package is not installed or has no such folder.
    """
    if not source.startswith(PACKAGE):
        return source
    path = package_path(source)
    if not path.is_dir():
        raise FileNotFoundError(f"{source}: the package has no folder {str(path)!r}")
    return str(path)


def resolve(source: str, subfolder: str = "") -> tuple[str, dict[str, Any]]:
    """Where transformers finds a model, and the options that say so.

    Raises:
        FileNotFoundError: if there is no such folder, or it holds no model.
        ValueError: if it holds an adapter of peft.
    """
    path = locate(source)
    if Path(path).is_dir():
        path, subfolder = str(Path(path, subfolder)), ""
        if Path(path, ADAPTER).is_file():
            raise ValueError(
                f"{source} holds an adapter itself, and an adapter can't be trained on another: merge it "
                f"into its base first, as by `lit-metric export --model {source} --output FOLDER`"
            )
        if not Path(path, "config.json").is_file():
            raise FileNotFoundError(
                f"{source}: no config.json in {path}, so this is no Hugging Face model folder"
            )
    elif not HUB_ID.fullmatch(path):
        raise FileNotFoundError(f"the backbone {source!r}: there is no such folder; correct the path")
    return path, {"subfolder": subfolder}


def load_model(
    source: str, path: str, options: dict[str, Any], dropout: float | None = None
) -> tuple[PreTrainedModel, Missing]:
    """Load a model from safetensors, in float32, or build it with the weights of :func:`weights_given`.

    Under ``torch.device("meta")`` the model has names and shapes, and no weights.

    Args:
        source: what the user called it.
        path: a folder or a Hugging Face id.
        options: of transformers: ``trust_remote_code``, ``subfolder``.
        dropout: replaces every dropout probability of the model.

    Returns:
        The model, and its weights that the source doesn't hold.

    Raises:
        FileNotFoundError: if there is no such model, or it has no safetensors weights.
        ValueError: if transformers can't build it, or weights have other shapes.
    """
    try:
        config = AutoConfig.from_pretrained(path, **options)
        if dropout is not None:
            set_dropout(config, dropout)
        kind: Any = AutoModel
        if config.is_encoder_decoder:
            kind = AutoModelForTextEncoding
            known = {each.model_type for each in kind._model_mapping}
            if config.model_type not in known:
                raise ValueError(
                    f"{config.model_type} is an encoder with a decoder, and transformers can't load its "
                    "encoder alone; take an encoder such as BERT, or one of "
                    + ", ".join(sorted(each for each in known if "t5" in each))
                )
        model, found = _build(kind, path, config, options)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"the backbone {source!r} could not be loaded: {reason} It has to be a Hugging Face id, a "
            "folder or package:NAME/folder, with weights in safetensors format"
        ) from error
    except (ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        if "trust_remote_code" in str(error):
            reason += " Pass trust_remote_code=True if you trust it"
        raise ValueError(f"the backbone {source!r} could not be loaded: {reason}") from error
    _check(source, model, found.get("mismatched_keys", ()))
    missing, unread = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if unread:
        log.info("%s: weights that the model has no place for are not read: %s", source, shortened(unread))
    return model, Missing.of(missing, unread)


def _build(kind: Any, path: str, config: Any, options: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    trusted = {"trust_remote_code": options.get("trust_remote_code", False)}
    nothing: dict[str, Any] = {"missing_keys": (), "unexpected_keys": ()}
    state = given_weights(path)
    common: dict[str, Any] = {
        "config": config,
        "dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are refused here, in one line
    }
    if state is None and torch.get_default_device().type != "meta":
        return quietly(kind.from_pretrained, path, use_safetensors=True, **common, **options)
    with torch.device("meta"):
        model = quietly(kind.from_config, config, dtype=torch.float32, **trusted)
    if state is None:
        return model, nothing
    # By its class, as the automatic ones want a name to look for.
    return quietly(type(model).from_pretrained, None, state_dict=dict(state), **common)


def _check(source: str, model: PreTrainedModel, mismatched: Iterable[Sequence[Any]]) -> None:
    """Refuse what is no text model, and weights of other shapes, ``(name, in the file, in the model)``."""
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        table = None
    if not isinstance(table, Tensor) or table.ndim != 2:
        raise ValueError(
            f"{source}: models of type {model.config.model_type} have no table of token embeddings, so they "
            "don't take the tokens of a text; take a text model"
        )
    odd = [
        f"{name} is {tuple(there)} in the file and {tuple(here)} by config.json"
        for name, there, here in mismatched
    ]
    if odd:
        raise ValueError(
            f"{source}: the weights are of another model than config.json describes: {shortened(odd)}"
        )


def shortened(names: Sequence[str], count: int = 4) -> str:
    """The first names, and how many there are besides."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


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


def quietly(load: Any, *args: Any, **kwargs: Any) -> Any:
    """Without transformers' progress bar, and without its report on weights, which the caller judges."""
    shown, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        return load(*args, **kwargs)
    finally:
        hf_logging.set_verbosity(level)
        if shown:
            hf_logging.enable_progress_bar()
