"""The largest of each row, out of scores that come block by block."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lit_metric.index.products import top_k

_MANY = 16
_WAITING = 4


class RunningTop:
    """The ``k`` largest of each row so far.

    Once ``k`` are known, hardly any score of a further block is among them, so those that aren't are told by
    one comparison and never sorted. What passes waits until there is enough of it.

    Args:
        rows: how many.
        k: >= 1.
        device: where the scores will be.

    Example:
        >>> top = RunningTop(1, k=2, device=torch.device("cpu"))
        >>> top.take(torch.tensor([[0.5, 0.1]]), start=0)
        >>> top.take(torch.tensor([[0.5, 0.9]]), start=2, out=torch.tensor([[False, True]]))
        >>> top.result()[1]
        tensor([[0, 2]])
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self._k = k
        self._values = torch.full((rows, k), -torch.inf, dtype=torch.float32, device=device)
        self._places = torch.full((rows, k), -1, dtype=torch.int64, device=device)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._width = 0

    def take(self, scores: Tensor, start: int, out: Tensor | None = None) -> None:
        """Look at one more block.

        Args:
            scores: ``[rows, n]`` float32 without NaN; changed in place.
            start: the place of its first column, beyond all before.
            out: bool ``[rows, n]``, those that don't count.
        """
        cpu = scores.device.type == "cpu"
        # An equal score further right is not among them, so it need not pass.
        if cpu and self._take_few(_but(scores > self._values[:, -1:], out), scores, start):
            return
        if out is not None:
            scores.masked_fill_(out, -torch.inf)
        if cpu and self._take_few(scores >= self._floor(scores), scores, start):
            return
        values, places = top_k(scores, self._k, empty=True)
        self._wait(values, places + start)

    def _take_few(self, passing: Tensor, scores: Tensor, start: int) -> bool:
        """Take those that pass, unless to sort all is no more work."""
        found = np.flatnonzero(passing.numpy())
        if few := len(found) <= scores.numel() // _MANY:
            self._wait(*_side_by_side(scores, found, start))
        return few

    def _floor(self, scores: Tensor) -> Tensor:
        """``[rows, 1]`` that ``k`` of each row reach: the least of the best of ``k`` groups of columns."""
        n = scores.shape[1]
        members = 1 << max(n // (4 * self._k), 1).bit_length() - 1
        if members < 2 or n % members:
            return scores.new_full((len(scores), 1), -torch.inf)
        largest = scores.view(len(scores), members, -1).amax(1)
        return largest.topk(self._k, dim=1).values[:, -1:]

    def result(self) -> tuple[Tensor, Tensor]:
        """Values ``[rows, k]``, falling, and places ``[rows, k]`` int64; -inf and -1 where there are fewer.
        Of equal scores the one further left comes first."""
        self._merge()
        return self._values, self._places.masked_fill(self._values.isneginf(), -1)

    def _wait(self, values: Tensor, places: Tensor) -> None:
        self._waiting.append((values, places))
        self._width += values.shape[1]
        if self._width >= _WAITING * self._k or bool(self._values[:, -1].isneginf().any()):
            self._merge()

    def _merge(self) -> None:
        if not self._waiting:
            return
        values, places = (
            torch.cat(parts, dim=1)
            for parts in zip((self._values, self._places), *self._waiting, strict=True)
        )
        # What came first stands further left, and so comes first among equals.
        self._values, where = top_k(values, self._k, empty=True)
        self._places = places.gather(1, where)
        self._waiting, self._width = [], 0


def _but(some: Tensor, out: Tensor | None) -> Tensor:
    # A bool's `& ~` takes many times as long.
    return some if out is None else some > out


def _side_by_side(scores: Tensor, found: np.ndarray, start: int) -> tuple[Tensor, Tensor]:
    """The scores at ``found`` (places in ``scores [rows, n]``, rising) and their columns, beginning at
    ``start``, moved to the left of each row: ``[rows, w]`` each, with -inf and -1 beyond the last."""
    count, n = scores.shape
    rows = found // n
    lengths = np.bincount(rows, minlength=count)
    width = int(lengths.max(initial=0))
    to = rows * width + np.arange(len(found)) - (lengths.cumsum() - lengths)[rows]
    values = np.full(count * width, -np.inf, dtype=np.float32)
    places = np.full(count * width, -1)
    values[to], places[to] = scores.numpy().reshape(-1)[found], found - rows * n + start
    return torch.from_numpy(values).view(count, width), torch.from_numpy(places).view(count, width)
