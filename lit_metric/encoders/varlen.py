"""A variable-length attention kernel on CUDA, where PyTorch has one and it proves equal."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_metric.encoders.masks import PackedMask

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# PyTorch 2.13 wants to be told of grouped heads; 2.11 has no such argument, and groups them unasked.
GROUPED = varlen_attn is not None and "enable_gqa" in inspect.signature(varlen_attn).parameters

TOLERANCE = 0.02
"""Relative difference (Frobenius) from the padded kernel that half-precision rounding explains."""

_verdicts: dict[tuple[object, ...], bool] = {}


Attention = Callable[[list[Tensor], PackedMask, float, float | None], Tensor]


def varlen_attention(
    heads: list[Tensor], mask: PackedMask, dropout: float, scaling: float | None, reference: Attention
) -> Tensor | None:
    """Attention within each text by PyTorch's variable-length kernel.

    The first call of a kind (head size, dtype, grouping, shape of the band) is checked against ``reference``.

    Args:
        heads: query ``[T, heads, d]``, key and value ``[T, key heads, d]``.
        mask: where the texts lie, and who sees whom.
        dropout: the kernel has none, so any other than 0 is refused.
        scaling: of the scores.
        reference: attention known to be right.

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
    kind = (
        query.device,
        query.dtype,
        query.shape[1:],
        heads[1].shape[1:],
        *(limit < 0 for limit in mask.band),
    )
    if kind not in _verdicts:
        _verdicts[kind] = _agrees(heads, mask, scaling, reference)
    return _call(heads, mask, scaling) if _verdicts[kind] else None


def _call(heads: list[Tensor], mask: PackedMask, scaling: float | None) -> Tensor:
    assert varlen_attn is not None
    assert mask.band is not None
    query, key, value = (states.contiguous() for states in heads)
    layout = mask.layout
    grouped: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]} if GROUPED else {}
    mixed = varlen_attn(
        query,
        key,
        value,
        layout.offsets32,
        layout.offsets32,
        layout.longest,
        layout.longest,
        scale=scaling,
        window_size=mask.band,
        **grouped,
    )
    assert isinstance(mixed, Tensor)
    return mixed


@torch.no_grad()
def _agrees(heads: list[Tensor], mask: PackedMask, scaling: float | None, reference: Attention) -> bool:
    heads = [states.detach() for states in heads]
    try:
        ours = reference(heads, mask, 0.0, scaling).float()
        difference = float((_call(heads, mask, scaling).float() - ours).norm() / ours.norm().clamp(min=1e-6))
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        log.info("the variable-length attention kernel is not used: %s", str(error).splitlines()[0])
        return False
    if difference > TOLERANCE:
        log.warning("the variable-length attention kernel differs by %.3g and is not used", difference)
    return difference <= TOLERANCE
