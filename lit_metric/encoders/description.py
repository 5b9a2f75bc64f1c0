"""An encoder without its weights, as text: for checkpoints, and to see that it can be built again at all."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_metric.encoders.backbone import Backbone
from lit_metric.encoders.base import Encoder, under
from lit_metric.encoders.composed import SetEncoder
from lit_metric.encoders.pooling import Pooling
from lit_metric.encoders.pretrained import shortened

log = logging.getLogger(__name__)

Description = dict[str, str]
"""Files by their path in the folder of a saved encoder: text, or base64 behind :data:`BINARY`."""

BINARY = "base64:"

KEY = "lit_metric"
"""Where a checkpoint has the description of what was trained: ``format``, ``encoder``, ``learner``."""

FORMAT = 1

SETTINGS = ("max_length", "prompt", "lower_case", "replacements", "prompts", "max_lengths", "pool_prompt")
"""Of a tokenizer, what is compared; not its fingerprint, which may have paths in it."""

SAMPLE = "Where is card 42? Wo ist die Karte?"

INERT = frozenset(
    {
        *("transformers_version", "architectures", "auto_map", "dtype", "torch_dtype", "initializer_range"),
        *("id2label", "label2id", "problem_type", "use_cache", "return_dict", "output_hidden_states"),
        *("output_attentions", "chunk_size_feed_forward", "inference_mode", "task_type", "auto_mapping"),
        *("base_model_name_or_path", "revision", "peft_version", "runtime_config"),
    }
)
"""Names in the configuration of a model or an adapter that vectors don't depend on, beside those of dropout
and initial values; some change when it is saved and loaded."""


def describe(encoder: Encoder) -> Description:
    """All that :meth:`Encoder.save` writes, except weights.

    Raises:
        TypeError: if an argument of the encoder can't be written down.
    """
    with tempfile.TemporaryDirectory() as place:
        encoder.save(place, weights=False)
        files = [path for path in sorted(Path(place).rglob("*")) if path.is_file()]
        return {path.relative_to(place).as_posix(): as_text(path.read_bytes()) for path in files}


def build_described(
    files: Mapping[str, str], weights: Mapping[str, Tensor] | None = None, trust_remote_code: bool = False
) -> Encoder:
    """The encoder of a description.

    Args:
        files: what :func:`describe` gave.
        weights: its ``state_dict()``; None only under ``torch.device("meta")``.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        ValueError: if a path leads out of the folder, classes aren't trusted, or weights don't fit.
    """
    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            path = Path(place, name)
            if not path.resolve().is_relative_to(Path(place).resolve()):
                raise ValueError(f"the description of an encoder has a file {name!r} outside of its folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(as_bytes(content))
        return Encoder.load(place, trust_remote_code, weights)


def check_rebuildable(encoder: Encoder) -> Description:
    """Build the encoder from its description, without weights, and compare.

    Training calls this before the first batch: an encoder that can't be loaded afterwards is found then.

    Returns:
        The description.

    Raises:
        TypeError: if an argument can't be written down.
        ValueError: if what is built is another encoder, or can't be built.
    """
    name = f"{type(encoder).__module__}.{type(encoder).__qualname__}"
    advice = (
        "The trained encoder could not be loaded again: it must follow from the arguments of its __init__ "
        "alone, which passes on those of its base class, as in "
        "`def __init__(self, backbone, **options): super().__init__(backbone, **options)`"
    )
    for cls in {type(module) for module in encoder.modules()}:
        if "<locals>" in cls.__qualname__ and not cls.__module__.startswith(("torch.", "transformers.")):
            raise ValueError(
                f"{cls.__module__}.{cls.__qualname__} is defined inside a function, so that a saved encoder "
                "can't name it: move it to the top of a module"
            )
        if cls.__module__ == "__main__":
            log.warning(
                "%s is defined in the script that runs: only a script that defines it too can load what is "
                "trained here. Move it into a module",
                cls.__qualname__,
            )
    files = describe(encoder)
    try:
        try:
            with torch.device("meta"):
                copy = build_described(files, trust_remote_code=True)
        except Exception:  # an encoder may compute with its weights when it is built
            copy = build_described(files, encoder.state_dict(), trust_remote_code=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(
            f"{name} can't be built again from its description ({type(error).__name__}: {reason}). {advice}"
        ) from error
    before, after = aspects_of(encoder), aspects_of(copy)
    if odd := [
        f"{each} was {before.get(each, 'missing')}, is {after.get(each, 'missing')}"
        for each in {**before, **after}
        if before.get(each) != after.get(each)
    ]:
        raise ValueError(f"{name} differs when it is built again: {shortened(odd)}. {advice}")
    return files


def aspects_of(encoder: Encoder) -> dict[str, Any]:
    """The properties of an encoder except the values of weights, by names for messages."""
    aspects: dict[str, Any] = {"dimension": encoder.dimension, "normalize": encoder.normalize}
    for name, module in encoder.named_modules():
        aspects[f"the class of {name}"] = type(module).__qualname__
        if isinstance(module, Backbone):
            used = module.tokenizer
            aspects |= {f"{each} of {name}": getattr(used, each) for each in SETTINGS}
            aspects[f"the tokens of {name}"] = used.tokenize([SAMPLE])
    return aspects | {name: tuple(value.shape) for name, value in encoder.state_dict().items()}


def fingerprint_of(encoder: Encoder) -> str:
    """A sha256 of all that the vectors of an encoder depend on: weights, classes, shapes, settings, and the
    configurations of its backbones and their adapters. It is equal wherever the encoder was loaded from."""
    aspects = aspects_of(encoder)
    for name, module in encoder.named_modules():
        if isinstance(module, Backbone):
            configs = [getattr(module.model, "config", None)]
            adapter = getattr(module, "adapter", None)
            configs += [] if adapter is None else [adapter.config]
            aspects[f"the configuration of {name}"] = [
                _effective(config.to_dict()) for config in configs if config is not None
            ]
        elif isinstance(module, Pooling):
            plain = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | str)}
            aspects[f"the settings of {name}"] = {**plain, "training": None}
        elif isinstance(module, SetEncoder):
            aspects[f"the settings of {name}"] = module.normalize_texts
    digest = hashlib.sha256(json.dumps(aspects, sort_keys=True, default=str).encode())
    for name, value in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _effective(config: Any) -> Any:
    """A configuration without what no vector depends on."""
    if isinstance(config, dict):
        return {
            str(key): _effective(value)
            for key, value in config.items()
            if key not in INERT and not str(key).startswith(("_", "init_")) and "drop" not in str(key)
        }
    if isinstance(config, set | frozenset):
        return sorted(map(str, config))
    return [_effective(each) for each in config] if isinstance(config, list | tuple) else config


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of a training run, on the CPU; its tensors stay in the file until used.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, no checkpoint, or holds pickled objects, which are not read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} can't be read as a checkpoint: it is something else, or holds more than numbers and "
            "texts, which could run code and is not read"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} can't be read as a checkpoint: it is damaged, or something else") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is no checkpoint of a training run: it has no state_dict")
    return content


def encoder_in(checkpoint: Mapping[str, Any], path: str | Path, trust_remote_code: bool = False) -> Encoder:
    """The encoder that a checkpoint holds, with its weights.

    Args:
        checkpoint: what :func:`read_checkpoint` gave.
        path: for messages.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        ValueError: if the checkpoint doesn't describe an encoder, or that names classes that aren't trusted.
    """
    described = checkpoint.get(KEY)
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ValueError(
            f"{path} doesn't describe its encoder: it was written by an earlier version or another program. "
            "Build the encoder as it was trained, and pass it: "
            "`MetricLearner.load_from_checkpoint(path, encoder=TextEncoder(...), loss=...)`"
        )
    weights = under("encoder.", checkpoint["state_dict"])
    return build_described(described["encoder"], weights, trust_remote_code)


def as_text(content: bytes) -> str:
    """A file's content as a text: itself, or base64 of what is no UTF-8."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = BINARY
    return text if not text.startswith(BINARY) else BINARY + base64.b64encode(content).decode()


def as_bytes(text: str) -> bytes:
    """The content that :func:`as_text` got."""
    return base64.b64decode(text.removeprefix(BINARY)) if text.startswith(BINARY) else text.encode()
