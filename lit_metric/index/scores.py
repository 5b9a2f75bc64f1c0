"""Scores in full precision, and the largest of each row with ties decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_MANY = 16
_WAITING = 4


def padded(vectors: Tensor) -> Tensor:
    """``vectors [n, d]`` with rows of zeros up to the next multiple of 16.

    BLAS computes the rest at the edge of a matrix with other kernels, which add in another order. Without
    padding two equal vectors, or one vector in two blocks, would differ in the last bit, and ties would
    depend on it.
    """
    return F.pad(vectors, (0, 0, 0, -len(vectors) % 16)) if len(vectors) % 16 else vectors


def similarities(queries: Tensor, vectors: Tensor) -> Tensor:
    """``queries [q, d]`` times ``vectors [n, d]``, to ``[q, n]``, in full float32.

    Autocast and settings that allow TensorFloat-32 have no effect, since they would reorder close neighbours.
    Equal vectors get equal scores, wherever they stand.
    """
    with torch.autocast(queries.device.type, enabled=False), _full_float32(queries.device):
        product = padded(queries.float()) @ padded(vectors.float()).T
    return product[: len(queries), : len(vectors)]


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


@torch.no_grad()
def top_k(scores: Tensor, k: int, empty: bool = False) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row; of equal scores the one further left, which `torch.topk` leaves open.

    Args:
        scores: ``[q, n]`` float32 without NaN, ``n < 2**31``.
        k: >= 1; at most ``n`` are returned.
        empty: whether -inf stands for no item, so that the order of such places is left open.

    Returns:
        values ``[q, min(k, n)]``, falling, and positions ``[q, min(k, n)]`` int64.

    Example:
        >>> values, positions = top_k(torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0]]), k=3)
        >>> values.tolist(), positions.tolist()
        ([[3.0, 3.0, 1.0]], [[1, 3, 0]])
    """
    n = scores.shape[1]
    k = min(k, n)
    # One more than needed shows a tie across the edge.
    values, positions = scores.topk(min(k + 1, n), dim=1)
    same = values[:, 1:] == values[:, :-1]
    tied = (same.logical_and_(values[:, 1:] > -torch.inf) if empty else same).any(dim=1)
    values, positions = values[:, :k], positions[:, :k]
    if bool(tied.any()):
        rows = tied.nonzero().squeeze(1)
        # Int64 keys that sort like the scores and, where these are equal, like falling positions. Adding zero
        # turns -0.0 into 0.0. Read as integers, negative floats sort backwards: flip them.
        bits = (scores[rows] + 0.0).view(torch.int32)
        bits ^= (bits >> 31) & 0x7FFFFFFF
        keys = (bits.long() << 32) | torch.arange(n - 1, -1, -1, device=scores.device)
        where = keys.topk(k, dim=1).indices
        values, positions = values.clone(), positions.clone()
        values[rows], positions[rows] = scores[rows].gather(1, where), where
    return values, positions


class RunningTop:
    """The ``k`` largest scores of each row, out of blocks of columns that come one after another.

    Once ``k`` are known, hardly any score of a further block is among them. One comparison finds these few,
    and the others are never sorted. The few are merged only when there are enough of them.

    Args:
        rows: number of rows.
        k: >= 1.
        device: the device of the scores.

    Example:
        >>> top = RunningTop(1, k=2, device=torch.device("cpu"))
        >>> top.add(torch.tensor([[0.5, 0.1]]), start=0)
        >>> top.add(torch.tensor([[0.5, 0.9]]), start=2, excluded=torch.tensor([[False, True]]))
        >>> top.result()[1]
        tensor([[0, 2]])
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self._k = k
        self._values = torch.full((rows, k), -torch.inf, dtype=torch.float32, device=device)
        self._columns = torch.full((rows, k), -1, dtype=torch.int64, device=device)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._width = 0

    def add(self, scores: Tensor, start: int, excluded: Tensor | None = None) -> None:
        """Add one more block.

        Args:
            scores: ``[rows, n]`` float32 without NaN; changed in place.
            start: the number of its first column, above those of all blocks before.
            excluded: bool ``[rows, n]``, scores that don't count.
        """
        cpu = scores.device.type == "cpu"
        if cpu:
            # An equal score further right is not among the largest, so it need not pass.
            passing = scores > self._values[:, -1:]
            # A bool's `& ~` takes many times as long as `>`.
            if self._add_few(passing if excluded is None else passing > excluded, scores, start):
                return
        if excluded is not None:
            scores.masked_fill_(excluded, -torch.inf)
        if cpu and self._add_few(scores >= self._floor(scores), scores, start):
            return
        values, columns = top_k(scores, self._k, empty=True)
        self._wait(values, columns + start)

    def _add_few(self, passing: Tensor, scores: Tensor, start: int) -> bool:
        """Add the passing scores, unless sorting the whole block is as cheap."""
        found = np.flatnonzero(passing.numpy())
        if len(found) > scores.numel() // _MANY:
            return False
        # Move them to the left of each row, with -inf and -1 beyond the last.
        count, n = scores.shape
        rows = found // n
        lengths = np.bincount(rows, minlength=count)
        width = int(lengths.max(initial=0))
        to = rows * width + np.arange(len(found)) - (lengths.cumsum() - lengths)[rows]
        values = np.full(count * width, -np.inf, dtype=np.float32)
        columns = np.full(count * width, -1)
        values[to], columns[to] = scores.numpy().reshape(-1)[found], found - rows * n + start
        self._wait(*(torch.from_numpy(array).view(count, width) for array in (values, columns)))
        return True

    def _floor(self, scores: Tensor) -> Tensor:
        """``[rows, 1]``, a score that at least ``k`` of each row reach: the lowest of the best of ``k``
        groups of columns."""
        n = scores.shape[1]
        members = 1 << max(n // (4 * self._k), 1).bit_length() - 1
        if members < 2 or n % members:
            return scores.new_full((len(scores), 1), -torch.inf)
        largest = scores.view(len(scores), members, -1).amax(1)
        return largest.topk(self._k, dim=1).values[:, -1:]

    def _wait(self, values: Tensor, columns: Tensor) -> None:
        self._waiting.append((values, columns))
        self._width += values.shape[1]
        if self._width >= _WAITING * self._k or bool(self._values[:, -1].isneginf().any()):
            self._merge()

    def _merge(self) -> None:
        if not self._waiting:
            return
        values, columns = (
            torch.cat(parts, dim=1)
            for parts in zip((self._values, self._columns), *self._waiting, strict=True)
        )
        # Earlier columns stand further left, so they come first among equals.
        self._values, where = top_k(values, self._k, empty=True)
        self._columns = columns.gather(1, where)
        self._waiting, self._width = [], 0

    def result(self) -> tuple[Tensor, Tensor]:
        """Values ``[rows, k]``, falling, and columns ``[rows, k]`` int64; -inf and -1 where there are fewer.

        Of equal scores the lower column comes first.
        """
        self._merge()
        return self._values, self._columns.masked_fill(self._values.isneginf(), -1)
