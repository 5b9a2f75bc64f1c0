"""Attention over packed texts, registered with transformers under the name :data:`PACKED`.

The model calls its registered *mask* function for a mask and hands the answer to every layer, where the
registered *attention* function gets it back. Here the mask function answers with a :class:`PackedMask`: where
the texts lie, and who may see whom inside one text, read from the model's own mask function. So sliding
windows, causal masks and chunks need no knowledge of the family. The answer travels with the layer's
arguments, also when a layer is recomputed under gradient checkpointing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from lit_metric.encoders.layout import Bucket, Layout

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

PACKED = "lit_metric_packed"
"""The name under which transformers knows the packed attention."""

UNLIMITED = -1
"""The limit of a band that has none."""

FULL, CAUSAL = (UNLIMITED, UNLIMITED), (UNLIMITED, 0)

KERNEL_TOLERANCE = 0.02
"""Relative difference (Frobenius) between two attention kernels that half-precision rounding explains."""

JOINED = 32
"""Slots of a row in which three or more short texts attend together; fewer slots take the kernel as long."""

# Some versions of PyTorch need the argument for grouped heads; others have no such argument, and group them.
KERNEL_GROUPS = varlen_attn is not None and "enable_gqa" in inspect.signature(varlen_attn).parameters

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

_kernel_checks: dict[tuple[object, ...], bool] = {}

_layout: ContextVar[Layout | None] = ContextVar("lit_metric_layout", default=None)


class PackingError(RuntimeError):
    """A model needs something of attention that packed attention can't do exactly."""


@contextmanager
def packed(layout: Layout) -> Iterator[None]:
    """Within this block, models whose attention is :data:`PACKED` read their input as texts laid out so."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


@dataclass(frozen=True)
class PackedMask:
    """Which tokens see which inside a text.

    Args:
        layout: where the texts lie.
        band: ``(left, right)``: a token sees that many tokens before and after itself, -1 for all; ``(-1,
            -1)`` is full attention, ``(-1, 0)`` causal. None if the pattern is no band.
        grid: bool ``[L, L]``, row = the token that looks; only where ``band`` is not one of those two.
    """

    layout: Layout
    band: tuple[int, int] | None
    grid: Tensor | None

    @classmethod
    def read(cls, layout: Layout, pattern: Callable[..., Any], device: torch.device | str) -> PackedMask:
        """Evaluate a model's mask function on the tokens of one text of the longest length."""
        if pattern is bidirectional_mask_function:
            return cls(layout, FULL, None)
        if pattern is causal_mask_function:
            return cls(layout, CAUSAL, None)
        here = torch.arange(max(layout.longest, 1), device=device)
        first = torch.zeros((), dtype=torch.int64, device=device)
        answer = pattern(first, first, here[:, None], here[None, :])
        grid = torch.as_tensor(answer, device=device).bool().expand(len(here), len(here))
        left, right = int(grid[-1].sum()) - 1, int(grid[0].sum()) - 1
        distance = here[None, :] - here[:, None]
        if not torch.equal(grid, (distance >= -left) & (distance <= right)):
            return cls(layout, None, grid)
        band = cls(layout, (left, right), grid).band_within(layout.longest)
        return cls(layout, band, None if band in (FULL, CAUSAL) else grid)

    def band_within(self, length: int) -> tuple[int, int] | None:
        """The band as texts of at most ``length`` tokens see it: a limit that they can't reach is none."""
        if self.band is None:
            return None
        left, right = (UNLIMITED if limit >= length - 1 else limit for limit in self.band)
        return left, right

    def of_bucket(self, bucket: Bucket) -> tuple[Tensor | None, bool]:
        """The mask of one bucket, ``(allowed [rows or 1, 1, length or 1, length] or None, is_causal)``.

        Padding stands on the right, so a causal pattern hides it from all tokens without any mask.
        """
        band = self.band_within(bucket.length)
        if band == CAUSAL:
            return None, True
        seen = None if bucket.valid is None else bucket.valid[:, None, None, :]
        if band == FULL:
            return seen, False
        assert self.grid is not None
        allowed = self.grid[: bucket.length, : bucket.length]
        if seen is None or bucket.valid is None:
            return allowed[None, None], False
        # A padding slot that sees nothing would turn into NaN, and NaN times a gradient of zero is NaN.
        return (allowed & seen) | ~bucket.valid[:, None, :, None], False

    def attend(self, heads: list[Tensor], dropout: float = 0.0, scaling: float | None = None) -> Tensor:
        """:func:`bucket_attention` with this mask."""
        masks = (self.of_bucket(bucket) for bucket in self.layout.buckets)
        return bucket_attention(heads, self.layout, masks, dropout, scaling)


