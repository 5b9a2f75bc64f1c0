"""Encoders as modules on padded tensors, which the exporter of ONNX can trace.

The encoders themselves work on ragged rows, whose operations ONNX Runtime runs slowly or not at all. Here the
same poolings work on ``[n, length, ...]`` tensors and a number for each place, 0 where nothing stands.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from lit_metric.encoders import (
    AttentionPooling,
    CLSPooling,
    ComposedPooling,
    ConjunctionPooling,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    SetEncoder,
    StaticEncoder,
    TextEncoder,
)
from lit_metric.encoders.packing import skipped_position
from lit_metric.encoders.pooling import unit_rows

POOLINGS = (
    *(MeanPooling, CLSPooling, MaxPooling, LastTokenPooling, AttentionPooling),
    *(ConjunctionPooling, ComposedPooling),
)
"""Poolings that :func:`pool_padded` knows; subclasses may pool in another way, so they don't count."""


class TextGraph(nn.Module):
    """Token ids and their mask to a vector of each text, at any padding on either side.

    Args:
        encoder: of texts, in float32 and evaluation mode. Its modules are shared, not copied.
        model: its backbone's, with adapters merged.
        unit: whether vectors are brought to length 1.
    """

    def __init__(self, encoder: TextEncoder, model: nn.Module, unit: bool) -> None:
        super().__init__()
        self.model, self.pooling, self.projection = model, encoder.pooling, encoder.projection
        self.dimension, self.unit = encoder.dimension, unit
        self.static = isinstance(encoder, StaticEncoder)
        # RoBERTa and its relatives count positions by the ids that aren't this one.
        skipped = skipped_position(model)
        self.padding = encoder.tokenizer.padding_id if skipped is None else skipped
        self.options: dict[str, Any] = {}
        if not self.static and "use_cache" in inspect.signature(model.forward).parameters:
            self.options["use_cache"] = False

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_tokens: Tensor | None = None
    ) -> Tensor:
        """Encode texts.

        Args:
            input_ids: int64 ``[n, length]``.
            attention_mask: int64 ``[n, length]``, 1 for tokens and 0 for padding.
            prompt_tokens: int64 ``[n]``, how many leading tokens the pooling doesn't see; none if None.

        Returns:
            float32 ``[n, dimension]``.
        """
        length = input_ids.shape[1]
        place = torch.arange(length, device=input_ids.device)[None]
        # Padding goes to the right, where no model counts it as a position.
        shifted = (place + attention_mask.argmax(1, keepdim=True)) % length
        ids, mask = input_ids.gather(1, shifted), attention_mask.gather(1, shifted)
        ids = ids.masked_fill(mask == 0, self.padding)
        if self.static:
            states = self.model(ids)
        else:
            states = self.model(input_ids=ids, attention_mask=mask, **self.options).last_hidden_state
        if prompt_tokens is not None:
            mask = mask * (place >= prompt_tokens[:, None])
        vectors = self.projection(pool_padded(self.pooling, states, mask.to(states.dtype)))
        vectors = vectors[:, : self.dimension]
        return unit_rows(vectors) if self.unit else vectors


