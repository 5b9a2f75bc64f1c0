"""MPNet on packed texts.

MPNet asks neither the attention nor the mask interface of transformers, and adds a learned bias of relative
positions to its scores, a square over all tokens that it is given. So its modules are called here in their
own order, with attention and bias in buckets. The model itself stays as it is, and whatever it is called for
elsewhere, it does as usual.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.attention import attend
from lit_metric.encoders.layout import Layout
from lit_metric.encoders.positions import position_ids


def mpnet_forward(model: PreTrainedModel, tokens: Ragged) -> Tensor:
    """``[T, h]`` last hidden states of texts laid end to end, of which there is at least one token."""
    parts: Any = model
    layout = Layout.of(tokens)
    masks = position_masks(parts.encoder, layout)
    states = parts.embeddings(tokens.values[None], position_ids(model, tokens)[None]).squeeze(0)
    for layer in parts.encoder.layer:
        states = _layer(layer, states, layout, masks)
    return states


def position_masks(encoder: Any, layout: Layout) -> list[tuple[Tensor, bool]]:
    """What each bucket adds to its scores, ``(float [rows or 1, heads, length, length], False)``: the bias of
    relative positions, and minus infinity for padding. All layers share it.
    """
    # The bias depends on the distance alone, so that of the longest text begins with that of any other.
    longest = torch.empty(1, layout.longest, device=layout.offsets.device)
    bias: Tensor = encoder.compute_position_bias(longest)  # [1, heads, L, L]
    masks = []
    for bucket in layout.buckets:
        added = bias[:, :, : bucket.length, : bucket.length]
        if bucket.valid is not None:
            added = added.masked_fill(~bucket.valid[:, None, None, :], -math.inf)
        masks.append((added, False))
    return masks


def _layer(layer: Any, states: Tensor, layout: Layout, masks: list[tuple[Tensor, bool]]) -> Tensor:
    """``[T, h]`` to ``[T, h]``, as ``MPNetLayer`` does it."""
    own = layer.attention.attn
    heads = [
        project(states).unflatten(-1, (own.num_attention_heads, -1)) for project in (own.q, own.k, own.v)
    ]
    mixed = attend(heads, layout, masks, own.dropout.p if own.training else 0.0)
    attended = layer.attention.LayerNorm(layer.attention.dropout(own.o(mixed.flatten(1))) + states)
    result: Tensor = layer.output(layer.intermediate(attended), attended)
    return result
