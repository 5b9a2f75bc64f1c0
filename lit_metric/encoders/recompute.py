"""Batches that memory doesn't cap: what the backward pass needs is computed again, not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lit_metric.encoders.segments import take_rows

Recompute = Literal["none", "chunks", "layers"]

TOKENS_IN_MEMORY = 8192
"""Tokens whose activations are held at once under ``recompute: chunks``, if nothing else is said."""


def tokens_in_memory(recompute: Recompute, given: int | None) -> int:
    """The number of tokens of a chunk, after a check of both arguments.

    Raises:
        ValueError: if there is no such way to recompute, or a number is given that is below 1 or not used.
    """
    if recompute not in get_args(Recompute):
        raise ValueError(f"recompute is {recompute!r}; choose one of {', '.join(get_args(Recompute))}")
    if given is None:
        return TOKENS_IN_MEMORY
    if recompute != "chunks":
        raise ValueError(
            f"max_tokens_in_memory is {given}, but recompute is {recompute!r}, which has no chunks: "
            "say recompute: chunks, or leave the number out"
        )
    if given < 1:
        raise ValueError(f"max_tokens_in_memory is {given}; it has to be at least 1")
    return given


def length_chunks(lengths: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Cut rows into chunks of similar length, longest first, of at most ``max_tokens`` tokens or one row."""
    order = lengths.argsort(descending=True, stable=True)
    used = lengths[order].cumsum(0).tolist()
    start, before = 0, 0
    for place, total in enumerate(used):
        if total - before > max_tokens and place > start:
            yield order[start:place]
            start, before = place, used[place - 1]
    if start < len(order):
        yield order[start:]


def in_chunks(work: Callable[[Tensor], Tensor], lengths: Tensor, max_tokens: int) -> Tensor:
    """``work`` on all rows, with the activations of one chunk of them in memory.

    Without gradient, and where one chunk takes all rows, nothing is computed twice. Else ``work`` is called
    again for each chunk in the backward pass, with the same random numbers. That is GradCache (Gao et al.,
    "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983) for any loss.

    Args:
        work: from the numbers ``[m]`` of some rows to their vectors ``[m, d]``, each of which depends on its
            own row only.
        lengths: ``[n]`` int64, the tokens of each row.
        max_tokens: of a chunk; a longer row is a chunk by itself.

    Returns:
        ``[n, d]``.

    Example:
        >>> in_chunks(lambda rows: 10.0 * rows[:, None], torch.tensor([3, 1, 2]), max_tokens=4).tolist()
        [[0.0], [10.0], [20.0]]
    """
    chunks = list(length_chunks(lengths, max_tokens))
    if len(chunks) <= 1:
        return work(torch.arange(len(lengths), device=lengths.device))
    kind = lengths.device.type

    def chunk(rows: Tensor) -> Tensor:
        # Autocast would convert a weight once for all chunks, and add up their gradients in half precision.
        own: AbstractContextManager[Any] = nullcontext()
        if torch.is_autocast_enabled(kind):
            own = torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False)
        with own:
            return work(rows)

    if torch.is_grad_enabled():
        vectors = [checkpoint(chunk, rows, use_reentrant=False) for rows in chunks]
    else:
        vectors = [chunk(rows) for rows in chunks]
    return take_rows(torch.cat(vectors), torch.cat(chunks).argsort())


def recompute_layers(model: PreTrainedModel) -> None:
    """Switch on the model's own gradient checkpointing: in training, it keeps the input of each layer only.

    Raises:
        ValueError: if the model has none.
    """
    if not model.supports_gradient_checkpointing:
        raise ValueError(
            f"recompute: layers needs gradient checkpointing, and transformers has none for models of type "
            f"{model.config.model_type}: take recompute: chunks, which works with any model"
        )
    # Older versions of transformers have it under its former name only.
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        enable = model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # It makes token embeddings ask for a gradient, which would run the backward pass through frozen layers.
    model.disable_input_require_grads()
