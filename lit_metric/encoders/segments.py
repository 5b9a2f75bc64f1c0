"""Sums, maxima and softmax over the rows of a ragged array.

Everything accumulates in float32 at least, and neither forward nor backward adds atomically on CUDA, so a
result is the same in every run. :class:`SegmentSum` and :class:`SegmentSpread` are each other's gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged, offsets_of


class SegmentSum(torch.autograd.Function):
    """``[total, ...]`` to ``[n, ...]``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, offsets: Tensor, segment_ids: Tensor) -> Tensor:
        """The sum of each segment; 0 for an empty one."""
        ctx.save_for_backward(offsets, segment_ids)
        if values.is_cuda and values.is_floating_point():  # index_add adds in any order there
            return torch.segment_reduce(values, "sum", offsets=offsets, axis=0, unsafe=True)
        zeros = values.new_zeros(len(offsets) - 1, *values.shape[1:])
        return zeros.index_add_(0, segment_ids, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Each value gets its segment's gradient."""
        return SegmentSpread.apply(gradients[0], *ctx.saved_tensors), None, None


class SegmentSpread(torch.autograd.Function):
    """``[n, ...]`` to ``[total, ...]``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, offsets: Tensor, segment_ids: Tensor) -> Tensor:
        """Each segment's row, once for each of its values."""
        ctx.save_for_backward(offsets, segment_ids)
        return rows.index_select(0, segment_ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The sum over the segment."""
        return SegmentSum.apply(gradients[0], *ctx.saved_tensors), None, None


def widen(values: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def segment_sum(rows: Ragged) -> Tensor:
    """``[n, ...]``: the sum of each row of ``[total, ...]`` values, 0 where it is empty.

    Example:
        >>> segment_sum(Ragged.from_lists([[1, 2], [], [5]])).tolist()
        [3, 0, 5]
    """
    return SegmentSum.apply(widen(rows.values), rows.offsets, rows.segment_ids)


def segment_mean(rows: Ragged, weights: Tensor | None = None) -> Tensor:
    """``[n, ...]``: the mean of each row, weighted if ``weights [total] > 0`` are given; 0 where it is empty.

    Example:
        >>> rows = Ragged(torch.tensor([1.0, 5.0]), torch.tensor([0, 2, 2]))
        >>> segment_mean(rows).tolist(), segment_mean(rows, torch.tensor([3.0, 1.0])).tolist()
        ([3.0, 0.0], [2.0, 0.0])
    """
    if weights is not None:
        values = widen(rows.values)
        weights = weights.to(values.dtype)
        shares = weights / segment_spread(segment_sum(Ragged(weights, rows.offsets)), rows)
        return segment_sum(Ragged(values * shares.view(-1, *[1] * (values.dim() - 1)), rows.offsets))
    total = segment_sum(rows)
    counts = rows.lengths.clamp(min=1).to(total.dtype)
    return total / counts.view(-1, *[1] * (total.dim() - 1))


def segment_max(rows: Ragged) -> Tensor:
    """``[n, ...]``: the largest value of each row, 0 where it is empty."""
    values = widen(rows.values)
    largest = torch.segment_reduce(values, "max", offsets=rows.offsets, axis=0, unsafe=True)
    empty = (rows.lengths == 0).view(-1, *[1] * (values.dim() - 1))
    return largest.masked_fill(empty, 0)


def segment_spread(rows: Tensor, like: Ragged) -> Tensor:
    """``[total, ...]``: row ``i`` of ``rows [n, ...]`` for each value of row ``i`` of ``like``."""
    return SegmentSpread.apply(rows, like.offsets, like.segment_ids)


def segment_softmax(scores: Ragged) -> Tensor:
    """``[total, ...]``: softmax of the scores within each row.

    Example:
        >>> segment_softmax(Ragged(torch.zeros(3), torch.tensor([0, 2, 2, 3]))).tolist()
        [0.5, 0.5, 1.0]
    """
    values = widen(scores.values)
    with torch.no_grad():  # softmax doesn't depend on the shift
        largest = segment_spread(segment_max(Ragged(values, scores.offsets)), scores)
    powers = (values - largest).exp()
    total = segment_sum(Ragged(powers, scores.offsets))
    return powers / segment_spread(total, scores)


class TakeRows(torch.autograd.Function):
    """Rows by an index that may name a row many times; the backward pass sorts and sums segments."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        """``[n, ...]`` and ``[m]`` to ``[m, ...]``."""
        ctx.save_for_backward(index)
        ctx.count = len(rows)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """``[m, ...]`` to ``[n, ...]``."""
        (index,) = ctx.saved_tensors
        if not index.is_cuda:
            wide = widen(gradients[0])
            summed = wide.new_zeros(ctx.count, *wide.shape[1:]).index_add_(0, index, wide)
            return summed.to(gradients[0].dtype), None
        order = index.argsort(stable=True)
        counts = torch.zeros(ctx.count, dtype=torch.int64, device=index.device)
        counts.index_add_(0, index, torch.ones_like(index))
        sorted_rows = Ragged(gradients[0].index_select(0, order), offsets_of(counts))
        return segment_sum(sorted_rows).to(gradients[0].dtype), None


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]`` with a gradient that adds in a fixed order: ``[n, ...]``, ``[m]`` to ``[m, ...]``."""
    return TakeRows.apply(rows, index)
