"""Matrix products in full precision, and the largest of each row with ties decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def top_k(scores: Tensor, k: int, empty: bool = False) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row; of equal scores the one further left, which `torch.topk` leaves open.

    Args:
        scores: ``[q, n]`` float32 without NaN, ``n < 2**31``.
        k: >= 1; at most ``n`` are returned.
        empty: whether -inf stands for nothing, so that it is left open which places with it come last.

    Returns:
        values ``[q, min(k, n)]``, falling, and positions ``[q, min(k, n)]`` int64.

    Example:
        >>> values, positions = top_k(torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0]]), k=3)
        >>> values.tolist(), positions.tolist()
        ([[3.0, 3.0, 1.0]], [[1, 3, 0]])
    """
    n = scores.shape[1]
    k = min(k, n)
    # One more than asked for shows a tie across the edge.
    values, positions = scores.topk(min(k + 1, n), dim=1)
    same = values[:, 1:] == values[:, :-1]
    tied = (same.logical_and_(values[:, 1:] > -torch.inf) if empty else same).any(dim=1)
    values, positions = values[:, :k], positions[:, :k]
    if bool(tied.any()):
        rows = tied.nonzero().squeeze(1)
        where = _unique_keys(scores[rows]).topk(k, dim=1).indices
        values, positions = values.clone(), positions.clone()
        values[rows], positions[rows] = scores[rows].gather(1, where), where
    return values, positions


def similarities(queries: Tensor, vectors: Tensor) -> Tensor:
    """``queries [q, d]`` times ``vectors [n, d]``, to ``[q, n]``, in full float32.

    Neither an autocast region around it nor a setting that allows TensorFloat-32 has a say: either would
    reorder close neighbours. Equal vectors get equal scores, wherever they stand.
    """
    with torch.autocast(queries.device.type, enabled=False), _full_float32(queries.device):
        product = padded(queries.float()) @ padded(vectors.float()).T
    return product[: len(queries), : len(vectors)]


def padded(vectors: Tensor) -> Tensor:
    """``vectors [n, d]`` with rows of zeros up to the next multiple of 16.

    BLAS computes what is left over at the edge of a matrix by other kernels, which add in another order: two
    equal vectors, or one vector in two blocks, would differ in the last bit, and ties would be decided by it.
    """
    return F.pad(vectors, (0, 0, 0, -len(vectors) % 16)) if len(vectors) % 16 else vectors


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    setting: Any = getattr(backend, "matmul", None)
    change: Callable[[str], None]
    if hasattr(setting, "fp32_precision"):
        change, full, before = partial(setattr, setting, "fp32_precision"), "ieee", setting.fp32_precision
    else:  # PyTorch before 2.9 has one setting for all backends.
        change, full = torch.set_float32_matmul_precision, "highest"
        before = torch.get_float32_matmul_precision()
    change(full)
    try:
        yield
    finally:
        change(before)


def _unique_keys(scores: Tensor) -> Tensor:
    """Int64 keys that sort like ``scores [q, n]`` and, where these are equal, like falling positions."""
    # Adding zero turns -0.0 into 0.0. Read as integers, negative floats sort backwards: flip them.
    bits = (scores + 0.0).view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return (bits.long() << 32) | torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
