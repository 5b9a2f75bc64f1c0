"""Find pairs among many without a matrix of all possible pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged, offsets_of

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """The last result computed from a tensor, as long as the same tensor is given again, unchanged.

    A miner needs its corpus sorted for each block of anchors; sorting it each time would cost more than the
    search. A copy, or an object that is sent to another process, starts empty.

    Example:
        >>> memo, ids = Memo[Tensor](), torch.tensor([3, 1])
        >>> memo.of(ids, torch.msort) is memo.of(ids, torch.msort)
        True
        >>> memo.of(ids.zero_(), torch.msort)
        tensor([0, 0])
    """

    _last: tuple[Tensor, int, Value] | None = None

    def of(self, tensor: Tensor, compute: Callable[[Tensor], Value]) -> Value:
        """``compute(tensor)``, or its result of last time."""
        if tensor.is_inference():  # has no count of its changes
            return compute(tensor)
        last = self._last
        if last is None or last[0] is not tensor or last[1] != tensor._version:
            last = self._last = tensor, tensor._version, compute(tensor)
        return last[2]

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Sorted(NamedTuple):
    """Ids in ascending order, and the position of each before sorting."""

    values: Tensor
    order: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> Sorted:
        """Sort ``ids [C]``; equal ones keep their order."""
        return cls(*ids.sort(stable=True))


def unique(values: Tensor) -> Tensor:
    """The distinct values of an integer vector, rising.

    On the CPU NumPy sorts, which is several times as fast as torch.

    Example:
        >>> unique(torch.tensor([3, 1, 3]))
        tensor([1, 3])
    """
    if values.device.type != "cpu":
        return values.unique()
    values = values.clone()
    values.numpy().sort()
    new = torch.ones_like(values, dtype=torch.bool)
    new[1:] = values[1:] != values[:-1]
    return values if bool(new.all()) else values[new]


def stable_sort(keys: Tensor, below: int) -> tuple[Tensor, Tensor]:
    """``keys.sort(stable=True)`` of an int64 vector with values in ``0..below - 1``.

    On the CPU NumPy sorts, which is several times as fast: each key together with its place as one number,
    where both fit into 64 bits. Keys that rise already are not sorted.

    Example:
        >>> [part.tolist() for part in stable_sort(torch.tensor([4, 0, 4]), below=5)]
        [[0, 4, 4], [1, 0, 2]]
    """
    if keys.device.type != "cpu":
        values, order = keys.sort(stable=True)
        return values, order
    given, bits = keys.numpy(), len(keys).bit_length()
    if bool((given[1:] >= given[:-1]).all()):
        return keys.clone(), torch.arange(len(keys))
    if below.bit_length() + bits > 64:
        order = torch.from_numpy(np.argsort(given, kind="stable"))
        return keys[order], order
    both = (given.astype(np.uint64) << np.uint64(bits)) | np.arange(len(given), dtype=np.uint64)
    both.sort()
    order = torch.from_numpy((both & np.uint64((1 << bits) - 1)).view(np.int64))
    both >>= np.uint64(bits)
    return torch.from_numpy(both.view(np.int64)), order


def ranks(values: Tensor) -> Tensor:
    """For each value its place among the distinct ones, rising: ``values.unique(return_inverse=True)[1]``.

    Example:
        >>> ranks(torch.tensor([7, 3, 7])).tolist()
        [1, 0, 1]
    """
    if values.device.type != "cpu":
        return values.unique(return_inverse=True)[1]
    order = torch.from_numpy(np.argsort(values.numpy()))
    ordered = values[order]
    new = torch.zeros(len(values), dtype=torch.int64)
    new[1:] = ordered[1:] != ordered[:-1]
    found = torch.empty_like(new)
    found[order] = new.cumsum(0)
    return found


def spread(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The members of the ranges ``starts [n]`` to ``starts + lengths``, range after range.

    Returns:
        The number of the range of each member, and the member.

    Example:
        >>> [part.tolist() for part in spread(torch.tensor([7, 0, 4]), torch.tensor([2, 0, 1]))]
        [[0, 0, 2], [7, 8, 4]]
    """
    ranges = Ragged(torch.empty(int(lengths.sum()), 0, device=lengths.device), offsets_of(lengths))
    owners = ranges.segment_ids
    return owners, starts[owners] + ranges.positions


