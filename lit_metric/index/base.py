"""What every index does: keep vectors under ids, search them by similarity, and be saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_metric.store import StoredError, write_folder

Similarity = Literal["cosine", "dot"]
Vectors = Tensor | np.ndarray
LeftOut = Callable[[slice, Tensor, Tensor], Tensor]


class StoredIndexError(StoredError):
    """A saved index is missing, damaged, or of another format."""

    remedy = "build the index and save it anew"


class Index(ABC):
    """Vectors under integer ids, searched by similarity.

    Vectors are added in any number of calls; the dimension is that of the first call.

    Args:
        metric: ``"cosine"`` scales every vector to unit length (a zero vector stays zero, its cosine is 0);
            ``"dot"`` takes vectors as they are.

    Raises:
        ValueError: ``metric`` is neither of the two.
    """

    def __init__(self, metric: Similarity = "cosine") -> None:
        if metric not in ("cosine", "dot"):
            raise ValueError(f"metric is {metric!r}; use 'cosine' or 'dot'")
        self.metric = metric
        self.reset()

    def reset(self) -> None:
        """Forget all vectors, the dimension too; the settings stay."""
        self.dimension: int | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._count = 0
        self._clear()

    def __len__(self) -> int:
        return self._count

    def add(self, vectors: Vectors, ids: Tensor | np.ndarray) -> None:
        """Add ``vectors [n, d]`` (any float dtype) under ``ids [n]`` (integers >= 0, each used once).

        Raises:
            ValueError: shapes disagree with each other or with earlier vectors, a value is NaN or infinite,
                an id is negative. An id used twice is noticed by the next `search`.
        """
        vectors = self._prepare(vectors, "vectors")
        ids = torch.as_tensor(ids)
        if ids.is_floating_point() or ids.shape != vectors.shape[:1]:
            got = f"{ids.dtype} {list(ids.shape)}"
            raise ValueError(f"ids must be {len(vectors)} integers, one for each vector; got {got}")
        if len(ids) and int(ids.min()) < 0:
            raise ValueError(f"ids must be >= 0 (-1 stands for 'no neighbour'); got {int(ids.min())}")
        self.dimension = vectors.shape[1]
        # Copies, since a caller may fill the same buffer anew before the first search.
        kept = vectors.clone() if self.metric == "dot" else vectors
        self._waiting.append((kept, ids.to(vectors.device, torch.int64, copy=True)))
        self._count += len(vectors)

    @property
    def leaves_out(self) -> bool:
        """Whether `search` takes ``left_out``."""
        return False

    @torch.no_grad()
    def search(self, queries: Vectors, k: int, left_out: LeftOut | None = None) -> tuple[Tensor, Tensor]:
        """The ``k`` most similar vectors of each query.

        Args:
            queries: ``[q, d]``, any float dtype.
            k: >= 1; may exceed the number of vectors.
            left_out: which vectors a query must not find, however many they are: asked for a slice of the
                queries' rows, some ids ``[n]`` and the scores ``[rows, n]`` of those, on the vectors' device,
                it gives bool ``[rows, n]``, True where the vector is left out. Asked once about each pair,
                and free to change nothing it is given. None: nothing is left out. Only where `leaves_out`
                says so.

        Returns:
            scores: ``[q, k]`` float32, falling, on the queries' device; ``-inf`` where there are fewer than
                ``k`` vectors that are not left out.
            ids: ``[q, k]`` int64, ``-1`` in the same places. Of equal scores the lower id comes first.

        Raises:
            ValueError: ``k`` is below 1, the dimension is not that of the index, a query holds NaN, an id was
                added twice.
            TypeError: ``left_out`` is given to an index that can't leave out anything.
        """
        if left_out is not None and not self.leaves_out:
            raise TypeError(
                f"{type(self).__name__} can't leave out pairs while it searches: search for more neighbours "
                "and drop those, or use ExactIndex"
            )
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries = self._prepare(queries, "queries")
        scores = queries.new_full((len(queries), k), -torch.inf)
        ids = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
        if len(self) == 0 or len(queries) == 0:
            return scores, ids
        self._settle()
        width = min(k, len(self))
        found_scores, found_ids = (
            self._search(queries, width)
            if left_out is None
            else self._search_without(queries, width, left_out)
        )
        scores[:, :width] = found_scores.to(scores.device)
        ids[:, :width] = found_ids.to(ids.device)
        return scores, ids

    def save(self, folder: str | Path) -> None:
        """Write a folder that :func:`~lit_metric.index.load_index` reads: all of it, or nothing.

        Args:
            folder: must not exist yet, or be empty.

        Raises:
            ValueError: the index holds no vectors.
            FileExistsError: there is something in ``folder`` already.
        """
        if not len(self):
            raise ValueError("the index holds no vectors yet: add some, then save it")
        self._settle()
        about = {"kind": type(self).__name__, "count": len(self), "dimension": self.dimension}
        write_folder(Path(folder), self._write, {**about, "settings": self._settings()})

    def _settle(self) -> None:
        """Build in what was added and still waits."""
        if self._waiting:
            self._build(self._waiting)

    def _restore(self, folder: Path, count: int, dimension: int, memory_map: bool) -> None:
        """Take over what `_write` wrote, after its digests were compared.

        Raises:
            StoredIndexError: it isn't an index of ``count`` vectors of ``dimension`` components.
        """
        self.reset()
        self._read(folder, (count, dimension), memory_map)
        self._count, self.dimension = count, dimension

    def _prepare(self, vectors: Vectors, name: str) -> Tensor:
        if isinstance(vectors, np.ndarray):
            vectors = torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))
        vectors = vectors.detach().to(torch.float32)
        if vectors.ndim != 2:
            raise ValueError(f"{name} must be [n, dimension], got {list(vectors.shape)}")
        if self.dimension is not None and vectors.shape[1] != self.dimension:
            raise ValueError(f"{name} have dimension {vectors.shape[1]}, the index has {self.dimension}")
        finite = vectors.isfinite().all(dim=1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise ValueError(f"row {row} of {name} holds NaN or infinity, which has no neighbours")
        return F.normalize(vectors, dim=1) if self.metric == "cosine" else vectors

    @abstractmethod
    def _clear(self) -> None:
        """Drop what `_build` made."""

    @abstractmethod
    def _build(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        """Take in prepared ``vectors [n, d]`` and ``ids [n]`` of each part; may be called again with more.

        Once nothing can fail any more, parts are taken out of the list one by one, so that never all of the
        vectors are held twice.
        """

    @abstractmethod
    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Prepared ``queries [q, d]`` with ``k <= len(self)``, to scores and ids ``[q, k]``."""

    def _search_without(self, queries: Tensor, k: int, left_out: LeftOut) -> tuple[Tensor, Tensor]:
        """`_search` of an index that `leaves_out` pairs, with -1 and -inf where there are too few others."""
        raise NotImplementedError

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The arguments of ``__init__`` that say what the index is, not where and by how many it is
        searched."""

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write what `_build` made."""

    @abstractmethod
    def _read(self, folder: Path, shape: tuple[int, int], memory_map: bool) -> None:
        """The reverse of `_write`, for vectors of ``shape [n, d]``."""


def refuse_duplicates(sorted_ids: Tensor) -> None:
    twice = sorted_ids[1:] == sorted_ids[:-1]
    if bool(twice.any()):
        raise ValueError(f"id {int(sorted_ids[1:][twice][0])} was added twice; ids must be unique")