def packed_mask(**arguments: Any) -> Any:
    """The registered mask function: a :class:`PackedMask`, or the usual mask when no texts are packed."""
    layout = _layout.get()
    if layout is None:
        return sdpa_mask(**arguments)
    rows, queries, keys = (arguments[name] for name in ("batch_size", "q_length", "kv_length"))
    if rows != 1 or not queries == keys == len(layout.slot_of_token):
        raise PackingError(f"the model masks {rows} x {queries} x {keys}, not the packed tokens")
    return PackedMask.read(layout, arguments["mask_function"], arguments["device"])


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
        module: the attention layer; used in messages only.
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
    name = type(module).__name__
    if not isinstance(attention_mask, PackedMask):
        if _layout.get() is not None:
            raise PackingError(f"{name} makes its own mask instead of calling the mask interface")
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    unknown = sorted(each for each, given in kwargs.items() if given is not None and each not in _HARMLESS)
    if unknown or kwargs.get("output_attentions"):
        raise PackingError(f"{name} passes {', '.join(unknown) or 'output_attentions'}")
    heads = [states.squeeze(0).transpose(0, 1) for states in (query, key, value)]  # [T, heads, d] each
    if len(heads[0]) != len(attention_mask.layout.slot_of_token):
        raise PackingError(f"{name} attends over {len(heads[0])} tokens, not the packed ones")
    mixed = varlen_attention(heads, attention_mask, dropout, scaling)
    if mixed is None:
        mixed = attention_mask.attend(heads, dropout, scaling)
    return mixed.unsqueeze(0), None


