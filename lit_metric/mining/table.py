"""The mined negatives of every training item, in memory or as a memory-mapped version on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric import store
from lit_metric.index import Similarity
from lit_metric.mining.candidates import REFERENCES, Candidates, PositiveScores
from lit_metric.mining.files import TableError
from lit_metric.mining.published import Embedded, size_of, write_vectors

_TYPES: dict[str, type] = {
    "anchors": np.int32,
    "ids": np.int32,
    "scores": np.float16,
    "positives": np.float16,
}
_POOL = "pool"
_BLOCK = 1024


class NegativeTable:
    """``K`` candidate negatives for each of ``N`` items, most similar first.

    Args:
        anchors: ``[N]`` int32, the items' global ids, rising.
        ids: ``[N, K]`` int32 global ids, -1 behind the last.
        scores: ``[N, K]`` float16 similarities, -inf behind the last.
        positives: ``[N, 3]`` float16, the best, worst and mean score over the item's positives; NaN if none.
        metric: the scale of all scores, ``"cosine"`` or ``"dot"``.
        report: how the mining went: numbers by name.
        settings: the :func:`~lit_metric.configurable.spec` of the miner.
        sample: a few anchors with what became of each of their candidates.
        pool: ``[M]`` int32, the global ids that random negatives may be drawn from; None: the anchors.

    Raises:
        TableError: if types or shapes are others, or anchors do not rise.
    """

    def __init__(
        self,
        anchors: NDArray[Any],
        ids: NDArray[Any],
        scores: NDArray[Any],
        positives: NDArray[Any],
        metric: Similarity = "cosine",
        report: dict[str, float] | None = None,
        settings: dict[str, Any] | None = None,
        sample: list[dict[str, Any]] | None = None,
        pool: NDArray[Any] | None = None,
    ) -> None:
        arrays = {"anchors": anchors, "ids": ids, "scores": scores, "positives": positives}
        shapes = _shapes(len(anchors), ids.shape[-1])
        for name, array in arrays.items():
            if array.dtype != _TYPES[name] or array.shape != shapes[name]:
                raise TableError(
                    f"{name} is {array.dtype} {list(array.shape)}, expected {np.dtype(_TYPES[name])} "
                    f"{list(shapes[name])}"
                )
        if (np.diff(anchors) <= 0).any():
            raise TableError("anchors must rise strictly: sort the rows by item id, and name no item twice")
        self.anchors, self.ids, self.scores, self.positives = anchors, ids, scores, positives
        self.metric: Similarity = metric
        self.report = report or {}
        self.settings = settings or {}
        self.sample = sample or []
        self._pool = pool
        self.manifest: dict[str, Any] = {}
        self._opened: tuple[str, int, str | None] | None = None

    def __len__(self) -> int:
        return len(self.anchors)

    @cached_property
    def pool(self) -> Tensor:
        """``[M]`` int64, the ids from which random negatives may be drawn."""
        return torch.from_numpy((self.anchors if self._pool is None else self._pool).astype(np.int64))

    def rows(self, anchor_ids: Tensor) -> NDArray[np.int64]:
        """``[A]`` row numbers of items.

        Raises:
            KeyError: names an item that the table has no row for.
        """
        wanted = anchor_ids.cpu().numpy()
        rows = np.searchsorted(self.anchors, wanted).clip(max=len(self) - 1)
        missing = wanted[self.anchors[rows] != wanted]
        if missing.size:
            raise KeyError(
                f"item {missing[0]} has no row in the table ({missing.size} of {wanted.size} asked for have "
                "none): negatives are mined for the training items only"
            )
        return rows.astype(np.int64)

    def candidates(self, anchor_ids: Tensor) -> Candidates:
        """The rows of some items, with ids int64 and scores float32."""
        rows = self.rows(anchor_ids)
        positives = torch.from_numpy(self.positives[rows].astype(np.float32))
        return Candidates(
            anchor_ids.cpu().long(),
            torch.from_numpy(self.ids[rows].astype(np.int64)),
            torch.from_numpy(self.scores[rows].astype(np.float32)),
            PositiveScores(*positives.unbind(1)),
        )

    def overlap(self, other: NegativeTable) -> float:
        """The share of this table's candidates that stand in the same item's row of ``other``; NaN if neither
        has a row for the same item."""
        shared = torch.from_numpy(np.intersect1d(self.anchors, other.anchors))
        both = total = 0
        for anchors in shared.split(_BLOCK):
            mine, theirs = self.candidates(anchors).ids, other.candidates(anchors).ids
            found = (mine[:, :, None] == theirs[:, None, :]).any(-1) & (mine >= 0)
            both, total = both + int(found.sum()), total + int((mine >= 0).sum())
        return both / total if total else float("nan")

    def save(
        self,
        root: str | Path,
        *,
        corpus: str,
        weights: str,
        step: int,
        epoch: int,
        tokenizer: str = "",
        vectors: Embedded | None = None,
    ) -> int:
        """Write the table as a new version under ``root`` and give its number.

        Args:
            root: folder of all versions.
            corpus: fingerprint of the items and their relations; :meth:`open` compares it.
            weights: hash of the encoder's weights that it was mined with.
            step, epoch: of training, when it was mined.
            tokenizer: fingerprint of the tokenizer; :meth:`open` compares it.
            vectors: ids and embeddings to publish beside it, for :class:`TableVectors`; None: none.

        Raises:
            OSError: if the disk has no room for it.
            ValueError: if an embedding is not finite.
        """
        arrays = {name: getattr(self, name) for name in _TYPES}
        arrays |= {} if self._pool is None else {_POOL: self._pool}
        needed = sum(array.nbytes for array in arrays.values()) + (size_of(vectors) if vectors else 0)
        Path(root).mkdir(parents=True, exist_ok=True)
        store.check_room(Path(root), needed)
        version = store.claim_version(root)
        folder = store.version_folder(root, version)
        pool = None if self._pool is None else len(self._pool)
        when = {"version": version, "step": step, "epoch": epoch, "metric": self.metric}
        for name, array in arrays.items():
            store.write_array(folder / f"{name}.npy", array)
        published = write_vectors(folder, vectors) if vectors else {}
        store.write_json(folder / store.SAMPLE, {**when, "anchors": self.sample})
        rows, width = self.ids.shape
        whence = {
            "corpus": corpus,
            "tokenizer": tokenizer,
            "weights": weights,
            "report": self.report,
            "settings": self.settings,
        }
        store.write_manifest(
            folder, {**when, "rows": rows, "candidates": width, _POOL: pool, **published, **whence}
        )
        return version

    @classmethod
    def open(
        cls,
        root: str | Path,
        version: int,
        corpus: str | None = None,
        verify: bool = True,
        tokenizer: str | None = None,
    ) -> NegativeTable:
        """Map a version into memory.

        Args:
            root, version: which.
            corpus: fingerprint that it must have been mined for; None accepts any.
            verify: compare the files with their sha256, which reads them once.
            tokenizer: fingerprint that it must have been mined with; None accepts any.

        Raises:
            TableError: if the version is not there, unfinished, damaged, or of another corpus or tokenizer.
        """
        folder = store.version_folder(root, version)
        # The sample is for people: texts are added to it later.
        manifest = store.read_manifest(folder, TableError, [f"{name}.npy" for name in _TYPES], verify)
        try:
            told, of = manifest["version"], manifest["corpus"]
            shapes = _shapes(manifest["rows"], manifest["candidates"])
            metric, report, settings = manifest["metric"], manifest["report"], manifest["settings"]
        except KeyError as error:
            raise TableError(f"{folder / store.MANIFEST} does not say {error}; mine it anew") from error
        if told != version:
            raise TableError(f"{folder} says that it is version {told}: the folder was renamed or copied")
        if corpus is not None and of != corpus:
            raise TableError(f"{folder} was mined for another corpus ({of}, not {corpus}): mine it anew")
        if tokenizer is not None and (used := manifest.get("tokenizer")) != tokenizer:
            raise TableError(
                f"{folder} was mined with another tokenizer ({used}, not {tokenizer}): mine it anew"
            )
        anchors, ids, scores, positives = (
            store.read_array(folder, name, dtype, shapes[name], TableError, "r")
            for name, dtype in _TYPES.items()
        )
        pool = None
        if (size := manifest.get(_POOL)) is not None:
            store.read_manifest(folder, TableError, [f"{_POOL}.npy"], verify)
            pool = store.read_array(folder, _POOL, np.int32, (size,), TableError, "r")
        table = cls(
            anchors, ids, scores, positives, metric=metric, report=report, settings=settings, pool=pool
        )
        table.manifest = manifest
        table._opened = str(root), version, corpus
        return table

    def __reduce__(self) -> tuple[Callable[..., NegativeTable], tuple[str, int, str | None]]:
        # A worker process gets the path, not a copy of the arrays.
        if self._opened is None:
            raise TypeError("a table in memory is not sent to other processes: save() it and open() it there")
        return NegativeTable.open, self._opened


def half(values: Tensor) -> NDArray[np.float16]:
    """Scores as float16.

    Raises:
        OverflowError: if a finite score has no place among them (beyond ±65,504).
    """
    halved = values.half()
    if bool((halved.isinf() & values.isfinite()).any()):
        raise OverflowError(
            f"a score of {float(values[values.isfinite()].abs().max()):g} does not fit into float16 (65504): "
            "mine by cosine, or keep the embeddings' norms down"
        )
    return halved.numpy()


def _shapes(rows: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        "anchors": (rows,),
        "ids": (rows, width),
        "scores": (rows, width),
        "positives": (rows, len(REFERENCES)),
    }