class PairSet:
    """Pairs (row, column) of numbers below ``size``, as sorted keys ``row * size + column``.

    Args:
        keys: ``[E]`` int64, rising.
        size: the number of possible rows, and of columns; at most 2³¹.

    Example:
        >>> pairs = PairSet.of(torch.tensor([2, 0, 2]), torch.tensor([1, 3, 0]), size=4)
        >>> pairs.contains(torch.tensor([2, 3]), torch.tensor([0, 0]))
        tensor([ True, False])
        >>> pairs.rows(torch.tensor([2, 1])).tolist()
        [[0, 1], []]
    """

    def __init__(self, keys: Tensor, size: int) -> None:
        self.keys = keys
        self.size = size

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, size: int) -> PairSet:
        """The distinct pairs of ``rows [P]`` and ``columns [P]``, given in any order."""
        return cls(unique(rows * size + columns), size)

    def __len__(self) -> int:
        return len(self.keys)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """``[E]`` rows and ``[E]`` columns, by row and then by column."""
        return self.keys // self.size, self.keys % self.size

    def contains(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Whether the pair is there, element by element; shapes are broadcast."""
        keys = rows * self.size + columns
        if not len(self):
            return torch.zeros_like(keys, dtype=torch.bool)
        places = torch.searchsorted(self.keys, keys).clamp_(max=len(self) - 1)
        return self.keys[places] == keys

    def spans(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``[A]`` where the pairs of each of ``rows [A]`` begin within ``keys``, and ``[A]`` their number."""
        if 4 * len(rows) < self.size:
            starts = torch.searchsorted(self.keys, rows * self.size)
            return starts, torch.searchsorted(self.keys, (rows + 1) * self.size) - starts
        # For many rows, counting all pairs takes less time than a search for each row.
        lengths = torch.bincount(self.keys // self.size, minlength=self.size)
        return offsets_of(lengths)[rows], lengths[rows]

    def entries(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """All pairs of ``rows [A]``: positions within ``rows``, and positions within ``keys``."""
        return spread(*self.spans(rows))

    def rows(self, rows: Tensor) -> Ragged:
        """The columns, ascending, of each of ``rows [A]``."""
        starts, lengths = self.spans(rows)
        return Ragged.from_lengths(self.keys[spread(starts, lengths)[1]] % self.size, lengths)

    def join(self, rows: Tensor, columns: Sorted) -> tuple[Tensor, Tensor, Tensor]:
        """All pairs between ``rows [A]`` and the ``[C]`` numbers sorted in ``columns``.

        Needs memory for the pairs of those rows, and for the result.

        Returns:
            Positions within ``rows``, positions within the columns before they were sorted, and positions
            within ``keys``, each ``[found]``; by row, then by the columns' values.
        """
        owners, places = self.entries(rows)
        wanted = self.keys[places] % self.size
        first = torch.searchsorted(columns.values, wanted)
        found, at = spread(first, torch.searchsorted(columns.values, wanted, right=True) - first)
        return owners[found], columns.order[at], places[found]

    def among(self, columns: Tensor) -> PairSet:
        """The pairs of the given ``columns [n]``."""
        wanted = torch.zeros(self.size, dtype=torch.bool, device=columns.device)
        wanted[columns] = True
        return PairSet(self.keys[wanted[self.keys % self.size]], self.size)

    def turned(self, columns: Tensor) -> PairSet:
        """The pairs of the given ``columns [n]``, with rows for columns."""
        keys = self.among(columns).keys
        return PairSet.of(keys % self.size, keys // self.size, self.size)

    def to(self, device: torch.device | str) -> PairSet:
        """A copy on ``device``."""
        return PairSet(self.keys.to(device), self.size)


def in_order_of(columns: Tensor, rows: Tensor, count: int, among: Tensor) -> Ragged:
    """Pairs as rows of ids in the order of ``among [M]``.

    Args:
        columns: ``[E]`` positions within ``among``.
        rows: ``[E]`` row of each, below ``count``.
        count: the number of rows.
    """
    # One sort by a number that holds both.
    keys = (rows * max(len(among), 1) + columns).sort().values
    return Ragged.from_lengths(among[keys % max(len(among), 1)], torch.bincount(rows, minlength=count))
