"""A folder of vectors with the columns of their rows, searched where they lie and added to."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.data.progress import stage, track
from lit_metric.index.base import Index, StoredIndexError, Vectors, load_index
from lit_metric.index.columns import Columns, Where, columns_table, matching, read_columns
from lit_metric.index.faiss_index import FaissIndex
from lit_metric.index.mapped import CODES, Codes, nearest, rescored
from lit_metric.store import FORMAT, MANIFEST, check_room, read_manifest, replacing, sha256, write_json

DataType = Literal["float32", "float16"]
Blocks = Iterable[tuple[Vectors, Columns | None]]

CANDIDATES = 100
"""The fewest rows whose vectors are compared with a query, where codes or FAISS find candidates."""
SAMPLE = 200
"""Rows that are queries when recall is measured."""
VECTORS, CODE_FILE, ROWS, LOCK = "vectors.bin", "codes.bin", "rows", ".lock"
SHARDS, REJECTED = "shards-", "rejected.parquet"
"""How the folder of an unfinished encoding begins, before the number of rows that were there; and the list of
the rows that it left out."""
_BLOCK = 65536


class DiskIndex:
    """Unit vectors and columns of rows in a folder; see :class:`~lit_metric.SearchIndex`, which knows texts.

    Args:
        folder: of the index.
        manifest: its content; that of :func:`new_manifest` for a new index.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self._manifest = manifest
        self._map()

    def __len__(self) -> int:
        return int(self._manifest["count"])

    @property
    def kind(self) -> str:
        """What finds candidates; see the class."""
        return str(self._manifest["kind"])

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self._manifest["dimension"])

    @property
    def role(self) -> str | None:
        """The role in which the corpus was encoded."""
        role: str | None = self._manifest["role"]
        return role

    @property
    def recall(self) -> float | None:
        """Recall@10 beside exact search, with 200 rows as queries, at the time when rows were added last.

        None for ``"exact"``, and where there are fewer than 100 rows.
        """
        return self._manifest.get("recall")

    @property
    def text_columns(self) -> list[str]:
        """The columns of the texts that the vectors are of, if it is known."""
        return list(self._manifest["text_columns"])

    def rows(self, ids: Sequence[int] | NDArray[Any]) -> list[dict[str, Any]]:
        """The values of the rows ``ids [m]``, by column."""
        found: list[dict[str, Any]] = self.columns.take(pa.array(ids, pa.int64())).to_pylist()
        return found

    def search(
        self, queries: Vectors, k: int = 10, where: Where | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See :meth:`SearchIndex.search <lit_metric.SearchIndex.search>`, for vectors ``[q, d]``."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        asked = _unit(queries, "queries", self.dimension)
        if where:
            scores, ids = nearest(asked, self.vectors, k, torch.from_numpy(matching(self.columns, where)))
        elif self.kind == "exact":
            scores, ids = nearest(asked, self.vectors, k)
        else:
            scores, ids = self._approximate(asked, k)
        return scores.numpy(), ids.numpy()

    def add_blocks(self, blocks: Blocks) -> None:
        """:meth:`add` for rows that don't fit into memory: pairs of vectors ``[b, d]`` and columns.

        Raises:
            ValueError: as by :meth:`build`; or a column is new, or of another type than in earlier rows.
            RuntimeError: another process adds rows at this moment.
        """
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                before = self
                if (self.folder / MANIFEST).is_file():  # another process may have added rows
                    before = DiskIndex(self.folder, read_manifest(self.folder, StoredIndexError))
                grown = DiskIndex(self.folder, before._appended(blocks))
                grown._find_fast(len(before))
                write_json(self.folder / MANIFEST, grown._manifest)
        except Timeout:
            raise RuntimeError(f"another process adds rows to {self.folder} at this moment") from None
        self._manifest = grown._manifest
        self._map()
        for old in self.folder.glob("faiss-*"):
            if old.name != self._manifest.get("faiss"):
                shutil.rmtree(old)

    def _map(self) -> None:
        """Map the files of the manifest."""
        about, count = self._manifest, len(self)
        self.vectors: NDArray[Any] = np.empty((0, about["dimension"] or 0), about["dtype"])
        """``[n, d]`` unit vectors, mapped."""
        self._codes: NDArray[Any] = np.empty((0, 0), np.uint8)
        self._coder: Codes | None = None
        self._faiss: FaissIndex | None = None
        if count:
            self.vectors = self._mapped(VECTORS, about["dtype"], self.dimension)
        self.columns: pa.Table = read_columns([self.folder / ROWS / part["file"] for part in about["parts"]])
        """The columns of all rows, mapped."""
        if count and self.kind in CODES:
            self._coder = CODES[self.kind](self.dimension)
            if f"{self._coder.name}.npy" in about["files"]:
                self._coder.load(self.folder)
            if "codes" in about["parts"][-1]:
                self._codes = self._mapped(CODE_FILE, self._coder.dtype, self._coder.width)
        if "faiss" in about:
            index = load_index(self.folder / about["faiss"], verify=False)
            assert isinstance(index, FaissIndex)
            self._faiss = index

    def _mapped(self, name: str, dtype: Any, width: int) -> NDArray[Any]:
        path, needed = self.folder / name, len(self) * width * np.dtype(dtype).itemsize
        size = path.stat().st_size if path.is_file() else -1
        if size < needed:
            wrong = "is missing" if size < 0 else f"has {size:,} bytes, and the index has {needed:,}"
            raise StoredIndexError(f"{path} {wrong}; {StoredIndexError.remedy}")
        # Copy on write: torch takes no read-only array, and the file stays as it is.
        return np.memmap(path, dtype, "c", shape=(len(self), width))

    def _appended(self, blocks: Blocks) -> dict[str, Any]:
        """Write vectors and columns behind the others; return the manifest of all rows."""
        about, dimension = self._manifest, self._manifest["dimension"]
        schema = self.columns.schema if len(self) else None
        rows, digest, writer = 0, hashlib.sha256(), None
        path = self.folder / ROWS / f"{len(about['parts']):05d}.arrow"
        with replacing(path) as unfinished, _behind(self.folder / VECTORS, self.vectors.nbytes) as file:
            for given, columns in blocks:
                vectors = _unit(given, "vectors", dimension)
                dimension = vectors.shape[1]
                table = columns_table(columns, len(vectors), schema)
                schema = table.schema
                content = vectors.numpy().astype(about["dtype"]).tobytes()
                check_room(self.folder, len(content) + table.nbytes)
                file.write(content)
                digest.update(content)
                rows += len(vectors)
                writer = writer or pa.ipc.new_file(str(unfinished), schema)
                writer.write_table(table)
            if writer is None or not rows:
                raise ValueError("there are no rows to index")
            writer.close()
        part = {"rows": rows, "file": path.name}
        part |= {"vectors": digest.hexdigest(), "columns": sha256(path)}
        parts = [*about["parts"], part]
        return {**about, "count": len(self) + rows, "dimension": dimension, "parts": parts}

    def _find_fast(self, first: int) -> None:
        """Write codes of the rows from ``first`` on, or give them to FAISS, and measure recall."""
        about, part = self._manifest, self._manifest["parts"][-1]
        starts = range(first, len(self), _BLOCK)
        if self.kind == "exact":
            return
        if self._coder is not None:
            if not first:
                self._coder.fit(self.vectors)
                self._coder.save(self.folder)
                name = f"{self._coder.name}.npy"
                about["files"] = {name: {"sha256": sha256(self.folder / name)}}
            digest = hashlib.sha256()
            with _behind(self.folder / CODE_FILE, first * self._coder.width) as file:
                for start in track(starts, "writing codes"):
                    content = self._coder.encode(self.vectors[start : start + _BLOCK]).tobytes()
                    file.write(content)
                    digest.update(content)
            part["codes"] = digest.hexdigest()
        else:
            index: Index = FaissIndex(self.kind, **about["faiss_settings"])
            if first:
                index = load_index(self.folder / about["faiss"], memory_map=False, verify=False)
            for start in starts:
                block = torch.from_numpy(self.vectors[start : start + _BLOCK]).float()
                index.add(block, torch.arange(start, start + len(block)))
            about["faiss"] = f"faiss-{len(about['parts']):05d}"
            shutil.rmtree(self.folder / about["faiss"], ignore_errors=True)  # of a call that was cut off
            with stage(f"building {self.kind}"):
                index.save(self.folder / about["faiss"])
        self._map()
        with stage("measuring recall"):
            about["recall"] = self._measured()

    def _measured(self) -> float | None:
        """Recall@10 of rows as queries, which don't find themselves; of equal scores any counts."""
        if len(self) < CANDIDATES:
            return None
        rows = torch.linspace(0, len(self) - 1, min(SAMPLE, len(self))).long()
        queries = torch.from_numpy(self.vectors[rows.numpy()]).float()
        best, fast = (
            scores.masked_fill(ids == rows[:, None], -torch.inf).sort(dim=1, descending=True).values[:, :10]
            for scores, ids in (nearest(queries, self.vectors, 11), self._approximate(queries, 11))
        )
        return float((fast >= best[:, -1:] - 1e-6).float().mean())

    def _approximate(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        wanted = min(max(CANDIDATES, k * self._manifest["oversampling"]), len(self))
        if self._faiss is not None:
            found = self._faiss.search(queries, wanted)[1]
        else:
            assert self._coder is not None
            found = self._coder.nearest(queries, self._codes, wanted)
        return rescored(queries, self.vectors, found, k)

    def _verify(self) -> None:
        """Compare the digests of all files."""
        starts = {"vectors": 0, "codes": 0}
        if self._faiss is not None:
            read_manifest(self.folder / self._manifest["faiss"], StoredIndexError)
        for part in track(self._manifest["parts"], "checking files", "part"):
            contents = {"vectors": (VECTORS, self.vectors), "codes": (CODE_FILE, self._codes)}
            for name, (file, rows) in contents.items():
                if name in part:
                    first = starts[name]
                    starts[name] = last = first + part["rows"]
                    blocks = (rows[at : min(at + _BLOCK, last)] for at in range(first, last, _BLOCK))
                    digest = hashlib.sha256()
                    for block in blocks:
                        digest.update(block.tobytes())
                    self._compare(digest.hexdigest(), part[name], file)
            self._compare(
                sha256(self.folder / ROWS / part["file"]), part["columns"], f"{ROWS}/{part['file']}"
            )

    def _compare(self, found: str, stored: str, name: str) -> None:
        if found != stored:
            raise StoredIndexError(
                f"{self.folder / name} is damaged: its sha256 is another; {StoredIndexError.remedy}"
            )


def new_manifest(
    kind: str,
    dtype: DataType,
    oversampling: int,
    nprobe: int | None,
    ef_search: int | None,
    model: str | None,
    role: str | None,
    text_columns: Sequence[str],
) -> dict[str, Any]:
    """That of an index without rows; see :meth:`SearchIndex.build <lit_metric.SearchIndex.build>`.

    Raises:
        ValueError: a setting is out of its range, or they don't fit together.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype is {dtype!r}; use 'float32' or 'float16'")
    if oversampling < 1:
        raise ValueError(f"oversampling={oversampling} must be at least 1")
    if kind not in ("exact", *CODES):
        FaissIndex(kind, nprobe=nprobe, ef_search=ef_search)  # refuses what it doesn't know
    elif nprobe or ef_search:
        raise ValueError(f"nprobe and ef_search are for FAISS, and kind is {kind!r}; leave them out")
    return {
        "format": FORMAT,
        "kind": kind,
        "dtype": dtype,
        "oversampling": oversampling,
        "faiss_settings": {"nprobe": nprobe, "ef_search": ef_search},
        "model": model,
        "role": role,
        "text_columns": [*text_columns],
        "count": 0,
        "dimension": None,
        "parts": [],
        "files": {},
    }


def check_folder(folder: Path) -> None:
    """Refuse a folder in which no index can be built, by ``FileExistsError``."""
    if (folder / MANIFEST).is_file():
        raise FileExistsError(
            f"{folder} holds an index or something else already; add to it, or name another"
        )
    own = {VECTORS, CODE_FILE, ROWS, LOCK, REJECTED, *(f"{coder.name}.npy" for coder in CODES.values())}
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    strange = [name for name in there - own if not name.startswith((SHARDS, "faiss-"))]
    if strange or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} exists already and holds something else; name another folder")


def _unit(vectors: Vectors, name: str, dimension: int | None) -> Tensor:
    """``[n, d]`` float32 on the CPU, scaled to unit length."""
    if isinstance(vectors, np.ndarray):
        vectors = torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))
    found = vectors.detach().cpu().float()
    if found.ndim != 2 or (dimension is not None and found.shape[1] != dimension):
        wanted = "dimension" if dimension is None else dimension
        raise ValueError(f"{name} must be [n, {wanted}], got {list(found.shape)}")
    finite = found.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(f"row {row} of {name} holds NaN or infinity, which has no neighbours")
    return F.normalize(found, dim=1)


@contextmanager
def _behind(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file to write to behind its first ``size`` bytes; what a call that was cut off left there is gone."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        yield file
        file.flush()
        os.fsync(file.fileno())
