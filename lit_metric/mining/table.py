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
from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings, Similarity
from lit_metric.mining.candidates import Candidates, PositiveScores
from lit_metric.mining.draw import Draw, DrawContext
from lit_metric.mining.published import TableError, check_corpus, write_vectors

_TYPES: dict[str, type] = {
    "anchors": np.int32,
    "ids": np.int32,
    "scores": np.float16,
    "positives": np.float16,
}
_POOL = "pool"
_ROWS = 1024
BINS = 100
"""Of the histograms of scores in a version's sample."""
_BLOCK = 16384
_OPEN = 2


class NegativeTable:
    """``K`` candidate negatives for each of ``N`` items, most similar first.

    Args:
        anchors: ``[N]`` int32, the items' global ids, rising.
        ids: ``[N, K]`` int32 global ids, -1 behind the last.
        scores: ``[N, K]`` float16 similarities, -inf behind the last.
        positives: ``[N, 3]`` float16, the best, worst and mean score over the item's positives; NaN if none.
        similarity: the scale of all scores, ``"cosine"`` or ``"dot"``.
        report: how the mining went: numbers by name.
        settings: the :func:`~lit_metric.configurable.spec` of the miner.
        sample: a few anchors with the verdict on each of their candidates.
        pool: ``[M]`` int32, global ids that random negatives are drawn from; None: the anchors.

    Raises:
        TableError: if an array has another type or shape, or anchors do not rise.
    """

    def __init__(
        self,
        anchors: NDArray[Any],
        ids: NDArray[Any],
        scores: NDArray[Any],
        positives: NDArray[Any],
        similarity: Similarity = "cosine",
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
        self.similarity: Similarity = similarity
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
        """``[M]`` int64, the ids that random negatives are drawn from."""
        return torch.from_numpy((self.anchors if self._pool is None else self._pool).astype(np.int64))

    def rows(self, anchor_ids: Tensor) -> NDArray[np.int64]:
        """``[A]`` row numbers of items.

        Raises:
            KeyError: names an item without a row in the table.
        """
        wanted = anchor_ids.cpu().numpy()
        rows = np.searchsorted(self.anchors, wanted).clip(max=len(self) - 1)
        missing = wanted[self.anchors[rows] != wanted]
        if missing.size:
            raise KeyError(
                f"item {missing[0]} has no row in the table ({missing.size} of {wanted.size} items have "
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

    def draw(
        self,
        draw: Draw,
        count: int,
        anchor_ids: Tensor,
        relations: Relations,
        seed: int,
        epoch: int,
        step: int,
    ) -> Tensor:
        """The negatives that each anchor meets in one batch.

        Args:
            draw: chooses among the candidates.
            count: negatives for each anchor.
            anchor_ids: ``[A]`` int64 global ids.
            relations: for random negatives. Those in the table have passed the relations already.
            seed, epoch, step: the result depends on these and on the anchor's id.

        Returns:
            ``[A, count]`` int64 distinct global ids for each anchor, -1 at the end where there are too few.
        """
        if not len(anchor_ids):
            return torch.empty(0, count, dtype=torch.int64)
        context = DrawContext(seed, epoch, step, self.pool, relations)
        return draw.pick(self.candidates(anchor_ids), count, context)

    def overlap(self, other: NegativeTable) -> float:
        """The share of this table's candidates that ``other`` has for the same item; NaN if no item is in
        both."""
        shared = torch.from_numpy(np.intersect1d(self.anchors, other.anchors))
        both = total = 0
        for anchors in shared.split(_ROWS):
            mine, theirs = self.candidates(anchors).ids, other.candidates(anchors).ids
            found = (mine[:, :, None] == theirs[:, None, :]).any(-1) & (mine >= 0)
            both, total = both + int(found.sum()), total + int((mine >= 0).sum())
        return both / total if total else float("nan")

    def histogram(self) -> dict[str, Any]:
        """How often which scores occur, in ``BINS`` equal bins.

        Returns:
            ``low`` and ``high``, the ends of the bins, which are -1 and 1 for cosines; ``positives``, the
            counts of the anchors' mean positive scores; ``negatives``, those of all candidates' scores.
        """
        low, high = -1.0, 1.0
        if self.similarity != "cosine":
            ends = [np.extract(np.isfinite(array), array) for array in (self.positives, self.scores)]
            low = min((float(array.min()) for array in ends if array.size), default=0.0)
            high = max((float(array.max()) for array in ends if array.size), default=0.0)
            high = high if high > low else low + 1.0
        counts = {}
        for name, values in (("positives", self.positives[:, 2]), ("negatives", self.scores)):
            counts[name] = np.zeros(BINS, np.int64)
            for start in range(0, len(values), _BLOCK):
                part = values[start : start + _BLOCK].astype(np.float32)
                # Cosines may be a little beyond 1 by rounding.
                part = part[np.isfinite(part)].clip(low, high)
                counts[name] += np.histogram(part, BINS, (low, high))[0]
        return {"low": low, "high": high, **{name: found.tolist() for name, found in counts.items()}}

    def save(
        self,
        root: str | Path,
        *,
        corpus: str,
        weights: str,
        step: int,
        epoch: int,
        tokenizer: str = "",
        vectors: Embeddings | None = None,
    ) -> int:
        """Write the table as a new version under ``root`` and return its number.

        Args:
            root: folder of all versions.
            corpus: fingerprint of the items and their relations; :meth:`open` compares it.
            weights: hash of the encoder's weights that mined it.
            step, epoch: of training, when it was mined.
            tokenizer: fingerprint of the tokenizer; :meth:`open` compares it.
            vectors: of the items, to publish with the table for :func:`open_vectors`; None: none.

        Raises:
            OSError: if the disk has no room for it.
            ValueError: if an embedding is not finite.
        """
        arrays = {name: getattr(self, name) for name in _TYPES}
        arrays |= {} if self._pool is None else {_POOL: self._pool}
        needed = sum(array.nbytes for array in arrays.values())
        if vectors is not None:
            needed += len(vectors) * (4 + 2 * vectors.dimension)
        Path(root).mkdir(parents=True, exist_ok=True)
        store.check_room(Path(root), needed)
        version = store.claim_version(root)
        folder = store.version_folder(root, version)
        pool = None if self._pool is None else len(self._pool)
        when = {"version": version, "step": step, "epoch": epoch, "similarity": self.similarity}
        for name, array in arrays.items():
            store.write_array(folder / f"{name}.npy", array)
        published = {} if vectors is None else write_vectors(folder, vectors)
        rows, width = self.ids.shape
        # The sample stays when the rest is removed, so it has what a report shows of every version.
        shown = {"rows": rows, "report": self.report, "histogram": self.histogram(), "anchors": self.sample}
        store.write_json(folder / store.SAMPLE, {**when, **shown})
        origin = {
            "corpus": corpus,
            "tokenizer": tokenizer,
            "weights": weights,
            "report": self.report,
            "settings": self.settings,
        }
        store.write_manifest(
            folder, {**when, "rows": rows, "candidates": width, _POOL: pool, **published, **origin}
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
            root: folder of all versions.
            version: its number.
            corpus: fingerprint of the expected corpus; None accepts any.
            verify: compare the files with their sha256, which reads them once.
            tokenizer: fingerprint of the expected tokenizer; None accepts any.

        Raises:
            TableError: if the version is not there, unfinished, damaged, or of another corpus or tokenizer.
        """
        folder = store.version_folder(root, version)
        # The sample has no checksum, as texts are added to it later.
        manifest = store.read_manifest(folder, TableError, [f"{name}.npy" for name in _TYPES], verify)
        try:
            number, of = manifest["version"], manifest["corpus"]
            shapes = _shapes(manifest["rows"], manifest["candidates"])
            similarity, report, settings = (manifest[name] for name in ("similarity", "report", "settings"))
        except KeyError as error:
            raise TableError(
                f"{folder / store.MANIFEST} has no entry {error}: another version of lit-metric wrote it, or "
                "it is damaged; mine it again"
            ) from error
        if number != version:
            raise TableError(
                f"the manifest of {folder} is that of version {number}: the folder was renamed or copied"
            )
        check_corpus(folder, of, corpus)
        if tokenizer is not None and (used := manifest.get("tokenizer")) != tokenizer:
            raise TableError(
                f"{folder} was mined with another tokenizer ({used}, not {tokenizer}): mine it again"
            )
        anchors, ids, scores, positives = (
            store.read_array(folder, name, dtype, shapes[name], TableError, "r")
            for name, dtype in _TYPES.items()
        )
        pool = None
        if (size := manifest.get(_POOL)) is not None:
            store.read_manifest(folder, TableError, [f"{_POOL}.npy"], verify)
            pool = store.read_array(folder, _POOL, np.int32, (size,), TableError, "r")
        table = cls(anchors, ids, scores, positives, similarity, report, settings, pool=pool)
        table.manifest = manifest
        table._opened = str(root), version, corpus
        return table

    def __reduce__(self) -> tuple[Callable[..., NegativeTable], tuple[str, int, str | None]]:
        # A worker process gets the path, not a copy of the arrays.
        if self._opened is None:
            raise TypeError(
                "a table in memory can't be sent to other processes: save() it and open() it there"
            )
        return NegativeTable.open, self._opened


class TableNegatives:
    """Draws the negatives of a batch from the version of the table that the plan names.

    It may be sent to other processes. Each process opens a version at its first use and holds the last two
    open. So the switch from one version to the next happens at the planned batch, however far ahead a worker
    of the loader runs.

    Args:
        root: folder of the versions.
        draw: chooses among the candidates.
        negatives: number of negatives for each anchor.
        relations: for random negatives.
        corpus: fingerprint of the expected corpus; None accepts any.
    """

    def __init__(
        self, root: str | Path, draw: Draw, negatives: int, relations: Relations, corpus: str | None = None
    ) -> None:
        self.root = str(root)
        self.draw = draw
        self.negatives = negatives
        self.relations = relations
        self.corpus = corpus
        self._tables: dict[int, NegativeTable] = {}

    def __call__(self, anchor_ids: Tensor, seed: int, epoch: int, step: int, version: int) -> Tensor:
        """``[A, negatives]`` int64 global ids, -1 for none; version 0 stands for no table: none at all.

        Raises:
            TableError: if the version is missing, unfinished, damaged or of another corpus.
            KeyError: if an anchor has no row in it.
        """
        if version == 0:
            return torch.full((len(anchor_ids), self.negatives), -1)
        if version not in self._tables:
            table = NegativeTable.open(self.root, version, self.corpus)
            self._tables = {**dict(list(self._tables.items())[1 - _OPEN :]), version: table}
        return self._tables[version].draw(
            self.draw, self.negatives, anchor_ids, self.relations, seed, epoch, step
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}


def half(values: Tensor) -> NDArray[np.float16]:
    """Scores as float16.

    Raises:
        OverflowError: if a finite score is beyond ±65,504.
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
        "positives": (rows, 3),
    }
