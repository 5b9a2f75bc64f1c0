"""Rows of unequal length, laid end to end, with the offsets where each begins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


# Not frozen: for true half and double precision Lightning puts converted fields into a copy.
@dataclass(eq=False)
class Ragged:
    """A list of rows without padding.

    Args:
        values: ``[total, ...]``, the rows laid end to end.
        offsets: ``[n + 1]`` int64, row ``i`` is ``values[offsets[i]:offsets[i + 1]]``; the first is 0 and the
            last is ``total``.

    Example:
        >>> rows = Ragged.from_lists([[5, 6], [], [7]])
        >>> rows.lengths.tolist(), rows[2].tolist()
        ([2, 0, 1], [7])
        >>> rows.select(torch.tensor([2, 0])).tolist()
        [[7], [5, 6]]
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]], dtype: torch.dtype = torch.int64) -> Ragged:
        """Build from Python lists; an empty list is an empty row."""
        rows = list(rows)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return cls(torch.tensor([value for row in rows for value in row], dtype=dtype), offsets_of(lengths))

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Ragged:
        """Cut ``values [total, ...]`` into rows of the given ``lengths [n]``."""
        return cls(values, offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Tensor:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Tensor:
        """``[n]`` int64."""
        return self.offsets.diff()

    @property
    def segment_ids(self) -> Tensor:
        """``[total]`` int64, the row that each value belongs to."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return rows.repeat_interleave(self.lengths, output_size=len(self.values))

    @property
    def positions(self) -> Tensor:
        """``[total]`` int64, each value's place within its row, counted from 0."""
        starts = self.offsets[:-1].repeat_interleave(self.lengths, output_size=len(self.values))
        return torch.arange(len(self.values), device=self.offsets.device) - starts

    def select(self, rows: Tensor) -> Ragged:
        """The rows numbered ``rows [m]``, in that order; a row may be named more than once."""
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        total = int(offsets[-1])
        shift = (self.offsets[rows] - offsets[:-1]).repeat_interleave(lengths, output_size=total)
        return Ragged(self.values[torch.arange(total, device=self.offsets.device) + shift], offsets)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Ragged:
        """A copy on ``device``."""
        return Ragged(
            self.values.to(device, non_blocking=non_blocking),
            self.offsets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Ragged:
        """A copy in page-locked memory, for asynchronous transfers."""
        return Ragged(self.values.pin_memory(), self.offsets.pin_memory())

    def tolist(self) -> list[list[int]]:
        """The rows as Python lists."""
        values, offsets = self.values.tolist(), self.offsets.tolist()
        return [values[start:stop] for start, stop in itertools.pairwise(offsets)]


@dataclass(frozen=True, eq=False)
class EncoderInput:
    """What an encoder takes: distinct texts, and the items that are made of them.

    Args:
        tokens: ``[U]`` rows, the token ids of the distinct texts.
        items: ``[I]`` rows of positions into the ``U`` texts.
        text_ids: ``[U]`` int64 vocabulary ids of the texts. With them, a frozen text tower looks up the texts
            that it has encoded before.
        weights: float32 > 0, how much each of ``items.values`` counts in its item. None: all count the same.
        skip: ``[U]`` int64, how many leading tokens of each text poolings don't see. None: they see all.
        roles: ``[I]`` int64, the role of each item; 0 is that of queries. None: items have no roles.

    Example:
        >>> inputs = EncoderInput.of_texts(Ragged.from_lists([[5, 6], [7]]))
        >>> inputs.items.tolist()
        [[0], [1]]
    """

    tokens: Ragged
    items: Ragged
    text_ids: Tensor | None = None
    weights: Tensor | None = None
    skip: Tensor | None = None
    roles: Tensor | None = None

    @classmethod
    def of_texts(
        cls, tokens: Ragged, text_ids: Tensor | None = None, skip: Tensor | None = None
    ) -> EncoderInput:
        """Each text is an item."""
        every = torch.arange(len(tokens) + 1, device=tokens.offsets.device)
        return cls(tokens, Ragged(every[:-1], every), text_ids, skip=skip)

    def select(self, rows: Tensor) -> EncoderInput:
        """The items numbered ``rows [m]``, and of the texts only theirs."""
        items = self.items.select(rows)
        texts, members = items.values.unique(return_inverse=True)
        weights = self.weights
        return EncoderInput(
            self.tokens.select(texts),
            Ragged(members, items.offsets),
            None if self.text_ids is None else self.text_ids[texts],
            None if weights is None else Ragged(weights, self.items.offsets).select(rows).values,
            None if self.skip is None else self.skip[texts],
            None if self.roles is None else self.roles[rows],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EncoderInput:
        """A copy on ``device``."""
        given = {name: part for name, part in vars(self).items() if part is not None}
        return EncoderInput(
            **{name: part.to(device, non_blocking=non_blocking) for name, part in given.items()}
        )


def offsets_of(lengths: Tensor) -> Tensor:
    """``[n]`` lengths to ``[n + 1]`` int64 offsets.

    Example:
        >>> offsets_of(torch.tensor([2, 0, 1])).tolist()
        [0, 2, 2, 3]
    """
    zero = torch.zeros(1, dtype=torch.int64, device=lengths.device)
    return torch.cat([zero, lengths.to(torch.int64).cumsum(0)])
