"""Run a Hugging Face model on texts laid end to end, once that has been shown to change nothing.

Packing a model that is not made for it is silent: it returns numbers, wrong ones. So is padding a model that
ignores the attention mask. So :func:`probe` runs a few texts one by one when a model is loaded, and takes the
fastest way that gives the same outputs and gradients: packed, padded, or texts of equal length together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.attention import PACKED, packed
from lit_metric.encoders.layout import Layout
from lit_metric.encoders.mpnet import mpnet_forward
from lit_metric.encoders.positions import position_ids

Way = Literal["packed", "padded", "unpadded"]

PADDED_GROUPS = 4
"""The padded path runs texts of similar length together, in at most so many calls."""

PROBE_TOKENS = 1024
"""The longest text of the probe has at most so many tokens, so a window longer than that isn't probed."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""Largest relative difference (Frobenius) between both ways that rounding explains."""


ADAPTERS: dict[str, Callable[[PreTrainedModel, Ragged], Tensor]] = {"mpnet": mpnet_forward}
"""By model type, packed forward passes of models that compute attention themselves."""


def packed_forward(model: PreTrainedModel, tokens: Ragged) -> Tensor:
    """``[T, h]`` last hidden states of texts laid end to end; the model's attention must be `PACKED`."""
    if not len(tokens.values):
        return _no_states(model, tokens)
    if model.config.model_type in ADAPTERS:
        return ADAPTERS[model.config.model_type](model, tokens)
    inputs = {
        "input_ids": tokens.values[None],
        # An explicit mask of ones keeps transformers from its own reading of restarting positions.
        "attention_mask": torch.ones_like(tokens.values[None], dtype=torch.bool),
        "position_ids": position_ids(model, tokens)[None],
    }
    with packed(Layout.of(tokens)):
        return model(**inputs, **_no_cache(model)).last_hidden_state.squeeze(0)


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
        output = model(input_ids=ids, attention_mask=mask, **_no_cache(model)).last_hidden_state
        states.append(output.reshape(bucket.slots, -1))
    return layout.collect(torch.cat(states)) if states else _no_states(model, tokens)


def _no_states(model: PreTrainedModel, tokens: Ragged) -> Tensor:
    return torch.zeros(0, int(model.config.hidden_size), dtype=model.dtype, device=tokens.values.device)


def _no_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Decoders fill a key-value cache unless told not to; encoders would pass the word on to attention."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def unpadded_forward(model: PreTrainedModel, tokens: Ragged, together: bool = True) -> Tensor:
    """``[T, h]`` last hidden states by the model's usual way without any padding: texts of one length run
    together, or each by itself."""
    states, places = [], []
    alike = [(tokens.lengths == length).nonzero().squeeze(1) for length in tokens.lengths.unique() if length]
    for rows in alike if together else [row[None] for group in alike for row in group]:
        place = tokens.offsets[rows, None] + torch.arange(int(tokens.lengths[rows[0]]), device=rows.device)
        ids = tokens.values[place]
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **_no_cache(model))
        states.append(output.last_hidden_state.reshape(place.numel(), -1))
        places.append(place.reshape(-1))
    return torch.cat(states)[torch.cat(places).argsort()] if states else _no_states(model, tokens)


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
    device = model.device
    tokens = probe_texts(model, max_length, special).to(device)
    weights = torch.rand(int(tokens.offsets[-1]), 1, generator=torch.Generator().manual_seed(1)) - 0.3
    weights = weights.to(device)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]

    def compare(states: Tensor) -> str:
        found = _difference(model.dtype, alone, states, "outputs")
        return found or _compare_gradients(model.dtype, slopes, _gradients(states, weights, named))

    def attempt(forward: Callable[[], Tensor]) -> str:
        try:
            return compare(forward())
        except Exception as error:  # whatever a model's own code raises, another way may still work
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def pack_it() -> Tensor:
        with attention(model, PACKED):
            return packed_forward(model, tokens)

    # The tolerance is that of the weights' dtype, also where somebody loads a model under autocast.
    with evaluating(model), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        alone = unpadded_forward(model, tokens, together=False)
        slopes = _gradients(alone, weights, named)
        unused = tuple(name for (name, _), slope in zip(named, slopes, strict=True) if slope is None)
        reason = attempt(pack_it) if pack else "it is switched off"
        if not reason:
            return Verdict("packed", "", "", unused)
        unpadded = attempt(lambda: padded_forward(model, tokens, padding, groups=1))  # so that it pads
        if not unpadded:
            return Verdict("padded", reason, "", unused)
        way: Way | Literal["none"] = (
            "none" if attempt(lambda: unpadded_forward(model, tokens)) else "unpadded"
        )
        return Verdict(way, reason, unpadded, unused)


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


def _gradients(states: Tensor, weights: Tensor, named: list[tuple[str, nn.Parameter]]) -> list[Tensor | None]:
    if not named:
        return []
    target = (states * weights * torch.linspace(-1, 1, states.shape[-1]).to(states)).sum()
    return list(torch.autograd.grad(target, [parameter for _, parameter in named], allow_unused=True))


def _compare_gradients(dtype: torch.dtype, expected: list[Tensor | None], found: list[Tensor | None]) -> str:
    if [slope is None for slope in expected] != [slope is None for slope in found]:
        return "other parameters take part"
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a is not None and b is not None]
    if not pairs:
        return ""
    apart = torch.stack([(a - b).float().norm() for a, b in pairs]).norm()
    size = torch.stack([a.float().norm() for a, _ in pairs]).norm()
    return _too_far(dtype, float(apart / size.clamp(min=1e-30)), "gradients")


def _difference(dtype: torch.dtype, expected: Tensor, found: Tensor, what: str) -> str:
    if expected.shape != found.shape:
        return f"{what} have shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    apart = (expected - found).detach().norm(dim=-1).max()
    return _too_far(dtype, float(apart / expected.detach().norm(dim=-1).mean()), what)


def _too_far(dtype: torch.dtype, difference: float, what: str) -> str:
    if difference <= TOLERANCE.get(dtype, 1e-5):
        return ""
    return f"{what} differ by {difference:.2g} relative to each text alone"


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
    """Switch attention, except of a model that has an adapter and needs no switch.

    Raises:
        ValueError: for any other model that doesn't use transformers' attention interface.
    """
    if name == model.config._attn_implementation or (name == PACKED and model.config.model_type in ADAPTERS):
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
