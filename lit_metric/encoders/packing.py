"""Run a Hugging Face model on texts laid end to end, after a check that this changes nothing.

Packing a model that is not made for it is silent: it returns numbers, wrong ones. So is padding a model that
ignores the attention mask. So :func:`probe` runs a few texts one by one when a model is loaded, and takes the
fastest way that gives the same outputs and gradients: packed, padded, or texts of equal length together.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.attention import PACKED, bucket_attention, packed
from lit_metric.encoders.layout import Layout

Way = Literal["packed", "padded", "unpadded"]

PADDED_GROUPS = 4
"""The padded path runs texts of similar length together, in at most this number of calls."""

PROBE_TOKENS = 1024
"""The longest text of the probe has at most this number of tokens, so it doesn't reach longer windows."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""Largest relative difference (Frobenius) between two ways that rounding explains."""

OWN_ATTENTION = ("mpnet",)
"""Types of models that compute attention themselves, and which are packed all the same."""


def packed_forward(model: PreTrainedModel, tokens: Ragged) -> Tensor:
    """``[T, h]`` last hidden states of texts laid end to end; the model's attention must be `PACKED`."""
    if not len(tokens.values):
        return _no_states(model, tokens)
    if model.config.model_type in OWN_ATTENTION:
        return mpnet_forward(model, tokens)
    # An explicit mask of ones keeps transformers from its own reading of restarting positions.
    mask = torch.ones_like(tokens.values[None], dtype=torch.bool)
    with packed(Layout.of(tokens)):
        places = position_ids(model, tokens)[None]
        return _states(model, tokens.values[None], mask, position_ids=places).squeeze(0)


def mpnet_forward(model: PreTrainedModel, tokens: Ragged) -> Tensor:
    """:func:`packed_forward` of MPNet, for at least one token.

    MPNet uses neither the attention nor the mask interface of transformers. It adds a learned bias of
    relative positions to its scores, a square over all the tokens that it gets. So its modules are called
    here in their own order, with attention and bias in buckets. The model itself is not changed.
    """
    parts: Any = model
    layout = Layout.of(tokens)
    masks = position_masks(parts.encoder, layout)
    states: Tensor = parts.embeddings(tokens.values[None], position_ids(model, tokens)[None]).squeeze(0)
    for layer in parts.encoder.layer:  # as MPNetLayer does it
        inner = layer.attention.attn
        heads = [
            project(states).unflatten(-1, (inner.num_attention_heads, -1))
            for project in (inner.q, inner.k, inner.v)
        ]
        mixed = bucket_attention(heads, layout, masks, inner.dropout.p if inner.training else 0.0)
        output = layer.attention.dropout(inner.o(mixed.flatten(1)))
        attended = layer.attention.LayerNorm(output + states)
        states = layer.output(layer.intermediate(attended), attended)
    return states


def position_masks(encoder: Any, layout: Layout) -> list[tuple[Tensor, bool]]:
    """What MPNet adds to the scores of each bucket, in all layers: the bias of relative positions, and minus
    infinity for padding.

    Returns:
        for each bucket ``(float [rows or 1, heads, length, length], False)``.
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


def padded_forward(
    model: PreTrainedModel, tokens: Ragged, padding: int, groups: int = PADDED_GROUPS
) -> Tensor:
    """``[T, h]`` last hidden states by the model's usual way, padded on the right with token ``padding``."""
    layout = Layout.of(tokens, max_buckets=groups, power=1)
    states = []
    filled = tokens.values.index_select(0, layout.token_of_slot)
    for bucket, ids in zip(layout.buckets, filled.split([b.slots for b in layout.buckets]), strict=True):
        ids = ids.view(bucket.rows, bucket.length)
        mask = torch.ones_like(ids)
        if bucket.valid is not None:
            ids, mask = ids.masked_fill(~bucket.valid, padding), bucket.valid.long()
        states.append(_states(model, ids, mask).reshape(bucket.slots, -1))
    return layout.collect(torch.cat(states)) if states else _no_states(model, tokens)


