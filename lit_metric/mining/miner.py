"""Hard negatives for every training item: propose, filter, and at batch time draw."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

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

Mode = Literal["inline", "scheduled", "eager"]
ColdStart = Literal["mine", "in_batch"]


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
        refresh: when the table is mined anew: after each ``"epoch"``, after so many batches, or ``"never"``
            after the first.
        proposer: where candidates come from, in place of the neighbours in ``index``.
        max_fetch: how many proposals are looked at, at most, to find ``candidates`` for one item. With exact
            search, what the relations exclude is not among them, nor what the first filters drop by the score
            alone; with any other index, ``max_fetch`` must exceed the size of the largest class by as much,
            or items in its midst go without.
        sample: how many items are logged with what became of each of their candidates.
        mode: ``"inline"`` stops training while it mines. In the other two a process of its own mines from a
            copy of the weights while training goes on: ``"scheduled"`` takes the new table into use at a
            batch fixed beforehand, ``"eager"`` as soon as it is there; see ``docs/asynchronous-mining.md``.
            Where no process can do it, mining is inline, and one line says why.
        delay: in ``"scheduled"`` mode, how many batches after the copy of the weights the new table is taken
            into use; if None, as many as an exact search may take where training's own vectors are taken, see
            ``free_refresh`` and :func:`~lit_metric.mining.timetable.search_batches`, and half of a refresh
            period where all is encoded. Must exceed what the loader prefetches, and
            be at most a refresh period. If None and a period has too few batches for that, mining is inline.
        max_staleness: no batch uses a table whose weights are older than so many batches: training waits for
            the one that is being mined, or else mines inline. None: no bound when ``"scheduled"``, two
            refresh periods when ``"eager"``.
        restarts: how often the process is started again for one refresh before that refresh is given up.
        timeout: seconds that training waits for a table that is late before that refresh is given up.
        strict: stop the run when a refresh is given up; otherwise the old table stays in use.
        threads: of the process, in torch, FAISS and OpenMP alike; half of those that training has if None. On
            a CPU training leaves these to it while it is at work.
        device: where the process encodes, such as ``"cpu"`` or ``"cuda:1"``; where rank zero trains if None.
        free_refresh: take the vectors that training steps compute anyway, and encode only the items whose
            vector is older than an epoch. If None, where all that is mined is trained on, by processes on one
            machine, and mining is not ``"inline"``.
        cold_start: ``"mine"`` mines the first table before the first batch. ``"in_batch"`` starts at once,
            with the negatives that are in a batch anyway, and uses the first table where a refresh of the
            first weights would: after ``delay`` batches when ``"scheduled"``, or half a period if it is None,
            as soon as it is there when ``"eager"``, after the first period when ``"inline"``.

    Raises:
        ValueError: if a number is out of range, both ``index`` and ``proposer`` are given,
            ``free_refresh`` is asked for where there is no process, or a cold start in the batch where no
            refresh follows.
    """

    _kept_as: ClassVar[dict[str, str]] = {"draw": "drawing"}

    def __init__(
        self,
        index: Index | None = None,
        candidates: int = 50,
        negatives: int = 1,
        filters: list[NegativeFilter] | None = None,
        draw: Draw | None = None,
        refresh: Literal["epoch", "never"] | int = "epoch",
        proposer: Proposer | None = None,
        max_fetch: int = 8192,
        sample: int = 20,
        mode: Mode = "scheduled",
        delay: int | None = None,
        max_staleness: int | None = None,
        restarts: int = 2,
        timeout: float = 600.0,
        strict: bool = False,
        threads: int | None = None,
        device: str | None = None,
        free_refresh: bool | None = None,
        cold_start: ColdStart = "mine",
    ) -> None:
        if index is not None and proposer is not None:
            raise ValueError("both index and proposer are given: put the index into the proposer")
        if not 1 <= candidates <= max_fetch:
            raise ValueError(f"candidates={candidates} must be at least 1 and at most max_fetch={max_fetch}")
        if negatives < 0 or sample < 0:
            raise ValueError(f"negatives={negatives} and sample={sample} must be at least 0")
        _check_times(refresh, mode, delay, max_staleness, restarts, timeout, threads)
        if free_refresh and mode == "inline":
            raise ValueError(
                'free_refresh=True needs mode="scheduled" or mode="eager": inline mining encodes all'
            )
        if cold_start not in get_args(ColdStart) or (cold_start == "in_batch" and refresh == "never"):
            raise ValueError(
                f'cold_start={cold_start!r} with refresh={refresh!r}: use "mine", or "in_batch" with a '
                "refresh that brings the first table"
            )
        self.index = index
        self.candidates = candidates
        self.negatives = negatives
        self.filters = [RelativeMargin()] if filters is None else filters
        self.drawing = UniformWindow(0, 10) if draw is None else draw
        self.refresh: Literal["epoch", "never"] | int = refresh
        self.proposer = proposer
        self.max_fetch = max_fetch
        self.sample = sample
        self.mode: Mode = mode
        self.delay = delay
        self.max_staleness = max_staleness
        self.restarts = restarts
        self.timeout = timeout
        self.strict = strict
        self.threads = threads
        self.device = device
        self.free_refresh = free_refresh
        self.cold_start: ColdStart = cold_start

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


def _check_times(
    refresh: str | int,
    mode: str,
    delay: int | None,
    max_staleness: int | None,
    restarts: int,
    timeout: float,
    threads: int | None,
) -> None:
    if isinstance(refresh, bool) or not (
        refresh in ("epoch", "never") or (isinstance(refresh, int) and refresh > 0)
    ):
        raise ValueError(f'refresh={refresh!r}: use "epoch", "never", or a number of batches above 0')
    if mode not in ("inline", "scheduled", "eager"):
        raise ValueError(f'mode={mode!r}: use "inline", "scheduled" or "eager"')
    if mode != "scheduled" and delay is not None:
        raise ValueError(f'delay={delay} is for mode="scheduled"; {mode!r} has no fixed delay')
    for name, value in {"delay": delay, "max_staleness": max_staleness, "threads": threads}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if restarts < 0 or timeout <= 0:
        raise ValueError(f"restarts={restarts} must be at least 0, timeout={timeout} above 0")
