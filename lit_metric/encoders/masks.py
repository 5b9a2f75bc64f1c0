"""Who may see whom inside a packed text, read from the model's own mask function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from lit_metric.encoders.layout import Bucket, Layout

UNLIMITED = -1
"""The limit of a band that has none."""

FULL, CAUSAL = (UNLIMITED, UNLIMITED), (UNLIMITED, 0)


@dataclass(frozen=True)
class PackedMask:
    """Who may see whom inside a text.

    Args:
        layout: where the texts lie.
        band: ``(left, right)``: a token sees that many tokens before and after itself, -1 for all; ``(-1,
            -1)`` is full attention, ``(-1, 0)`` causal. None if the pattern is no band.
        grid: bool ``[L, L]``, row = the token that looks; only where ``band`` is not one of those two.
    """

    layout: Layout
    band: tuple[int, int] | None
    grid: Tensor | None

    def band_within(self, length: int) -> tuple[int, int] | None:
        """The band as texts of at most ``length`` tokens see it: a limit that they can't reach is none."""
        if self.band is None:
            return None
        left, right = (UNLIMITED if limit >= length - 1 else limit for limit in self.band)
        return left, right


def read_pattern(layout: Layout, pattern: Callable[..., Any], device: torch.device | str) -> PackedMask:
    """Evaluate a model's mask function on the tokens of one text of the longest length."""
    if pattern is bidirectional_mask_function:
        return PackedMask(layout, FULL, None)
    if pattern is causal_mask_function:
        return PackedMask(layout, CAUSAL, None)
    here = torch.arange(max(layout.longest, 1), device=device)
    first = torch.zeros((), dtype=torch.int64, device=device)
    answer = pattern(first, first, here[:, None], here[None, :])
    grid = torch.as_tensor(answer, device=device).bool().expand(len(here), len(here))
    left, right = int(grid[-1].sum()) - 1, int(grid[0].sum()) - 1
    distance = here[None, :] - here[:, None]
    if not torch.equal(grid, (distance >= -left) & (distance <= right)):
        return PackedMask(layout, None, grid)
    mask = PackedMask(layout, (left, right), grid)
    band = mask.band_within(layout.longest)
    return PackedMask(layout, band, None if band in (FULL, CAUSAL) else grid)


def bucket_mask(bucket: Bucket, mask: PackedMask) -> tuple[Tensor | None, bool]:
    """The mask of one bucket, ``(allowed [rows or 1, 1, length or 1, length] or None, is_causal)``.

    Padding stands on the right, so a causal pattern hides it from all tokens without any mask.
    """
    band = mask.band_within(bucket.length)
    if band == CAUSAL:
        return None, True
    seen = None if bucket.valid is None else bucket.valid[:, None, None, :]
    if band == FULL:
        return seen, False
    assert mask.grid is not None
    allowed = mask.grid[: bucket.length, : bucket.length]
    if seen is None or bucket.valid is None:
        return allowed[None, None], False
    # A padding slot that may see nothing at all would turn into NaN, and NaN times a gradient of zero is NaN.
    return (allowed & seen) | ~bucket.valid[:, None, :, None], False
