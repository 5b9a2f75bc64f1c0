"""Hard negatives for every training item: propose, filter, and draw when a batch is built."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.configurable import spec
from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings, Index
from lit_metric.mining.candidates import positive_scores
from lit_metric.mining.draw import Draw, UniformWindow
from lit_metric.mining.filters import NegativeFilter, RelationFilter, RelativeMargin
from lit_metric.mining.propose import NeighbourProposer, Proposer
from lit_metric.mining.run import MiningRun
from lit_metric.mining.table import NegativeTable, half

log = logging.getLogger(__name__)


class Miner:
    """Mines a table of candidate negatives.

    Args:
        index: searches the neighbours; exact cosine search by default.
        top_k: candidates ``K`` that a table holds for each item.
        negatives: candidates that an anchor meets in a batch. 0: none, for a planner that needs only the
            items' vectors; nothing is searched then.
        filters: drop candidates, one filter after the other; ``RelativeMargin(0.05)`` by default, an empty
            list for none. What the relations exclude is always dropped first.
        draw: chooses the candidates that an anchor meets; any of the first ten by default.
        proposer: the source of candidates, in place of the neighbours in ``index``.
        max_scanned: the most proposals to look at, to find ``top_k`` for one item. Exact search leaves out
            beforehand what the relations exclude, and what leading score filters drop. With any other index,
            ``max_scanned`` must exceed the size of the largest class by ``top_k``, or items in the middle of
            that class get no negatives.
        sample: items to log with the verdict on each of their candidates.

    Raises:
        ValueError: if a number is out of range, or both ``index`` and ``proposer`` are given.
    """

    def __init__(
        self,
        index: Index | None = None,
        top_k: int = 50,
        negatives: int = 1,
        filters: list[NegativeFilter] | None = None,
        draw: Draw | None = None,
        proposer: Proposer | None = None,
        max_scanned: int = 8192,
        sample: int = 20,
    ) -> None:
        if index is not None and proposer is not None:
            raise ValueError("both index and proposer are given: put the index into the proposer")
        if not 1 <= top_k <= max_scanned:
            raise ValueError(f"top_k={top_k} must be at least 1 and at most max_scanned={max_scanned}")
        if negatives < 0 or sample < 0:
            raise ValueError(f"negatives={negatives} and sample={sample} must be at least 0")
        self.index = index
        self.top_k = top_k
        self.negatives = negatives
        self.filters = [RelativeMargin()] if filters is None else filters
        self.draw = UniformWindow(0, 10) if draw is None else draw
        self.proposer = proposer
        self.max_scanned = max_scanned
        self.sample = sample

    def spec(self) -> dict[str, Any]:
        """``class_path`` and ``init_args``, from which another process can build an equal miner."""
        return spec(self)

    @torch.no_grad()
    def mine(
        self,
        embeddings: Embeddings,
        relations: Relations,
        seed: int = 0,
        anchors: Tensor | None = None,
        corpus: Tensor | None = None,
    ) -> NegativeTable:
        """Mine negatives for each of ``M`` items among the others, or for some items among some.

        An item without positives gets none: there is nothing that it should be nearer to. With
        ``negatives=0`` no item gets any. Memory beyond the embeddings, the index and the table does not grow
        with ``M``.

        Args:
            embeddings: of all items, whose ids are below 2³¹. Vectors are scaled to unit length here for
                cosine.
            relations: which items belong together.
            seed: for proposers that choose at random.
            anchors: ids of the items to mine for, such as queries; None: all.
            corpus: ids of the items that may be proposed, such as documents; None: all.

        Raises:
            ValueError: if there are no items, an id is out of range, an anchor or an item of the corpus has
                no embedding, or an embedding is not finite.
            TypeError: if a filter, the draw or the index hides an argument from :meth:`spec`.
            OverflowError: if a dot product does not fit into the table's float16.
        """
        values = embeddings.values
        device = values.device.type if isinstance(values, Tensor) else "cpu"
        # Under a caller's autocast, scores in half precision would reorder close neighbours.
        with torch.autocast(device, enabled=False):
            return self._mine(embeddings, relations, seed, anchors, corpus)

    def _mine(
        self,
        embeddings: Embeddings,
        relations: Relations,
        seed: int,
        anchors: Tensor | None,
        corpus: Tensor | None,
    ) -> NegativeTable:
        started = time.perf_counter()
        settings = self.spec()  # Before the long part: a filter that cannot be described is refused at once.
        ids = embeddings.ids
        if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= 2**31:
            ends = f"from {int(ids.min())} to {int(ids.max())}" if len(ids) else "of no item"
            raise ValueError(f"ids {ends}: a table needs items with ids from 0 to 2³¹ − 1")
        proposer = NeighbourProposer(self.index) if self.proposer is None else self.proposer
        embeddings = embeddings.by(proposer.similarity)
        mined = _subset("anchors", embeddings, anchors)
        searched = _subset("corpus", embeddings, corpus)
        order = mined.ids.argsort()
        if not self.negatives:
            return NegativeTable(
                mined.ids[order].int().numpy(),
                np.empty((len(mined), 0), np.int32),
                np.empty((len(mined), 0), np.float16),
                np.full((len(mined), 3), np.nan, np.float16),
                proposer.similarity,
                settings=settings,
            )
        positives = positive_scores(embeddings, relations, mined.ids)
        filters = [RelationFilter(relations), *self.filters]
        for each in filters:
            each.prepare(embeddings, relations)
        run = MiningRun(mined, positives, filters, self.top_k, self.sample)
        limit = min(self.max_scanned, len(searched))
        proposer.fit(searched, seed)
        try:
            run.search(proposer, relations, limit, len(searched))
        finally:
            proposer.forget()
        report = {**run.report(), "seconds": time.perf_counter() - started}
        log.info("Mined %d items: %s", len(mined), ", ".join(f"{k} {v:.3g}" for k, v in report.items()))
        if report["without"] > 0.1:
            log.warning(
                "%.0f%% of the items found no negative among %d proposals: loosen the filters, or (without "
                "exact search) raise max_scanned beyond the size of the largest class",
                100 * report["without"],
                limit,
            )
        return NegativeTable(
            mined.ids[order].int().numpy(),
            run.found[order].numpy(),
            run.scores[order.numpy()],
            half(torch.stack([positives.best, positives.worst, positives.mean], dim=1)[order]),
            similarity=proposer.similarity,
            report=report,
            settings=settings,
            sample=sorted(run.explained, key=lambda entry: int(entry["anchor"])),
            pool=None if anchors is corpus is None else searched.ids.sort().values.int().numpy(),
        )


def _subset(name: str, embeddings: Embeddings, ids: Tensor | None) -> Embeddings:
    """The items ``ids`` alone; None: all."""
    if ids is None:
        return embeddings
    if not len(ids):
        raise ValueError(f"{name}: no item is named; give ids out of the {len(embeddings)} embedded items")
    try:
        return embeddings.subset(ids)
    except KeyError as error:
        raise ValueError(f"{name}: {error.args[0]}") from None
