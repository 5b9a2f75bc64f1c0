"""Search among vectors and codes that lie in memory-mapped files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.index.base import StoredIndexError
from lit_metric.index.scores import RunningTop, similarities, top_k
from lit_metric.store import read_array, write_array

_QUERIES = 256
_FIRST = 2048
_BLOCK = 16384
_CODES = 65536
_GATHERED = 1 << 24
"""Components of vectors that are read at once to score candidates."""

Array = NDArray[Any]


def nearest(queries: Tensor, vectors: Array, k: int, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``k`` rows of a matrix with the largest inner products, by exact search, block by block.

    Args:
        queries: ``[q, d]`` float32.
        vectors: ``[n, d]`` float32 or float16, in memory or mapped.
        k: at least 1.
        rows: ``[m]`` int64, rising: search among these rows alone. None: all.

    Returns:
        scores ``[q, k]`` float32, falling, and rows ``[q, k]`` int64; -inf and -1 where there are fewer than
        ``k``. Of equal scores the lower row comes first.

    Example:
        >>> vectors = np.eye(3, dtype=np.float32)
        >>> nearest(torch.tensor([[1.0, 2.0, 3.0]]), vectors, 2, torch.tensor([0, 1]))
        (tensor([[2., 1.]]), tensor([[1, 0]]))
    """
    count = len(vectors) if rows is None else len(rows)
    found = []
    for some in queries.split(_QUERIES):
        top = RunningTop(len(some), k, some.device)
        start, size = 0, _FIRST  # growing blocks, so that few scores of each pass the best of those before
        while start < count:
            part = slice(start, min(start + size, count))
            block = vectors[part] if rows is None else vectors[rows[part].numpy()]
            top.add(similarities(some, torch.from_numpy(block)), start)
            start, size = part.stop, min(part.stop, _BLOCK)
        found.append(top.result())
    scores, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    if rows is not None and count:
        places = rows[places].masked_fill_(places < 0, -1)
    return scores, places


