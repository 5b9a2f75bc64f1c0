"""A corpus on disk that is searched many times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.data.progress import stage
from lit_metric.encoders import Encoder
from lit_metric.encoders.description import fingerprint_of
from lit_metric.index.base import StoredIndexError, Vectors
from lit_metric.index.columns import Columns, Where
from lit_metric.index.on_disk import SHARDS, Blocks, DataType, DiskIndex, check_folder, new_manifest
from lit_metric.store import MANIFEST, read_manifest


class SearchIndex(DiskIndex):
    """A corpus in a folder: unit vectors, columns of its rows, and what finds near vectors fast.

    Files are mapped, so memory holds what FAISS needs and nothing else. Scores are exact cosines, whatever
    found the candidates. With ``where`` the hits are exact, too. :meth:`build` makes an index, :meth:`open`
    reads one.

    ``kind`` says what finds candidates:

    - ``"exact"``: a query is compared with all vectors.
    - ``"int8"``, ``"binary"``: it is compared with a byte or a bit for each component. The best candidates
      are then compared by their vectors.
    - a string of ``faiss.index_factory``, such as ``"IVF1024,Flat"``: FAISS finds the candidates.

    ``vectors.bin`` holds the rows of the matrix one after the other, ``codes.bin`` the codes, ``rows/`` the
    columns as Arrow files, and ``manifest.json`` the rest. Added rows go to the end of each, and count from
    the moment in which the manifest is replaced.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "index"
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=np.float32)
        >>> index = SearchIndex.build(folder, vectors, {"name": ["a", "b", "c"], "size": [1, 2, 2]})
        >>> scores, ids = SearchIndex.open(folder).search(np.array([[2.0, 0.0]]), k=2)
        >>> ids.tolist(), index.rows(ids[0])
        ([[0, 2]], [{'name': 'a', 'size': 1}, {'name': 'c', 'size': 2}])
        >>> index.search(np.array([[2.0, 0.0]]), k=2, where={"size": 2})[1].tolist()
        [[2, 1]]
    """

    encoder: Encoder | None = None
    """Encodes texts and sets; None: only vectors are taken."""

    @classmethod
    def build(
        cls,
        folder: str | Path,
        corpus: Vectors | Sequence[Any],
        columns: Columns | None = None,
        kind: str = "exact",
        *,
        encoder: Encoder | None = None,
        role: str | None = None,
        text_columns: Sequence[str] = (),
        dtype: DataType = "float32",
        oversampling: int = 10,
        nprobe: int | None = None,
        ef_search: int | None = None,
    ) -> SearchIndex:
        """Make an index.

        Args:
            folder: must not exist yet, or be empty.
            corpus: vectors ``[n, d]``, which are scaled to unit length; or what ``encoder`` takes.
            columns: ``n`` values each, which hits show and ``where`` asks for.
            kind: see the class.
            encoder: of the corpus and of queries. Its fingerprint is stored, and another one is refused.
            role: in which it encodes the corpus, if it has roles.
            text_columns: which columns ``lit-metric search`` shows; all by default.
            dtype: of the vectors on the disk; float16 halves them, and changes scores by up to 0.001.
            oversampling: candidates for each hit, at least 1; at least 100 in all. No effect on ``"exact"``.
            nprobe, ef_search: as in :class:`~lit_metric.index.FaissIndex`.

        Raises:
            FileExistsError: there is something in ``folder`` already.
            ValueError: shapes disagree, a value is NaN or infinite, there are no rows, or a setting is out of
                its range.
        """
        return cls.build_blocks(
            folder,
            _blocks(corpus, columns, encoder, role),
            kind,
            encoder=encoder,
            role=role,
            text_columns=text_columns,
            dtype=dtype,
            oversampling=oversampling,
            nprobe=nprobe,
            ef_search=ef_search,
        )

    @classmethod
    def build_blocks(
        cls,
        folder: str | Path,
        blocks: Blocks,
        kind: str = "exact",
        *,
        encoder: Encoder | None = None,
        role: str | None = None,
        text_columns: Sequence[str] = (),
        dtype: DataType = "float32",
        oversampling: int = 10,
        nprobe: int | None = None,
        ef_search: int | None = None,
    ) -> SearchIndex:
        """:meth:`build` for a corpus that doesn't fit into memory.

        Args:
            blocks: pairs of vectors ``[b, d]`` and columns. ``encoder`` is the one that made the vectors.
            folder, kind, encoder, role, text_columns, dtype, oversampling, nprobe, ef_search: see
                :meth:`build`.
        """
        model = None if encoder is None else fingerprint_of(encoder)
        manifest = new_manifest(kind, dtype, oversampling, nprobe, ef_search, model, role, text_columns)
        folder = Path(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        index = cls(folder, manifest)
        index.encoder = encoder
        index.add_blocks(blocks)
        return index

    @classmethod
    def open(cls, folder: str | Path, encoder: Encoder | None = None, verify: bool = False) -> SearchIndex:
        """Read an index.

        Args:
            folder: of the index.
            encoder: encodes queries; must be the one that encoded the corpus.
            verify: compare the sha256 of all files, which reads each once. Sizes are always compared.

        Raises:
            StoredIndexError: there is no index, one of another format, or a damaged one; names the file.
            ValueError: the corpus was encoded by another model.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file() and (folder / f"{SHARDS}0").is_dir():
            raise StoredIndexError(f"{folder} is an index that is not finished; build it again to go on")
        try:
            manifest = read_manifest(folder, StoredIndexError)
            if "parts" not in manifest:
                raise StoredIndexError(f"{folder} holds something else than an index of SearchIndex.build")
            index = cls(folder, manifest)
        except (KeyError, TypeError) as error:
            raise StoredIndexError(
                f"{folder / MANIFEST} is damaged ({error!r}); {StoredIndexError.remedy}"
            ) from error
        index.encoder = encoder
        model = index._manifest["model"]
        if encoder is not None and model not in (None, fingerprint_of(encoder)):
            raise ValueError(
                f"the vectors of {folder} are of another model, whose weights or settings differ: take the "
                "model that made it, or build the index again"
            )
        if encoder is not None and encoder.dimension != index.dimension:
            raise ValueError(
                f"{folder} has vectors of {index.dimension} components, this model makes {encoder.dimension}"
            )
        if verify:
            with stage(f"checking {folder}"):
                index._verify()
        return index

    def search(
        self,
        queries: Vectors | Sequence[Any],
        k: int = 10,
        where: Where | None = None,
        role: str | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the nearest rows.

        Args:
            queries: vectors ``[q, d]``, or what the encoder takes.
            k: hits of each query, at least 1.
            where: values that a hit has, by column; several must all be there. A text is read as the type of
                the column. In a column of lists, one element must be equal. The search among the rows that
                match is exact.
            role: in which the encoder encodes the queries, if it has roles.

        Returns:
            Cosines ``[q, k]``, falling, and rows ``[q, k]``, from 0; -inf and -1 where there are fewer than
            ``k``. Of equal cosines the lower row comes first.

        Raises:
            ValueError: ``k`` is below 1, shapes disagree, a value is NaN or infinite, a column is unknown, or
                texts are given to an index without an encoder.
        """
        if not isinstance(queries, (np.ndarray, Tensor)):
            if self.encoder is None:
                raise ValueError(
                    "queries that are no vectors need an encoder: give encoder= to SearchIndex.open"
                )
            queries = self.encoder.encode(list(queries), role=role)
        return super().search(queries, k, where)

    def add(
        self, corpus: Vectors | Sequence[Any], columns: Columns | None = None, role: str | None = None
    ) -> None:
        """Add rows behind the others; see :meth:`build` for the arguments.

        What codes and FAISS learned of the first rows stays as it is. Build the index again if later rows
        differ much; :attr:`recall` shows it.
        """
        self.add_blocks(_blocks(corpus, columns, self.encoder, role))


def _blocks(
    corpus: Vectors | Sequence[Any], columns: Columns | None, encoder: Encoder | None, role: str | None
) -> Blocks:
    if isinstance(corpus, (np.ndarray, Tensor)):
        return [(corpus, columns)]
    if encoder is None:
        raise ValueError("a corpus of items that are no vectors needs encoder=")
    return [(encoder.encode(list(corpus), role=role), columns)]
