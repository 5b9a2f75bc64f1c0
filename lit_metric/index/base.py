"""The base of all indexes: vectors under ids, searched by similarity, saved and loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_metric.store import MANIFEST, StoredError, read_manifest, write_folder

Similarity = Literal["cosine", "dot"]
Vectors = Tensor | np.ndarray
Exclude = Callable[[slice, Tensor, Tensor], Tensor]


class StoredIndexError(StoredError):
    """A saved index is missing, damaged, or of another format."""

    remedy = "build the index and save it again"


class Index(ABC):
    """Vectors under integer ids, searched by similarity.

    Vectors are added in any number of calls; the dimension is that of the first call.

    Args:
        similarity: ``"cosine"`` scales every vector to unit length (a zero vector stays zero, its cosine is
            0); ``"dot"`` takes vectors as they are.

    Raises:
        ValueError: ``similarity`` is neither of the two.
    """

    excludes = False
    """Whether `search` takes ``exclude``."""

    def __init__(self, similarity: Similarity = "cosine") -> None:
        if similarity not in ("cosine", "dot"):
            raise ValueError(f"similarity is {similarity!r}; use 'cosine' or 'dot'")
        self.similarity = similarity
        self.reset()

    def reset(self) -> None:
        """Forget all vectors and their dimension; the settings stay."""
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
        # Copies, since a caller may fill the same buffer again before the first search.
        kept = vectors.clone() if self.similarity == "dot" else vectors
        self._waiting.append((kept, ids.to(vectors.device, torch.int64, copy=True)))
        self._count += len(vectors)

    @torch.no_grad()
    def search(self, queries: Vectors, k: int, exclude: Exclude | None = None) -> tuple[Tensor, Tensor]:
        """Find the ``k`` most similar vectors of each query.

        Args:
            queries: ``[q, d]``, any float dtype.
            k: >= 1; may exceed the number of vectors.
            exclude: a function that says which vectors a query must not find. It gets a slice of the queries'
                rows, some ids ``[n]`` and their scores ``[rows, n]``, on the vectors' device, and returns
                bool ``[rows, n]``, True where the vector is excluded. It is called once for each pair and
                must not change its arguments. None excludes nothing. Only for an index that `excludes`.

        Returns:
            scores: ``[q, k]`` float32, falling, on the queries' device; ``-inf`` where fewer than ``k``
                vectors are left.
            ids: ``[q, k]`` int64, ``-1`` in the same places. Of equal scores the lower id comes first.

        Raises:
            ValueError: ``k`` is below 1, the dimension is not that of the index, a query holds NaN, an id was
                added twice.
            TypeError: ``exclude`` is given to an index that can't exclude.
        """
        if exclude is not None and not self.excludes:
            raise TypeError(
                f"{type(self).__name__} can't exclude pairs while it searches: search for more neighbours "
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
        found_scores, found_ids = self._search(queries, width, exclude)
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
        size = {"count": len(self), "dimension": self.dimension}
        write_folder(Path(folder), self._write, {**size, **self._described()})

    def _described(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, "settings": self._settings()}

    def _settle(self) -> None:
        """Add the vectors that still wait to the index."""
        if self._waiting:
            self._build(self._waiting)

    def _restore(self, folder: Path, count: int, dimension: int, memory_map: bool) -> None:
        """Read what `_write` wrote.

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
        return F.normalize(vectors, dim=1) if self.similarity == "cosine" else vectors

    @staticmethod
    def _refuse_duplicates(ids: Tensor) -> None:
        """Raise ``ValueError`` if one of the rising ``ids [n]`` is there twice."""
        twice = ids[1:] == ids[:-1]
        if bool(twice.any()):
            raise ValueError(f"id {int(ids[1:][twice][0])} was added twice; ids must be unique")

    @abstractmethod
    def _clear(self) -> None:
        """Drop what `_build` made."""

    @abstractmethod
    def _build(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        """Add the prepared ``vectors [n, d]`` and ``ids [n]`` of each part; may be called again with more.

        Once nothing can fail any more, parts are taken out of the list one by one, so that never all of the
        vectors are held twice.
        """

    @abstractmethod
    def _search(self, queries: Tensor, k: int, exclude: Exclude | None) -> tuple[Tensor, Tensor]:
        """Scores and ids ``[q, k]`` of prepared ``queries [q, d]``, with ``k <= len(self)``; -inf and -1
        where too few vectors are left. ``exclude`` is None for an index that can't exclude."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The arguments of ``__init__`` that say what the index is, not on what hardware it is searched."""

    @classmethod
    def _from_settings(
        cls, settings: dict[str, Any], threads: int | None, device: str | torch.device | None
    ) -> Index:
        """The reverse of `_settings`: an index without vectors."""
        arguments = settings if device is None else {**settings, "device": device}
        return cls(**arguments, threads=threads)  # type: ignore[call-arg]

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write what `_build` made."""

    @abstractmethod
    def _read(self, folder: Path, shape: tuple[int, int], memory_map: bool) -> None:
        """The reverse of `_write`, for vectors of ``shape [n, d]``."""


def load_index(
    folder: str | Path,
    memory_map: bool = True,
    verify: bool = True,
    threads: int | None = None,
    device: str | torch.device | None = None,
) -> Index:
    """Read what :meth:`Index.save` wrote. The index answers as the saved one did.

    Args:
        folder: as given to ``save``.
        memory_map: leave the vectors on the disk, where several processes share them, as far as the kind
            allows: all of an exact index; of FAISS the lists of IVF cells, else the arrays of the index. A
            mapped FAISS index takes no more vectors. A mapped exact index does, and then holds all of its
            vectors in memory.
        verify: compare the sha256 of each file, which reads all of them once.
        threads: as in :class:`ExactIndex` and :class:`FaissIndex`.
        device: where an exact index is searched; the CPU by default. Elsewhere nothing is mapped.

    Raises:
        StoredIndexError: there is no index, one of another format, or a damaged one; names the file.
        ValueError: a device is given for a FAISS index.

    Example:
        >>> import tempfile
        >>> from lit_metric.index import ExactIndex
        >>> index = ExactIndex(similarity="dot")
        >>> index.add(torch.eye(2), torch.tensor([7, 3]))
        >>> folder = Path(tempfile.mkdtemp()) / "index"
        >>> index.save(folder)
        >>> load_index(folder).search(torch.tensor([[0.0, 2.0]]), k=1)[1].tolist()
        [[3]]
    """
    folder = Path(folder)
    manifest = read_manifest(folder, StoredIndexError, verify=verify)
    try:
        described = {"kind": str(manifest["kind"]), "settings": dict(manifest["settings"])}
        shape = int(manifest["count"]), int(manifest["dimension"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoredIndexError(
            f"{folder / MANIFEST} is damaged ({error!r}); {StoredIndexError.remedy}"
        ) from error
    try:
        index = index_from(described, threads, device)
    except (TypeError, KeyError) as error:
        raise StoredIndexError(
            f"{folder} has settings of another version ({error}); {StoredIndexError.remedy}"
        ) from error
    index._restore(folder, *shape, memory_map)
    return index


def index_from(described: dict[str, Any], threads: int | None, device: str | torch.device | None) -> Index:
    """An index without vectors, of a saved one's ``kind`` and ``settings``."""
    kinds = {kind.__name__: kind for kind in Index.__subclasses__()}
    if described["kind"] not in kinds:
        raise StoredIndexError(f"the folder holds a {described['kind']}, expected one of {', '.join(kinds)}")
    settings = dict(described["settings"])
    if "metric" in settings:  # the name of the argument in older folders
        settings["similarity"] = settings.pop("metric")
    return kinds[described["kind"]]._from_settings(settings, threads, device)
