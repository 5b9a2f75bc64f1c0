"""Attention over packed texts, registered with transformers under the name :data:`PACKED`.

The model asks its registered *mask* function for a mask and hands the answer to every layer, where the
registered *attention* function gets it back. Here the mask function answers with a :class:`PackedMask`: where
the texts lie, and who may see whom inside one text, read from the model's own mask function. So sliding
windows, causal masks and chunks need no knowledge of the family, and the answer travels with the layer's
arguments, also when a layer is recomputed under gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_metric.encoders.layout import Layout
from lit_metric.encoders.masks import PackedMask, bucket_mask, read_pattern
from lit_metric.encoders.varlen import varlen_attention

PACKED = "lit_metric_packed"
"""The name under which transformers knows the packed attention."""

_HARMLESS = {
    "cache_position",
    "deterministic",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "position_ids",
    "return_dict",
    "sliding_window",
    "use_cache",
}
"""What layers pass along that changes nothing here: the mask already says who sees whom."""

_layout: ContextVar[Layout | None] = ContextVar("lit_metric_layout", default=None)


class PackingError(RuntimeError):
    """A model asked packed attention for something that it can't do exactly."""


@contextmanager
def packed(layout: Layout) -> Iterator[None]:
    """Within this block, models whose attention is :data:`PACKED` read their input as texts laid out so."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def packed_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    device: Any,
    **kwargs: Any,
) -> Any:
    """The registered mask function: a :class:`PackedMask`, or the usual mask when no texts are packed."""
    layout = _layout.get()
    if layout is None:
        return sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            mask_function=mask_function,
            device=device,
            **kwargs,
        )
    if batch_size != 1 or not q_length == kv_length == len(layout.slot_of_token):
        raise PackingError(f"the model masks {batch_size} x {q_length} x {kv_length}, not the packed tokens")
    return read_pattern(layout, mask_function, device)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The registered attention function.

    Args:
        module: the attention layer; not looked at.
        query: ``[1, heads, T, d]``.
        key: ``[1, key heads, T, d]``, where ``key heads`` divides ``heads``.
        value: ``[1, key heads, T, d]``.
        attention_mask: the :class:`PackedMask` made by :func:`packed_mask`.
        dropout: probability with which an attention weight is dropped.
        scaling: factor of the scores, ``d ** -0.5`` if None.
        kwargs: what the layer adds.

    Returns:
        ``[1, T, heads, d]`` and None, for the weights are not kept.

    Raises:
        PackingError: for an argument that changes attention in a way that is not implemented.
    """
    if not isinstance(attention_mask, PackedMask):
        if _layout.get() is not None:
            raise PackingError(
                f"{type(module).__name__} makes its own mask instead of asking the mask interface"
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    unknown = sorted(name for name, given in kwargs.items() if given is not None and name not in _HARMLESS)
    if unknown or kwargs.get("output_attentions"):
        raise PackingError(f"{type(module).__name__} passes {', '.join(unknown) or 'output_attentions'}")
    heads = [states.squeeze(0).transpose(0, 1) for states in (query, key, value)]  # [T, heads, d] each
    if len(heads[0]) != len(attention_mask.layout.slot_of_token):
        raise PackingError(
            f"{type(module).__name__} attends over {len(heads[0])} tokens, not the packed ones"
        )
    mixed = varlen_attention(heads, attention_mask, dropout, scaling, reference=bucket_attention)
    if mixed is None:
        mixed = bucket_attention(heads, attention_mask, dropout, scaling)
    return mixed.unsqueeze(0), None


def bucket_attention(
    heads: list[Tensor], mask: PackedMask, dropout: float = 0.0, scaling: float | None = None
) -> Tensor:
    """Attention within each text, one padded call per bucket.

    Args:
        heads: query ``[T, heads, d]``, key and value ``[T, key heads, d]``.
        mask: where the texts lie, and who sees whom.
        dropout: of the attention weights.
        scaling: of the scores.

    Returns:
        ``[T, heads, d]``.
    """
    masks = (bucket_mask(bucket, mask) for bucket in mask.layout.buckets)
    return attend(heads, mask.layout, masks, dropout, scaling)


def attend(
    heads: list[Tensor],
    layout: Layout,
    masks: Iterable[tuple[Tensor | None, bool]],
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Tensor:
    """:func:`bucket_attention` with a mask for each bucket.

    Args:
        heads: query ``[T, heads, d]``, key and value ``[T, key heads, d]``.
        layout: where the texts lie.
        masks: for each bucket ``(allowed [rows or 1, heads or 1, length or 1, length] or None, is_causal)``;
            bool says who sees whom, floats are added to the scores.
        dropout: of the attention weights.
        scaling: of the scores.

    Returns:
        ``[T, heads, d]``.
    """
    if not layout.buckets:
        return heads[0]
    sizes = [bucket.slots for bucket in layout.buckets]
    grouped = heads[0].shape[1] != heads[1].shape[1]
    slots = [layout.spread(states).split(sizes) for states in heads]
    mixed = []
    for bucket, (allowed, causal), *parts in zip(layout.buckets, masks, *slots, strict=True):
        query, key, value = (p.view(bucket.rows, bucket.length, *p.shape[1:]).transpose(1, 2) for p in parts)
        options = {"dropout_p": dropout, "is_causal": causal, "scale": scaling, "enable_gqa": grouped}
        out = dot_product_attention(query, key, value, allowed, **options)
        mixed.append(out.transpose(1, 2).reshape(bucket.slots, out.shape[1], out.shape[-1]))
    return layout.collect(torch.cat(mixed))


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, **options: Any
) -> Tensor:
    """PyTorch's, but half precision on a CPU is computed in float32, also under autocast.

    The backward pass of its CPU kernel takes sixteen times as long in bfloat16 as in float32 (PyTorch 2.13):
    more than bfloat16 saves in all matrix products of a step.
    """
    if query.device.type != "cpu" or query.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(query, key, value, allowed, **options)
    if allowed is not None and allowed.dtype != torch.bool:
        allowed = allowed.float()
    states = query.float(), key.float(), value.float()
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(*states, allowed, **options).to(query.dtype)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)
