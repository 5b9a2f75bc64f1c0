"""Comparing gradients of two ways to the same values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def assert_equal_with_gradients(found: Tensor, expected: Tensor, inputs: Sequence[Tensor]) -> None:
    """Both values agree, and so do their gradients with respect to ``inputs``, for random weights of them."""
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for mine, reference in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference)