def rescored(queries: Tensor, vectors: Array, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best ``k`` of each query's candidates, by exact inner products.

    Args:
        queries: ``[q, d]`` float32.
        vectors: ``[n, d]`` float32 or float16, in memory or mapped.
        rows: ``[q, c]`` int64 candidates, distinct within a row; -1 for none.
        k: at least 1.

    Returns:
        As from :func:`nearest`.
    """
    scores = torch.full((len(queries), k), -torch.inf)
    best = torch.full((len(queries), k), -1)
    rows = rows.sort(dim=1).values  # of equal scores the one further left is taken
    step = max(1, _GATHERED // max(1, rows.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        read = torch.from_numpy(vectors[rows[some].clamp(min=0).numpy()]).float()  # [s, c, d]
        products = (read * queries[some, None]).sum(dim=2).masked_fill_(rows[some] < 0, -torch.inf)
        values, places = top_k(products, k, empty=True)
        scores[some, : values.shape[1]] = values
        best[some, : values.shape[1]] = rows[some].gather(1, places)
    return scores, best.masked_fill_(scores.isneginf(), -1)


class Codes(ABC):
    """Short codes of vectors, by which candidates are found faster than by the vectors.

    Args:
        dimension: ``d`` of the vectors.
    """

    dtype: type[np.int8] | type[np.uint8]
    """Of the codes."""
    name: str
    """The file of what :meth:`fit` learns, without the suffix."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    @property
    @abstractmethod
    def width(self) -> int:
        """Components of a code."""

    @abstractmethod
    def fit(self, vectors: Array) -> None:
        """Learn from ``vectors [n, d]`` how to write codes."""

    @abstractmethod
    def encode(self, vectors: Array) -> Array:
        """``[n, width]`` codes of ``vectors [n, d]``."""

    @abstractmethod
    def nearest(self, queries: Tensor, codes: Array, count: int) -> Tensor:
        """``[q, min(count, n)]`` int64 rows of ``codes [n, width]`` that are near to ``queries [q, d]``."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what :meth:`fit` learned."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """The reverse of :meth:`save`."""


class Int8Codes(Codes):
    """A signed byte for each component: its place between the lowest and the highest value of the component.

    A query is written in bytes, too, so candidates are compared by sums of integers. A component beyond the
    range of the vectors that were seen by :meth:`fit` gets the nearest end of the range.

    Example:
        >>> codes = Int8Codes(2)
        >>> codes.fit(np.array([[0.0, -1.0], [1.0, 3.0]], dtype=np.float32))
        >>> codes.encode(np.array([[0.0, 3.0], [0.6, -9.0]], dtype=np.float32)).tolist()
        [[-128, 127], [25, -128]]
    """

    dtype = np.int8
    name = "ranges"

    @property
    def width(self) -> int:
        """``d``."""
        return self.dimension

    def fit(self, vectors: Array) -> None:
        """Learn the range of each component."""
        blocks = [vectors[start : start + _CODES] for start in range(0, len(vectors), _CODES)]
        lowest = np.min([block.min(axis=0) for block in blocks], axis=0).astype(np.float32)
        highest = np.max([block.max(axis=0) for block in blocks], axis=0).astype(np.float32)
        self.ranges = np.stack([lowest, highest])

    def encode(self, vectors: Array) -> Array:
        """See :class:`Codes`."""
        lowest, steps = self.ranges[0], self._steps()
        places = (vectors - lowest) / np.where(steps > 0, steps, 1) - 128
        codes: Array = places.round().clip(-128, 127).astype(np.int8)
        return codes

    def nearest(self, queries: Tensor, codes: Array, count: int) -> Tensor:
        """See :class:`Codes`."""
        # The sum of q (lowest + step (code + 128)) is that of (q step) code and a number that all rows share.
        weights = queries * torch.from_numpy(self._steps())
        largest = weights.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        asked = (weights * (127 / largest)).round().to(torch.int8)
        found = []
        for some in asked.split(_QUERIES):
            top = RunningTop(len(some), min(count, len(codes)), some.device)
            for start in range(0, len(codes), _CODES):
                top.add(_products(torch.from_numpy(codes[start : start + _CODES]), some), start)
            found.append(top.result()[1])
        return torch.cat(found)

    def save(self, folder: Path) -> None:
        """See :class:`Codes`."""
        write_array(folder / f"{self.name}.npy", self.ranges)

    def load(self, folder: Path) -> None:
        """See :class:`Codes`."""
        self.ranges = read_array(folder, self.name, np.float32, (2, self.dimension), StoredIndexError)

    def _steps(self) -> Array:
        steps: Array = (self.ranges[1] - self.ranges[0]) / 255
        return steps


def _products(codes: Tensor, queries: Tensor) -> Tensor:
    """``[q, n]`` float32 inner products of int8 ``codes [n, d]`` and ``queries [q, d]``."""
    if hasattr(torch, "_int_mm"):  # several times as fast, where the processor multiplies bytes
        return torch._int_mm(codes, queries.T.contiguous()).T.float().contiguous()
    return queries.float() @ codes.float().T


class BinaryCodes(Codes):
    """A bit for each component: whether it is above its mean. Candidates are those with most bits in common.

    Source of codes with rescoring: BPR (Yamada, Asai and Hajishirzi, ACL 2021).

    Example:
        >>> codes = BinaryCodes(3)
        >>> codes.fit(np.array([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]], dtype=np.float32))
        >>> codes.encode(np.array([[3.0, 0.5, 1.5]], dtype=np.float32)).tolist()  # 1, 0, 1 and five zeros
        [[160]]
    """

    dtype = np.uint8
    name = "means"

    @property
    def width(self) -> int:
        """Bytes of ``d`` bits."""
        return -(-self.dimension // 8)

    def fit(self, vectors: Array) -> None:
        """Learn the mean of each component."""
        sums = [
            vectors[start : start + _CODES].sum(axis=0, dtype=np.float64)
            for start in range(0, len(vectors), _CODES)
        ]
        self.means = (np.sum(sums, axis=0) / len(vectors)).astype(np.float32)

    def encode(self, vectors: Array) -> Array:
        """See :class:`Codes`."""
        return np.packbits(vectors > self.means, axis=1)

    def nearest(self, queries: Tensor, codes: Array, count: int) -> Tensor:
        """See :class:`Codes`."""
        import faiss

        asked = self.encode(queries.numpy())
        _, rows = faiss.knn_hamming(asked, np.ascontiguousarray(codes), min(count, len(codes)))
        return torch.from_numpy(np.asarray(rows, dtype=np.int64))

    def save(self, folder: Path) -> None:
        """See :class:`Codes`."""
        write_array(folder / f"{self.name}.npy", self.means)

    def load(self, folder: Path) -> None:
        """See :class:`Codes`."""
        self.means = read_array(folder, self.name, np.float32, (self.dimension,), StoredIndexError)


CODES: dict[str, type[Codes]] = {"int8": Int8Codes, "binary": BinaryCodes}
"""The kinds of codes."""
