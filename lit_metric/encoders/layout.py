"""Where each token of a packed batch goes when attention needs rows of equal length.

Texts lie end to end in one row of ``T`` tokens. Attention mixes tokens of one text only, so it alone needs a
``[texts, length]`` shape: texts are sorted into a few *buckets* of similar length, each padded to its
longest. The positions are worked out once per batch and shared by all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged

MAX_DISTINCT = 96
"""Lengths are rounded up to at most this many levels before buckets are chosen, which bounds the search."""


@dataclass(frozen=True)
class Bucket:
    """``rows`` texts padded to ``length`` slots each.

    Args:
        rows: how many texts.
        length: slots per text, the longest text of the bucket.
        valid: bool ``[rows, length]``, which slots hold a token; None if all of them do.
    """

    rows: int
    length: int
    valid: Tensor | None

    @property
    def slots(self) -> int:
        """``rows * length``."""
        return self.rows * self.length


@dataclass(frozen=True)
class Layout:
    """The buckets of one batch, and both directions of the map between tokens and slots.

    Args:
        buckets: at most a handful; texts without tokens are in none of them.
        token_of_slot: int64 ``[S]``, for every slot of every bucket in order the token that fills it; a
            padding slot repeats a token of its own text.
        slot_of_token: int64 ``[T]``, the one slot that each token owns.
        offsets: int64 ``[n + 1]`` on the same device, where texts begin.
        longest: tokens in the longest text.
    """

    buckets: tuple[Bucket, ...]
    token_of_slot: Tensor
    slot_of_token: Tensor
    offsets: Tensor
    longest: int

    @classmethod
    def of(cls, texts: Ragged, max_buckets: int = 6, power: int = 2) -> Layout:
        """Lay out ``texts``.

        Args:
            texts: only the offsets are used. If they are on an accelerator this waits for them.
            max_buckets: at most this number of buckets.
            power: what a padded text of length L costs: ``L ** power`` (2: attention scores, 1: linear
                layers).

        Returns:
            a layout whose tensors are on the device of ``texts.offsets``.
        """
        device = texts.offsets.device
        offsets = texts.offsets.cpu().numpy()
        lengths = np.diff(offsets)
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        total = int(offsets[-1])
        slot_of_token = np.empty(total, dtype=np.int64)
        fillers, shapes, start = [], [], 0
        for rows, length in choose_buckets(lengths[order], max_buckets, power):
            texts_here, order = order[:rows], order[rows:]
            place = np.arange(length)
            sizes = lengths[texts_here][:, None]
            valid = place < sizes
            token = offsets[texts_here][:, None] + np.minimum(place, sizes - 1)
            slot_of_token[token[valid]] = start + np.flatnonzero(valid)
            fillers.append(token.reshape(-1))
            shapes.append((rows, length, None if valid.all() else torch.from_numpy(valid)))
            start += rows * length
        token_of_slot = np.concatenate(fillers) if fillers else np.empty(0, dtype=np.int64)
        return cls(
            tuple(Bucket(r, n, None if v is None else v.to(device, non_blocking=True)) for r, n, v in shapes),
            torch.from_numpy(token_of_slot).to(device, non_blocking=True),
            torch.from_numpy(slot_of_token).to(device, non_blocking=True),
            texts.offsets,
            int(lengths.max(initial=0)),
        )

    @cached_property
    def offsets32(self) -> Tensor:
        """The offsets as int32, which variable-length kernels want."""
        return self.offsets.to(torch.int32)

    def spread(self, tokens: Tensor) -> Tensor:
        """``[T, ...]`` tokens to ``[S, ...]`` slots; a padding slot repeats a token and has no gradient."""
        return Permute.apply(tokens, self.token_of_slot, self.slot_of_token)

    def collect(self, slots: Tensor) -> Tensor:
        """``[S, ...]`` slots to ``[T, ...]`` tokens; padding is left behind and gets a gradient of zero."""
        return Collect.apply(slots, self.slot_of_token)


class Permute(torch.autograd.Function):
    """Rows by index, where padding carries no gradient, so that the backward pass is rows by index too."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, token_of_slot: Tensor, slot_of_token: Tensor) -> Tensor:
        """``[T, ...]`` to ``[S, ...]``."""
        ctx.save_for_backward(slot_of_token)
        return tokens.index_select(0, token_of_slot)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """``[S, ...]`` to ``[T, ...]``."""
        (slot_of_token,) = ctx.saved_tensors
        return gradients[0].index_select(0, slot_of_token), None, None


class Collect(torch.autograd.Function):
    """The slots that own a token; the backward pass copies and never adds."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, slot_of_token: Tensor) -> Tensor:
        """``[S, ...]`` to ``[T, ...]``."""
        ctx.save_for_backward(slot_of_token)
        ctx.shape = slots.shape
        return slots.index_select(0, slot_of_token)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """``[T, ...]`` to ``[S, ...]``."""
        (slot_of_token,) = ctx.saved_tensors
        return gradients[0].new_zeros(ctx.shape).index_copy_(0, slot_of_token, gradients[0]), None


def choose_buckets(lengths: np.ndarray, max_buckets: int, power: int) -> list[tuple[int, int]]:
    """Cut sorted lengths into buckets so that the padded cost ``sum(rows * length ** power)`` is least.

    Args:
        lengths: ``[n]`` integers of at least 1, ascending.
        max_buckets: at most this number of buckets.
        power: see :meth:`Layout.of`.

    Returns:
        ``(rows, length)`` of each bucket, shortest first. Exact by dynamic programming over distinct lengths.

    Example:
        >>> choose_buckets(np.array([1, 1, 2, 9, 9]), max_buckets=2, power=2)
        [(3, 2), (2, 9)]
    """
    if not len(lengths):
        return []
    levels, counts = np.unique(lengths, return_counts=True)
    if len(levels) > MAX_DISTINCT:
        levels = levels[np.linspace(0, len(levels) - 1, MAX_DISTINCT).astype(np.int64)]
        counts = np.diff(np.searchsorted(lengths, levels, side="right"), prepend=0)
    below = np.concatenate([[0], counts.cumsum()]).astype(np.float64)
    # price[i, j]: one bucket of the levels i up to and including j
    price = (below[None, 1:] - below[:-1, None]) * levels.astype(np.float64)[None, :] ** power
    price[np.tril_indices(len(levels), -1)] = np.inf
    best, cuts = price[0], []
    for _ in range(min(max_buckets, len(levels)) - 1):
        # joined[i, j]: the best up to level i - 1, then one bucket from i to j; i = 0 keeps what there was
        joined = np.vstack([best, best[:-1, None] + price[1:]])
        cuts.append(joined.argmin(0))
        best = joined.min(0)
    buckets, last = [], len(levels) - 1  # the choices are walked back from the longest level
    for first in reversed(cuts):
        if first[last] == 0:
            continue
        buckets.append((int(below[last + 1] - below[first[last]]), int(levels[last])))
        last = int(first[last]) - 1
    buckets.append((int(below[last + 1]), int(levels[last])))
    return buckets[::-1]