class SetGraph(nn.Module):
    """The vectors of each item's texts to a vector of each item.

    Args:
        encoder: of sets, in float32 and evaluation mode.
    """

    def __init__(self, encoder: SetEncoder) -> None:
        super().__init__()
        self.pooling, self.projection, self.unit = encoder.pooling, encoder.projection, encoder.normalize

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Pool texts.

        Args:
            vectors: float32 ``[n, texts, h]``.
            weights: float32 ``[n, texts]``, how much each text counts in its item, ordinarily 1; 0 for
                padding.

        Returns:
            float32 ``[n, dimension]``.
        """
        pooled = self.projection(pool_padded(self.pooling, vectors, weights))
        return unit_rows(pooled) if self.unit else pooled


def pool_padded(pooling: Pooling, states: Tensor, weights: Tensor) -> Tensor:
    """What ``pooling`` gives for the rows of a padded tensor.

    Args:
        pooling: of a class in :data:`POOLINGS`.
        states: ``[n, length, h]``.
        weights: ``[n, length]``, of the dtype of ``states``, 0 for places that don't count.

    Returns:
        ``[n, h]``.

    Example:
        >>> states = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> pool_padded(MeanPooling(), states, torch.tensor([[1.0, 1.0, 0.0]])).tolist()
        [[2.0]]
    """
    present = weights > 0
    states = states.masked_fill(~present[:, :, None], 0)  # what stands in padding may be NaN
    empty = ~present.any(1, keepdim=True)
    if type(pooling) is MeanPooling:
        shares = weights / weights.sum(1, keepdim=True).masked_fill(empty, 1)
        return (states * shares[:, :, None]).sum(1)
    if type(pooling) is MaxPooling:
        lowest = torch.finfo(states.dtype).min
        return states.masked_fill(~present[:, :, None], lowest).amax(1).masked_fill(empty, 0)
    if type(pooling) in (CLSPooling, LastTokenPooling):
        count = torch.arange(1, states.shape[1] + 1, device=states.device) * present
        # Of all counts the last has the highest, and the first one that is any is the first that isn't 0.
        place = count.argmax(1) if type(pooling) is LastTokenPooling else present.long().argmax(1)
        return states.gather(1, place[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)
    if type(pooling) is ConjunctionPooling:
        return _conjunction(pooling, states, weights, present)
    if type(pooling) is ComposedPooling:
        return _composed(pooling, states, weights, present)
    assert type(pooling) is AttentionPooling
    scores = _scores(pooling, states, present) + weights.masked_fill(~present, 1).log()[:, :, None]
    scores = scores.masked_fill(~present[:, :, None], torch.finfo(scores.dtype).min)
    learned = scores.softmax(1).masked_fill(~present[:, :, None], 0)  # [n, length, heads]
    assert pooling.dimension is not None
    values = states.unflatten(2, (pooling.heads, pooling.dimension // pooling.heads))
    pooled = (values * learned[:, :, :, None]).sum(1).flatten(1)
    return torch.where(empty, pooling.empty_vector, pooled) if pooling.empty == "learned" else pooled


def _conjunction(pooling: ConjunctionPooling, states: Tensor, weights: Tensor, present: Tensor) -> Tensor:
    """``[n, h]``, as :meth:`ConjunctionPooling.forward`, for rows of any length."""
    assert pooling.dimension is not None
    keys = pooling.first_key(states)[:, None] * pooling.query[:, None]  # [n, heads, length, hidden]
    logs = weights.masked_fill(~present, 1).log()
    scores = keys @ pooling.second_key(states)[:, None].transpose(2, 3)
    scores = scores + (logs[:, :, None] + logs[:, None, :])[:, None]
    pairs = (present[:, :, None] & present[:, None, :])[:, None]
    scores = scores.masked_fill(~pairs, torch.finfo(scores.dtype).min)
    learned = scores.flatten(2).softmax(2).reshape(scores.shape).masked_fill(~pairs, 0)
    shape = (pooling.heads, pooling.dimension // pooling.heads)
    own, others = (
        each.unflatten(2, shape).transpose(1, 2) for each in (states, pooling.second_value(states))
    )
    return (own * (learned @ others)).sum(2).flatten(1)


def _composed(pooling: ComposedPooling, states: Tensor, weights: Tensor, present: Tensor) -> Tensor:
    """``[n, h]``, as :meth:`ComposedPooling.forward`."""
    unit = unit_rows(states)
    first = present.long().argmax(1)[:, None]  # [n, 1]
    reference = unit.gather(1, first[:, :, None].expand(-1, 1, unit.shape[2]))
    place = torch.arange(states.shape[1], device=states.device)[None]
    is_edit = (present & (place > first)).to(states.dtype)
    read = torch.cat([reference.expand_as(unit), unit], dim=2)
    change = pooling.outer(nn.functional.gelu(pooling.inner(read)))
    of_first = weights.gather(1, first)
    ratios = is_edit * weights / of_first.masked_fill(of_first == 0, 1)
    return reference.squeeze(1) + ((unit + change) * ratios[:, :, None]).sum(1)


def _scores(pooling: AttentionPooling, states: Tensor, present: Tensor) -> Tensor:
    """``[n, length, heads]``, as :meth:`AttentionPooling.scores`."""
    if pooling.score == "dot":
        return states @ pooling.query.T * pooling.query.shape[1] ** -0.5
    if not pooling.context:
        return torch.tanh(pooling.inner(states)) @ pooling.query.T
    assert pooling.dimension is not None
    values = nn.functional.layer_norm(states, (pooling.dimension,)).masked_fill(~present[:, :, None], 0)
    count = present.sum(1)[:, None, None] - 1
    others = (values.sum(1, keepdim=True) - values) / count.clamp(min=1)
    inner = pooling.inner(values) + pooling.others(others) + pooling.agreement(values * others)
    return torch.tanh(inner) @ pooling.query.T
