"""The weighted mean of encoders that have the same shape."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from lit_metric.encoders.base import Encoder

OF_TRAINING = (
    *("backbone", "adapter", "freeze", "dropout", "tag_dropout", "cache_frozen"),
    *("packing", "recompute", "max_tokens_in_memory", "trust_remote_code"),
)
"""Arguments of encoders that don't change the vector of a text."""
LENGTHS = ("max_length", "max_lengths")
"""Arguments that no weight depends on: the mean has those of the first encoder."""
PRIVATE = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "architectures")
"""Of a model's configuration: where it came from."""


def merge_encoders(encoders: Sequence[Encoder], weights: Sequence[float] | None = None) -> Encoder:
    """An encoder whose weights are the weighted mean of those of others, also called a model soup.

    Models that were fine-tuned from one backbone, on other data or with other seeds, mostly stay in one basin
    of the loss, where the mean of the weights works. Models of other origins have nothing in common that
    could be averaged, even if their shapes are equal. Adapters are merged into their backbones first, since
    the mean of their factors isn't the factor of the mean.

    Source: Wortsman et al., Model soups, ICML 2022; for embedders, Xiao et al., LM-Cocktail, 2023.

    Args:
        encoders: at least two.
        weights: how much each counts, at least 0; divided by their sum. Equal ones if None.

    Returns:
        A new encoder, with the lengths at which the first one cuts texts. The others stay as they are.

    Raises:
        ValueError: if there are fewer than two, weights are not one for each or not numbers of 0 and above,
            or encoders differ in their parts, shapes or tokenizers; the message says in what.
    """
    if len(encoders) < 2:
        raise ValueError(f"{len(encoders)} encoder is nothing to merge: give two or more")
    given = [1.0] * len(encoders) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(encoders):
        raise ValueError(f"{len(given)} weights were given for {len(encoders)} encoders")
    if any(not math.isfinite(weight) or weight < 0 for weight in given) or not sum(given) > 0:
        shown = ", ".join(f"{weight:g}" for weight in given)
        raise ValueError(f"weights are {shown}: they have to be 0 or more, and one of them above 0")
    shares = [weight / sum(given) for weight in given]
    plain = [_without_adapters(encoder) for encoder in encoders]
    for number, other in enumerate(plain[1:], 2):
        if difference := _difference(plain[0], other):
            raise ValueError(f"encoder {number} can't be averaged with the first: {difference}")
    states = [encoder.state_dict() for encoder in plain]
    mean: dict[str, torch.Tensor] = {}
    for name, first in states[0].items():
        values = [state[name].cpu() for state in states]
        if first.is_floating_point():
            total = sum(share * value.double() for share, value in zip(shares, values, strict=True))
            assert isinstance(total, torch.Tensor)
            mean[name] = total.to(first.dtype)
        elif all(torch.equal(values[0], value) for value in values[1:]):
            mean[name] = first
        else:
            raise ValueError(f"{name} holds whole numbers that differ, which have no mean")
    merged = copy.deepcopy(plain[0]).cpu()
    merged.load_state_dict(mean)
    merged.clear_cache()
    return merged


def _without_adapters(encoder: Encoder) -> Encoder:
    """The same encoder, or one with its adapters merged."""
    if all(getattr(part, "adapter", None) is None for part in encoder.modules()):
        return encoder
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(folder, merge=True)
        return Encoder.load(folder, trust_remote_code=True)  # its classes are in use here already


def _difference(first: Any, other: Any, where: str = "") -> str:
    """What two encoders differ in, apart from the values of their weights; empty if in nothing."""
    what = where or "the encoder"
    if type(first) is not type(other):
        return f"{what} is a {type(first).__name__} there and a {type(other).__name__} here"
    if not isinstance(first, Encoder):
        # A table of token vectors has no configuration; its shape is compared below.
        configs = [getattr(each.model, "config", None) for each in (first, other)]
        ours, theirs = ({} if config is None else config.to_dict() for config in configs)
        differing = [key for key in {*ours, *theirs} - {*PRIVATE} if ours.get(key) != theirs.get(key)]
        if differing:
            key = min(differing)
            return f"{key} of {what} is {ours.get(key)!r:.60} there and {theirs.get(key)!r:.60} here"
        return ""
    settings = []
    for each in (first, other):
        arguments = {**each.spec()["init_args"], **each._saved_arguments()}
        settings.append(
            {k: v for k, v in arguments.items() if k not in (*OF_TRAINING, *LENGTHS, *each.subfolders)}
        )
    for name in sorted({*settings[0], *settings[1]}):
        ours, theirs = (each.get(name) for each in settings)
        if ours != theirs:
            return f"{name} of {what} is {ours!r:.60} there and {theirs!r:.60} here"
    for name in first.subfolders:
        if difference := _difference(getattr(first, name), getattr(other, name), name):
            return difference
    contents = [each.tokenizer.content() for each in (first, other) if hasattr(each.tokenizer, "content")]
    if contents and contents[0] != contents[1]:
        return "their tokenizers give other token ids: a token means another row of the table there"
    shapes = [
        {name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (first, other)
    ]
    for name in sorted({*shapes[0], *shapes[1]}):
        ours, theirs = (each.get(name, "missing") for each in shapes)
        if ours != theirs:
            return f"{name} of {what} is {ours} there and {theirs} here"
    return ""