def unpadded_forward(model: PreTrainedModel, tokens: Ragged, together: bool = True) -> Tensor:
    """``[T, h]`` last hidden states by the model's usual way without any padding.

    Args:
        model: any.
        tokens: of the texts.
        together: texts of one length run together; False runs each text by itself.
    """
    states, places = [], []
    groups = [(tokens.lengths == length).nonzero().squeeze(1) for length in tokens.lengths.unique() if length]
    for rows in groups if together else [row[None] for group in groups for row in group]:
        place = tokens.offsets[rows, None] + torch.arange(int(tokens.lengths[rows[0]]), device=rows.device)
        ids = tokens.values[place]
        states.append(_states(model, ids, torch.ones_like(ids)).reshape(place.numel(), -1))
        places.append(place.reshape(-1))
    return torch.cat(states)[torch.cat(places).argsort()] if states else _no_states(model, tokens)


def _states(model: PreTrainedModel, ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
    """``[n, length, h]`` last hidden states of token ids ``[n, length]``."""
    # Decoders fill a key-value cache by default; encoders would hand the option on to their attention.
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    return model(input_ids=ids, attention_mask=mask, **options).last_hidden_state


def _no_states(model: PreTrainedModel, tokens: Ragged) -> Tensor:
    return torch.zeros(0, int(model.config.hidden_size), dtype=model.dtype, device=tokens.values.device)


def skipped_position(model: nn.Module) -> int | None:
    """``padding_idx`` of a model that counts positions from behind it, as RoBERTa and MPNet do, or None."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_inputs_embeds"):
            return int(module.padding_idx)  # type: ignore[arg-type]
    return None


def position_ids(model: nn.Module, tokens: Ragged) -> Tensor:
    """``[T]`` int64, each token's position as the model counts: from 0, or RoBERTa's from padding_idx + 1."""
    padding = skipped_position(model)
    if padding is None:
        return tokens.positions
    counted = (tokens.values != padding).long()
    before = counted.cumsum(0) - counted
    starts = tokens.offsets[:-1].clamp(max=max(len(before) - 1, 0))
    first = before[starts] if len(before) else before
    local = before - first.repeat_interleave(tokens.lengths, output_size=len(before)) + 1
    return local * counted + padding


def max_positions(model: PreTrainedModel) -> int | None:
    """How many tokens a text may have, None if the model doesn't say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    skipped = skipped_position(model)
    return limit if skipped is None else limit - skipped - 1


@dataclass(frozen=True)
class Verdict:
    """What the probe found.

    Args:
        way: "packed", "padded" or "unpadded": the fastest that gives the outputs and gradients of each text
            alone; "none" if texts change each other even without padding.
        reason: why it isn't packed.
        unpadded: why it can't be padded either, "" if it can.
        unused: names of parameters that the last hidden states don't depend on.
    """

    way: Way | Literal["none"]
    reason: str
    unpadded: str
    unused: tuple[str, ...]

    @property
    def packed(self) -> bool:
        """Whether texts may lie end to end."""
        return self.way == "packed"


class EachAlone:
    """Outputs and gradients of texts that run one by one, with which other ways are compared.

    Args:
        model: in evaluation mode.
        tokens: of the texts.
    """

    def __init__(self, model: PreTrainedModel, tokens: Ragged) -> None:
        weights = torch.rand(int(tokens.offsets[-1]), 1, generator=torch.Generator().manual_seed(1)) - 0.3
        self._weights = weights.to(model.device)
        self._tolerance = TOLERANCE.get(model.dtype, 1e-5)
        named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        self._parameters = [value for _, value in named]
        self._states = unpadded_forward(model, tokens, together=False)
        self._gradients = self._gradients_of(self._states)
        self.unused = tuple(
            name for (name, _), slope in zip(named, self._gradients, strict=True) if slope is None
        )

    def difference(self, forward: Callable[[], Tensor]) -> str:
        """How another way differs or fails, in words; "" if it doesn't."""
        try:
            return self._compare(forward())
        except Exception as error:  # a model's own code may raise anything; another way may still work
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def _compare(self, states: Tensor) -> str:
        expected = self._states
        if expected.shape != states.shape:
            return f"outputs have shape {tuple(states.shape)} instead of {tuple(expected.shape)}"
        apart = (expected - states).detach().norm(dim=-1).max()
        if found := self._too_far(float(apart / expected.detach().norm(dim=-1).mean()), "outputs"):
            return found
        gradients = self._gradients_of(states)
        if [slope is None for slope in self._gradients] != [slope is None for slope in gradients]:
            return "other parameters take part"
        both = zip(self._gradients, gradients, strict=True)
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        if not pairs:
            return ""
        apart = torch.stack([(a - b).float().norm() for a, b in pairs]).norm()
        size = torch.stack([a.float().norm() for a, _ in pairs]).norm()
        return self._too_far(float(apart / size.clamp(min=1e-30)), "gradients")

    def _gradients_of(self, states: Tensor) -> list[Tensor | None]:
        if not self._parameters:
            return []
        target = (states * self._weights * torch.linspace(-1, 1, states.shape[-1]).to(states)).sum()
        return list(torch.autograd.grad(target, self._parameters, allow_unused=True))

    def _too_far(self, difference: float, what: str) -> str:
        if difference <= self._tolerance:
            return ""
        return f"{what} differ by {difference:.2g} relative to each text alone"


def probe(
    model: PreTrainedModel, max_length: int, special: set[int], padding: int, pack: bool = True
) -> Verdict:
    """Compare packed and padded with each text alone, on texts of random tokens, one of them longer than the
    model's shortest window.

    Random state, gradients, training flags and the attention in use are left as they were.

    Args:
        model: any dtype, on any device.
        max_length: no text will be longer than this.
        special: token ids that a text doesn't hold in its middle.
        padding: token id to pad with.
        pack: False leaves packing out.
    """
    tokens = probe_texts(model, max_length, special).to(model.device)

    def pack_it() -> Tensor:
        with attention(model, PACKED):
            return packed_forward(model, tokens)

    # The tolerance is that of the weights' dtype, also where somebody loads a model under autocast.
    with evaluating(model), torch.enable_grad(), torch.autocast(model.device.type, enabled=False):
        alone = EachAlone(model, tokens)
        reason = alone.difference(pack_it) if pack else "it is switched off"
        if not reason:
            return Verdict("packed", "", "", alone.unused)
        # In one group, so that it pads.
        unpadded = alone.difference(lambda: padded_forward(model, tokens, padding, groups=1))
        if not unpadded:
            return Verdict("padded", reason, "", alone.unused)
        mixed = alone.difference(lambda: unpadded_forward(model, tokens))
        return Verdict("none" if mixed else "unpadded", reason, unpadded, alone.unused)


def probe_texts(model: PreTrainedModel, max_length: int, special: set[int]) -> Ragged:
    """Texts of random ordinary tokens, of very different lengths; always the same for the same model."""
    config = model.config.get_text_config()
    names = ("sliding_window", "local_attention", "attention_chunk_size")
    sizes = [int(getattr(config, name, None) or 0) for name in names]
    window = min((size for size in sizes if size > 0), default=0)
    longest = min([max_length, PROBE_TOKENS, 40 + 2 * window])
    lengths = [min(length, longest) for length in (3, longest, 1, 17, longest // 2 + 1, 17)]
    known = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    ordinary = torch.tensor([token for token in range(known) if token not in special] or [0])
    chosen = torch.randint(len(ordinary), (sum(lengths),), generator=torch.Generator().manual_seed(0))
    return Ragged.from_lengths(ordinary[chosen], torch.tensor(lengths))


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Within this block the model's attention is the one that transformers knows as ``name``."""
    before = model.config._attn_implementation
    use_attention(model, name)
    try:
        yield
    finally:
        use_attention(model, before)


def use_attention(model: PreTrainedModel, name: str) -> None:
    """Switch attention, except of a packed model with attention of its own.

    Raises:
        ValueError: for any other model that doesn't use transformers' attention interface.
    """
    own = name == PACKED and model.config.model_type in OWN_ATTENTION
    if own or name == model.config._attn_implementation:
        return
    if not model._can_set_attn_implementation():
        raise ValueError(f"{type(model).__name__} computes attention itself, outside transformers' interface")
    model.set_attn_implementation(name)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this block all modules are in evaluation mode; afterwards each is in the mode that it was in."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
