"""Hard negatives for every training item: propose, filter, and at batch time draw."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.configurable import spec
from lit_metric.index import Index, Similarity
from lit_metric.mining.candidates import REFERENCES
from lit_metric.mining.draw import Draw, UniformWindow
from lit_metric.mining.filters import NegativeFilter, RelationFilter, RelativeMargin
from lit_metric.mining.positives import positive_scores
from lit_metric.mining.propose import NeighbourProposer, Proposer
from lit_metric.mining.run import MiningRun
from lit_metric.mining.source import TableNegatives, negatives_of
from lit_metric.mining.table import NegativeTable, half
from lit_metric.mining.vectors import Vectors

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations

log = logging.getLogger(__name__)


class Miner:
    """Mines a table of candidate negatives, and draws from it.

    Args:
        index: what searches the neighbours, and by which metric; exact cosine search by default.
        candidates: how many candidates ``K`` a table holds for each item.
        negatives: how many of them an anchor meets in a batch. 0: none, where a planner wants no more than
            the items' vectors; nothing is searched then.
        filters: which candidates are dropped, one filter after the other; ``RelativeMargin(0.95)`` by
            default, an empty list for none. What the relations exclude is always dropped first.
        draw: which candidates an anchor meets; any of the first ten by default.
        proposer: where candidates come from, in place of the neighbours in ``index``.
        max_fetch: how many proposals are looked at, at most, to find ``candidates`` for one item. With exact
            search, what the relations exclude is not among them, nor what the first filters drop by the score
            alone; with any other index, ``max_fetch`` must exceed the size of the largest class by as much,
            or items in its midst go without.
        sample: how many items are logged with what became of each of their candidates.

    Raises:
        ValueError: if a number is out of range, or both ``index`` and ``proposer`` are given.
    """

    _kept_as: ClassVar[dict[str, str]] = {"draw": "drawing"}

    def __init__(
        self,
        index: Index | None = None,
        candidates: int = 50,
        negatives: int = 1,
        filters: list[NegativeFilter] | None = None,
        draw: Draw | None = None,
        proposer: Proposer | None = None,
        max_fetch: int = 8192,
        sample: int = 20,
    ) -> None:
        if index is not None and proposer is not None:
            raise ValueError("both index and proposer are given: put the index into the proposer")
        if not 1 <= candidates <= max_fetch:
            raise ValueError(f"candidates={candidates} must be at least 1 and at most max_fetch={max_fetch}")
        if negatives < 0 or sample < 0:
            raise ValueError(f"negatives={negatives} and sample={sample} must be at least 0")
        self.index = index
        self.candidates = candidates
        self.negatives = negatives
        self.filters = [RelativeMargin()] if filters is None else filters
        self.drawing = UniformWindow(0, 10) if draw is None else draw
        self.proposer = proposer
        self.max_fetch = max_fetch
        self.sample = sample

    def spec(self) -> dict[str, Any]:
        """``class_path`` and ``init_args``, from which an equal miner can be built elsewhere."""
        return spec(self)

    @torch.no_grad()
    def mine(
        self,
        embeddings: Tensor | NDArray[Any],
        ids: Tensor,
        relations: Relations,
        seed: int = 0,
        anchors: Tensor | None = None,
        corpus: Tensor | None = None,
    ) -> NegativeTable:
        """A table of negatives for each of ``M`` items among the others, or for some among some.

        An item without positives gets none: there is nothing that it should be nearer to. With
        ``negatives=0`` nobody gets any. Memory beyond the embeddings, the index and the table does not grow
        with ``M``.

        Args:
            embeddings: ``[M, d]``, scaled to unit length here if the metric is cosine; may be memory-mapped.
            ids: ``[M]`` their distinct global ids, integers below 2³¹.
            relations: which items belong together.
            seed: for proposers that draw lots.
            anchors: those of ``ids`` to mine for, such as queries; None: all.
            corpus: those of ``ids`` that may be proposed, such as documents; None: all.

        Raises:
            ValueError: if ids and embeddings disagree, an id occurs twice, an anchor or an item of the corpus
                is not among the ids, or an embedding is not finite.
            TypeError: if a filter, the draw or the index keeps an argument out of sight of :meth:`spec`.
            OverflowError: if a dot product does not fit into the table's float16.
        """
        device = embeddings.device.type if isinstance(embeddings, Tensor) else "cpu"
        # Scores in half precision would reorder close neighbours, whoever calls this.
        with torch.autocast(device, enabled=False):
            return self._mined(embeddings, ids, relations, seed, anchors, corpus)

    def _mined(
        self,
        embeddings: Tensor | NDArray[Any],
        ids: Tensor,
        relations: Relations,
        seed: int,
        anchors: Tensor | None,
        corpus: Tensor | None,
    ) -> NegativeTable:
        started = time.perf_counter()
        settings = self.spec()  # Before the long part: a filter that cannot be described is refused at once.
        ids = torch.as_tensor(ids).cpu().long()
        _check(embeddings, ids)
        proposer = NeighbourProposer(self.index) if self.proposer is None else self.proposer
        vectors = Vectors(embeddings, proposer.metric)
        rows, searched = _rows_of("anchors", anchors, ids), _rows_of("corpus", corpus, ids)
        if not self.negatives:
            return _empty(ids[rows], proposer.metric, settings)
        positives = positive_scores(vectors, ids, relations, rows)
        filters = [RelationFilter(relations), *self.filters]
        for each in filters:
            each.prepare(vectors, ids, relations)
        run = MiningRun(ids[rows], positives, filters, self.candidates, self.sample)
        limit = min(self.max_fetch, len(searched))
        proposer.fit(vectors.subset(searched), ids[searched], seed)
        try:
            run.search(proposer, vectors.subset(rows), relations, limit, len(searched))
        finally:
            proposer.forget()
        report = {**run.report(), "seconds": time.perf_counter() - started}
        log.info("Mined %d items: %s", len(rows), ", ".join(f"{k} {v:.3g}" for k, v in report.items()))
        if report["without"] > 0.1:
            log.warning(
                "%.0f%% of the items found no negative at all among %d proposals: loosen the filters, or "
                "raise max_fetch, without exact search beyond the size of the largest class",
                100 * report["without"],
                limit,
            )
        order = run.ids.argsort()
        return NegativeTable(
            run.ids[order].int().numpy(),
            run.found[order].numpy(),
            run.scores[order.numpy()],
            half(torch.stack([positives.best, positives.worst, positives.mean], dim=1)[order]),
            metric=proposer.metric,
            report=report,
            settings=settings,
            sample=sorted(run.explained, key=lambda entry: int(entry["anchor"])),
            pool=None if anchors is corpus is None else ids[searched].sort().values.int().numpy(),
        )

    def draw(
        self, table: NegativeTable, anchor_ids: Tensor, relations: Relations, seed: int, epoch: int, step: int
    ) -> Tensor:
        """The negatives that each anchor meets in one batch.

        Args:
            table: mined before.
            anchor_ids: ``[A]`` int64 global ids.
            relations: obeyed by random negatives; those in the table have been through it.
            seed, epoch, step: the draw is a function of these and of the anchor's id.

        Returns:
            ``[A, negatives]`` int64 distinct global ids for each anchor, -1 at the end where there are too
            few.
        """
        return negatives_of(table, self.drawing, self.negatives, anchor_ids, relations, (seed, epoch, step))

    def source(self, root: str | Path, relations: Relations, corpus: str | None = None) -> TableNegatives:
        """What :meth:`draw` does, for other processes: by the folder of the tables and a version number."""
        return TableNegatives(root, self.drawing, self.negatives, relations, corpus)


def _empty(anchors: Tensor, metric: Similarity, settings: dict[str, Any]) -> NegativeTable:
    """A table of no candidates."""
    width, positives = (len(anchors), 0), np.full((len(anchors), len(REFERENCES)), np.nan, np.float16)
    ids, scores = np.empty(width, np.int32), np.empty(width, np.float16)
    return NegativeTable(
        anchors.sort().values.int().numpy(), ids, scores, positives, metric=metric, settings=settings
    )


def _rows_of(name: str, wanted: Tensor | None, ids: Tensor) -> Tensor:
    """Where the distinct ``wanted`` stand among ``ids``, in the order of ``ids``."""
    if wanted is None:
        return torch.arange(len(ids))
    wanted = torch.as_tensor(wanted).cpu().long()
    if len(missing := wanted[~torch.isin(wanted, ids)]) or not len(wanted):
        what = f"item {int(missing[0])} has no embedding" if len(missing) else "no item is named"
        raise ValueError(f"{name}: {what}; give ids out of those {len(ids)} that were embedded")
    return torch.isin(ids, wanted).nonzero()[:, 0]


def _check(embeddings: Tensor | NDArray[Any], ids: Tensor) -> None:
    if ids.ndim != 1 or len(ids) != len(embeddings) or len(ids) == 0:
        raise ValueError(
            f"ids of shape {list(ids.shape)} for {len(embeddings)} embeddings: expected one id for each, "
            "and at least one item"
        )
    if int(ids.min()) < 0 or int(ids.max()) >= 2**31:
        raise ValueError(f"ids from {int(ids.min())} to {int(ids.max())}: a table holds 0 to 2³¹ − 1")
    if len(ids.unique()) != len(ids):
        raise ValueError(f"{len(ids) - len(ids.unique())} of {len(ids)} ids occur twice: mine each item once")
