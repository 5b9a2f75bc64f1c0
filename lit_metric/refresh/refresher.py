"""Keeps the table of negatives fresh: what every refresher does, and the one that stops training to mine."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_metric.data.progress import stage
from lit_metric.encoders import Encoder
from lit_metric.encoders.pretrained import fingerprint
from lit_metric.losses import gather_with_grad
from lit_metric.mining import TableError, collect_versions, open_vectors
from lit_metric.mining.run import add_texts
from lit_metric.refresh.schedule import TableUse, TableUses, Timetable
from lit_metric.refresh.snapshot import CheckpointFiles
from lit_metric.refresh.spec import MiningTask

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """The training that a refresher serves.

    Args:
        encoder: that is trained.
        folder: of the run.
        per_epoch: batches of an epoch in each process.
        rank: of this process.
        world_size: the number of processes.
        nodes: the number of machines.
        encode: gives ``([n, d] vectors, [n] ids)`` for this rank's share of some items, batch by batch.
        texts: the texts of some items, for people to read.
        position: optimizer steps so far, and the epoch.
        log: logs numbers by name, on rank zero.
        broadcast: gives a value of rank zero to all ranks.
        saved: the states of refreshers in all checkpoints that exist.
        autocast: ``"bfloat16"`` or ``"float16"``, in which training runs the encoder; None for none.
        trial: whether this is a short trial, for which no worker is started.
    """

    encoder: Encoder
    folder: Path
    per_epoch: int
    rank: int
    world_size: int
    nodes: int
    encode: Callable[[Tensor], Iterable[tuple[Tensor, Tensor]]]
    texts: Callable[[Tensor], list[str]]
    position: Callable[[], tuple[int, int]]
    log: Callable[[dict[str, float]], None]
    broadcast: Callable[[Any], Any]
    saved: Callable[[], list[dict[str, Any]]]
    autocast: str | None = None
    trial: bool = False


class Refresher(ABC):
    """Provides the version of the table that each batch uses.

    The loader calls :meth:`before_batch` when it prepares a batch, then :meth:`version`. Training calls
    :meth:`share_threads` before and :meth:`after_batch` behind each batch. All ranks make the same calls for
    the same batches.

    Args:
        task: what is mined.
        run: for which training.
        timetable: at which batches.
    """

    def __init__(self, task: MiningTask, run: TrainingRun, timetable: Timetable) -> None:
        self.task = task
        self.run = run
        self.timetable = timetable
        self.uses = TableUses()
        self.trained = 0
        """Batches of the whole run that have been trained on."""
        self.pending: list[Any] = []
        """Refreshes under way in the background."""

    @abstractmethod
    def before_batch(self, batch: int) -> None:
        """Provide the version that ``batch`` uses. It may wait, mine, take a version into use, and remove
        files.

        The loader calls it ahead of training, and not when an epoch ends, because a run that is resumed from
        the last batch of an epoch never sees that end.
        """

    def version(self, batch: int) -> int:
        """The version that ``batch`` uses, after :meth:`before_batch`; 0 for no table."""
        return self.uses.at(batch).version

    def staleness(self, batch: int) -> int | None:
        """Batches between the weights of the table that ``batch`` uses, and ``batch``; None without a
        table."""
        use = self.uses.at(batch) if self.uses else None
        return batch - use.taken if use is not None and use.version else None

    def share_threads(self, batch: int) -> None:  # noqa: B027
        """Set the number of threads with which ``batch`` is trained on."""

    def after_batch(self, batch: int, ids: Tensor, vectors: Tensor) -> None:
        """Note that ``batch`` was trained on, with ``vectors [n, d]`` of the items ``ids [n]``."""
        self.trained = batch + 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, in plain types: the versions in use, and refreshes under way."""
        times = [self.timetable.per_epoch, self.timetable.period, self.timetable.delay]
        uses = [list(use) for use in self._needed()]
        return {"uses": uses, "trained": self.trained, "background": self._under_way(), "times": times}

    def _under_way(self) -> dict[str, Any] | None:
        """The part of :meth:`state` about refreshes under way; None where there are none ever."""
        return None

    def resume(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state` of a checkpoint if its timetable is the same, with the tables that can be
        used."""
        self.uses, self.trained = TableUses(state.get("uses", [])), int(state.get("trained", 0))
        times = [self.timetable.per_epoch, self.timetable.period, self.timetable.delay]
        saved = state.get("times", times)
        under_way = state.get("background") if saved == times else None
        if saved != times and (state.get("background") or {}).get("pending") and self.run.rank == 0:
            log.info("The checkpoint's refresh under way is dropped, because data.refresh differs from it")
        if saved[0] != times[0]:
            self.uses = TableUses()
            # The checkpoint is from the end of an epoch, or it would have been refused.
            self.trained = self.trained // saved[0] * times[0]
        try:
            for version in {use.version for use in self.uses.uses if use.version}:
                self.task.open(version)
                if self.task.publish_vectors:
                    open_vectors(self.task.tables, version, self.task.fingerprint)
        except TableError as error:
            log.warning("The checkpoint's table of negatives can't be used, so one is mined: %s", error)
            self.uses = TableUses()
        if under_way:
            self._resume_under_way(under_way)

    def _resume_under_way(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Begin the refreshes of a checkpoint again."""

    def stop(self) -> None:  # noqa: B027
        """End the worker, if there is one. A checkpoint can still be written."""

    def close(self) -> None:
        """End the worker, and remove the files that only it needed."""
        self.stop()

    def _needed(self) -> list[TableUse]:
        """The versions that batches to come use, and by which their epochs are planned."""
        start = self.timetable.start(self.trained) if self.task.publish_vectors else None
        return self.uses.from_batch(self.trained, start)

    def _mine(self, batch: int) -> None:
        """Mine for ``batch`` and those after it: all ranks encode by shares, rank zero searches."""
        started = time.perf_counter()
        encoder, device = self.run.encoder, self.run.encoder.device
        encoded = list(self.run.encode(self.task.ids))
        vectors = torch.cat(
            [torch.empty(0, encoder.dimension, device=device), *(v.float() for v, _ in encoded)]
        )
        ids = torch.cat([torch.empty(0, dtype=torch.int64, device=device), *(own for _, own in encoded)])
        with torch.no_grad():
            vectors, ids = gather_with_grad(vectors).cpu(), gather_with_grad(ids).cpu()
        version, report = 0, {}
        if self.run.rank == 0:
            vectors = vectors[ids.argsort()]
            with stage("searching negatives"):
                table = self.task.mine(vectors)
            version = self.task.publish(table, vectors, fingerprint(encoder), *self.run.position())
            report = dict(table.report)
        self.uses.add(TableUse(batch, self.run.broadcast(version), min(batch, self.trained)))
        seconds = time.perf_counter() - started
        # A worker at work may be writing a version of a lower number.
        self._on_new_version(seconds, collect=not self.pending)
        self.run.log({**report, "seconds": time.perf_counter() - started})

    def _on_new_version(self, stalled: float, collect: bool = True) -> None:
        """Complete the sample of the version that comes into use, for which training waited ``stalled``
        seconds. If ``collect``, remove the versions and copies that neither a batch to come nor a checkpoint
        needs."""
        tables = self.task.tables
        if self.run.rank == 0:
            last = self.uses.uses[-1]
            use: dict[str, Any] = {
                "batch": last.first,
                "taken": last.taken,
                "per_epoch": self.timetable.per_epoch,
            }
            use |= {"seed": self.task.seed, "stall_seconds": round(stalled, 3)}
            add_texts(tables, last.version, self.run.texts, self.task.items.keys, use)
        if not collect:
            return
        self.uses = TableUses(self._needed())
        if self.run.rank == 0:
            states = self.run.saved()
            named = {int(use[1]) for state in states for use in state.get("uses", [])}
            collect_versions(tables, keep=named | {use.version for use in self.uses.uses})
            files: set[str] = set()
            for state in states:
                under_way = state.get("background") or {"pending": [], "bank": {}}
                for kept in [*(each["kept"] for each in under_way["pending"]), *under_way["bank"].values()]:
                    files |= set(kept)
            CheckpointFiles(tables / "kept").collect(files, before=self.trained)


class InlineRefresher(Refresher):
    """Stops training to mine, before the first batch and whenever a refresh is due."""

    def before_batch(self, batch: int) -> None:
        """See :class:`Refresher`."""
        if not self.uses or self.timetable.last_due(batch) > self.uses.uses[-1].first:
            self._mine(batch)
