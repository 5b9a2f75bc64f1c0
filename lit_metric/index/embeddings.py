"""Vectors under global item ids, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lit_metric.index.base import Similarity

_PAIRS = 65536


class Embeddings:
    """One vector for each of ``N`` items, found by the item's global id.

    Vectors become float32 when they are read, so a memory-mapped matrix stays on the disk.

    Args:
        ids: ``[N]`` distinct integers, in any order.
        values: ``[N, d]`` tensor on any device, or array, of any floating-point type.
        similarity: ``"cosine"`` scales each vector that is read to unit length; ``"dot"`` leaves it as it is.
        rows: ``[N]`` the row of ``values`` for each id; None: the ids stand in the order of the rows.

    Raises:
        ValueError: if there is not one vector for each id or an id occurs twice. Reading a vector that is not
            finite raises it, too.
        KeyError: by methods that take ids, for an item without a vector.

    Example:
        >>> embeddings = Embeddings(torch.tensor([5, 3]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]), "cosine")
        >>> embeddings.of(torch.tensor([3, 5])).tolist()
        [[1.0, 0.0], [0.6..., 0.8...]]
        >>> embeddings.rows(torch.tensor([3])).tolist()
        [1]
    """

    def __init__(
        self,
        ids: Tensor,
        values: Tensor | NDArray[Any],
        similarity: Similarity = "dot",
        rows: Tensor | None = None,
    ) -> None:
        ids = torch.as_tensor(ids).cpu().long()
        if values.ndim != 2 or ids.ndim != 1 or len(ids) != len(values if rows is None else rows):
            raise ValueError(
                f"vectors of shape {list(values.shape)} for ids of shape {list(ids.shape)}: give a matrix "
                "with one row for each id"
            )
        self.ids = ids
        self.values = values
        self.similarity: Similarity = similarity
        self._value_rows = rows
        self._sorted = ids
        self._order: Tensor | None = None
        if bool((ids.diff() <= 0).any()):
            self._sorted, self._order = ids.sort()
            if len(twice := self._sorted[1:][self._sorted.diff() == 0]):
                raise ValueError(f"{len(twice)} of {len(ids)} ids occur twice, the first is {int(twice[0])}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        """``d``."""
        return int(self.values.shape[1])

    def rows(self, ids: Tensor | NDArray[Any]) -> Tensor:
        """``[n]`` the positions of the items ``ids [n]`` within :attr:`ids`."""
        wanted = torch.as_tensor(ids).cpu()
        rows = torch.searchsorted(self._sorted, wanted).clamp_(max=max(0, len(self) - 1))
        known = self._sorted[rows] == wanted if len(self) else torch.zeros(len(wanted), dtype=torch.bool)
        if not bool(known.all()):
            missing = wanted[~known]
            raise KeyError(
                f"{len(missing)} of the {wanted.numel()} requested items have no vector, the first is item "
                f"{int(missing[0])}; there are vectors of {len(self)} items"
            )
        return rows if self._order is None else self._order[rows]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """``[n, d]`` float32, the vectors at the positions ``rows [n]``, on the device of the values."""
        read = rows if self._value_rows is None else self._value_rows[rows]
        if isinstance(self.values, Tensor):
            block = self.values.detach()[read.to(self.values.device)].float()
        else:
            # torch converts half precision several times faster than numpy.
            block = torch.from_numpy(self.values[read.numpy()]).float()
        finite = block.isfinite().all(dim=1)
        if not finite.all():
            bad = self.ids[rows][~finite.cpu()]
            raise ValueError(
                f"{len(bad)} embeddings are not finite, the first is that of item {int(bad[0])}: training "
                "has diverged, or the encoder overflows in half precision"
            )
        return F.normalize(block, dim=1) if self.similarity == "cosine" else block

    def of(self, ids: Tensor | NDArray[Any]) -> Tensor:
        """``[n, d]`` float32 vectors of the items ``ids [n]``, in their order."""
        return self[self.rows(ids)]

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All items in order as pairs ``(ids [b], vectors [b, d])`` of at most ``size`` items."""
        for rows in torch.arange(len(self)).split(size):
            yield self.ids[rows], self[rows]

    def pair_scores(self, firsts: Tensor, seconds: Tensor) -> Tensor:
        """``[P]`` float32 similarities of the items ``firsts [P]`` with the items ``seconds [P]``."""
        pairs = zip(self.rows(firsts).split(_PAIRS), self.rows(seconds).split(_PAIRS), strict=True)
        return torch.cat([torch.empty(0), *((self[one] * self[other]).sum(dim=1) for one, other in pairs)])

    def subset(self, ids: Tensor) -> Embeddings:
        """The items ``ids`` alone, in the order of :attr:`ids`. Nothing is copied."""
        return self._selected(self.rows(ids).unique())

    def part(self, start: int, stop: int) -> Embeddings:
        """The items with ids from ``start`` to ``stop - 1``, renumbered from 0. Nothing is copied."""
        return self._selected(((self.ids >= start) & (self.ids < stop)).nonzero()[:, 0], start)

    def by(self, similarity: Similarity) -> Embeddings:
        """The same vectors for another similarity. Nothing is copied."""
        return Embeddings(self.ids, self.values, similarity, self._value_rows)

    def _selected(self, rows: Tensor, first: int = 0) -> Embeddings:
        read = rows if self._value_rows is None else self._value_rows[rows]
        return Embeddings(self.ids[rows] - first, self.values, self.similarity, read)