def bucket_attention(
    heads: list[Tensor],
    layout: Layout,
    masks: Iterable[tuple[Tensor | None, bool]],
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Tensor:
    """Attention within each text, one padded call per bucket.

    Half precision on a CPU is computed in float32 where a gradient is needed, also under autocast: the
    backward pass of PyTorch's CPU kernel is far slower in half precision, and costs more time than the other
    matrix products save.

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
    joining = heads[0].device.type == "cpu" and heads[0].dtype == torch.bfloat16 and not dropout
    joining = joining and not torch.is_grad_enabled()
    mixed = []
    for bucket, (allowed, causal), *parts in zip(layout.buckets, masks, *slots, strict=True):
        keys_only = allowed is None or (allowed.dtype == torch.bool and allowed.shape[1:3] == (1, 1))
        if joining and keys_only and not causal and bucket.length <= JOINED // 3:
            mixed.append(joined_attention(parts, bucket, scaling))
            continue
        query, key, value = (p.view(bucket.rows, bucket.length, *p.shape[1:]).transpose(1, 2) for p in parts)
        options = {"dropout_p": dropout, "is_causal": causal, "scale": scaling, "enable_gqa": grouped}
        half = query.dtype in (torch.bfloat16, torch.float16)
        if query.device.type != "cpu" or not half or not torch.is_grad_enabled():
            out = F.scaled_dot_product_attention(query, key, value, allowed, **options)
        else:
            if allowed is not None and allowed.dtype != torch.bool:
                allowed = allowed.float()
            wide = query.float(), key.float(), value.float()
            with torch.autocast("cpu", enabled=False):
                out = F.scaled_dot_product_attention(*wide, allowed, **options).to(query.dtype)
        mixed.append(out.transpose(1, 2).reshape(bucket.slots, out.shape[1], out.shape[-1]))
    return layout.collect(torch.cat(mixed))


def joined_attention(parts: Sequence[Tensor], bucket: Bucket, scaling: float | None = None) -> Tensor:
    """Full attention in a bucket of short texts, of which several share a row of :data:`JOINED` slots.

    PyTorch's CPU kernel takes as long for a row of 8 slots as for one of 32.

    Args:
        parts: query ``[slots, heads, d]``, key and value ``[slots, key heads, d]``.
        bucket: of texts of at most ``JOINED`` slots.
        scaling: of the scores.

    Returns:
        ``[slots, heads, d]``.
    """
    device, each = parts[0].device, JOINED // bucket.length
    rows = -(-bucket.rows // each)
    slot = torch.arange(bucket.slots, device=device)
    place = slot.div(each * bucket.length, rounding_mode="floor") * JOINED + slot % (each * bucket.length)
    text = torch.arange(JOINED, device=device) // bucket.length  # the slots that are left over see each other
    allowed = (text[:, None] == text)[None, None]
    if bucket.valid is not None:
        seen = torch.ones(rows * JOINED, dtype=torch.bool, device=device)
        allowed = allowed & seen.index_copy_(0, place, bucket.valid.view(-1)).view(rows, 1, 1, JOINED)
    query, key, value = (
        part.new_zeros(rows * JOINED, *part.shape[1:])
        .index_copy_(0, place, part)
        .view(rows, JOINED, *part.shape[1:])
        .transpose(1, 2)
        for part in parts
    )
    grouped = query.shape[1] != key.shape[1]
    out = F.scaled_dot_product_attention(query, key, value, allowed, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).reshape(rows * JOINED, *parts[0].shape[1:]).index_select(0, place)


def varlen_attention(
    heads: list[Tensor], mask: PackedMask, dropout: float, scaling: float | None
) -> Tensor | None:
    """Attention within each text by PyTorch's variable-length kernel for CUDA.

    The first call of a kind (head size, dtype, grouping, shape of the band) is checked against
    :meth:`PackedMask.attend`.

    Args:
        heads: query ``[T, heads, d]``, key and value ``[T, key heads, d]``.
        mask: where the texts lie, and who sees whom.
        dropout: the kernel has none, so it is not used with any other than 0.
        scaling: of the scores.

    Returns:
        ``[T, heads, d]``, or None where the kernel can't be used.
    """
    query = heads[0]
    if (
        varlen_attn is None
        or not query.is_cuda
        or query.dtype not in (torch.float16, torch.bfloat16)
        or any(states.dtype != query.dtype for states in heads)
        or dropout > 0
        or mask.band is None
        or len(query) == 0
    ):
        return None
    limited = (limit < 0 for limit in mask.band)
    kind = (query.device, query.dtype, query.shape[1:], heads[1].shape[1:], *limited)
    if kind not in _kernel_checks:
        _kernel_checks[kind] = _kernel_agrees(heads, mask, scaling)
    return _kernel(heads, mask, scaling) if _kernel_checks[kind] else None


def _kernel(heads: list[Tensor], mask: PackedMask, scaling: float | None) -> Tensor:
    assert varlen_attn is not None
    assert mask.band is not None
    query, key, value = (states.contiguous() for states in heads)
    offsets, longest = mask.layout.offsets32, mask.layout.longest
    options: dict[str, Any] = {"scale": scaling, "window_size": mask.band}
    if KERNEL_GROUPS:
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    mixed = varlen_attn(query, key, value, offsets, offsets, longest, longest, **options)
    assert isinstance(mixed, Tensor)
    return mixed


@torch.no_grad()
def _kernel_agrees(heads: list[Tensor], mask: PackedMask, scaling: float | None) -> bool:
    heads = [states.detach() for states in heads]
    try:
        ours = mask.attend(heads, 0.0, scaling).float()
        apart = (_kernel(heads, mask, scaling).float() - ours).norm()
        difference = float(apart / ours.norm().clamp(min=1e-6))
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        log.info("the variable-length attention kernel is not used: %s", str(error).splitlines()[0])
        return False
    if difference > KERNEL_TOLERANCE:
        log.warning("the variable-length attention kernel differs by %.3g and is not used", difference)
    return difference <= KERNEL_TOLERANCE


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)
