"""Mining by a worker process while training goes on."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lit_metric.data import Collator
from lit_metric.data.progress import stage
from lit_metric.encoders.packing import evaluating
from lit_metric.refresh.client import MiningFailed, WorkerClient
from lit_metric.refresh.refresher import InlineRefresher, Refresher, TrainingRun
from lit_metric.refresh.schedule import Refresh, TableUse, Timetable
from lit_metric.refresh.snapshot import Bank, CheckpointFiles, Snapshot, SnapshotError, trained
from lit_metric.refresh.spec import Answer, Job, MiningTask, WorkerSettings
from lit_metric.store import write_json

log = logging.getLogger(__name__)

SLOTS = 2
"""Refreshes that may be under way at a time."""
MARGIN_S = 60.0


@dataclass
class PendingRefresh:
    """A refresh between the copy of the weights and the first use of its table.

    Args:
        taken: batches trained on before the copy; it is also the refresh's number.
        first: the first batch to use the table.
        step, epoch: of training, at the copy.
        kept: sha256 by name of the files that a checkpoint needs to begin this refresh again.
    """

    taken: int
    first: int
    step: int
    epoch: int
    kept: dict[str, str] = field(default_factory=dict)


class BackgroundRefresher(InlineRefresher):
    """Copies the weights when a refresh is due, has a worker process mine from them, and takes the table into
    use at the batch of the timetable.

    Rank zero owns the worker, and sends the other ranks the outcome of each refresh. All ranks hold
    the same list of refreshes under way. They communicate over a separate gloo group, so that waiting for a
    table never counts against the time-out of training's collectives. The first table is mined inline, unless
    ``first_table`` says otherwise, and so are all tables once it turns out that no worker can mine.

    Args:
        task: what is mined.
        run: for which training.
        timetable: at which batches.
        refresh: options of the worker.
        reuse: whether the vectors of training steps are reused.

    Raises:
        MiningFailed: on the other ranks, if rank zero can't start the worker.
    """

    def __init__(
        self, task: MiningTask, run: TrainingRun, timetable: Timetable, refresh: Refresh, reuse: bool
    ) -> None:
        super().__init__(task, run, timetable)
        self.refresh = refresh
        self.pending: list[PendingRefresh] = []
        self.skipped: list[dict[str, Any]] = []
        self.impossible = False
        """Whether all ranks know that no worker can mine."""
        self.folder = task.tables / "worker"
        self.kept = CheckpointFiles(task.tables / "kept")
        self.client: WorkerClient | None = None
        """Of rank zero."""
        self.slots = [Snapshot(self.folder / f"weights{slot}.safetensors") for slot in range(SLOTS)]
        self.group: dist.ProcessGroup | None = None
        if run.world_size > 1:
            limit = timedelta(seconds=refresh.timeout + MARGIN_S)
            self.group = dist.new_group(backend="gloo", timeout=limit)
        self._all_threads = torch.get_num_threads()
        self._lent_threads = 0
        if run.rank == 0:
            started = 0
            try:
                self._start_worker(reuse)
                started = 1
            finally:
                self._agree(started)
        elif not self._agree(1):
            raise MiningFailed("the mining worker could not be started; rank zero's error says why")
        self.bank = self._bank(f"rank{run.rank}", fresh=True) if reuse else None
        """Takes the vectors of this rank's training steps."""

    def _start_worker(self, reuse: bool) -> None:
        encoder = self.run.encoder
        threads = self.refresh.threads or max(1, self._all_threads // 2)
        types = {value.dtype for value in encoder.parameters()}
        device = torch.device(self.refresh.device or encoder.device)
        # What is fast on the GPU that trains may be slow on a CPU.
        autocast = None if device.type == "cpu" != encoder.device.type else self.run.autocast
        dtype = str(types.pop()).removeprefix("torch.") if len(types) == 1 else None
        settings = WorkerSettings(threads, str(device), autocast, dtype, os.getpid())
        with torch.no_grad(), evaluating(encoder):
            collator = Collator(self.task.items, self.task.tokens)
            batch = collator(self.task.probed, torch.empty(0, dtype=torch.int64)).to(encoder.device)
            vectors = encoder(batch.inputs)[batch.anchors]
        spec = self.task.write(self.folder, encoder, settings, vectors)
        printed = self.task.tables / "worker.log"
        self.client = WorkerClient(spec, threads, printed, self.refresh.restarts)
        if device.type == encoder.device.type == "cpu":
            self._lent_threads = threads
        if reuse:
            for slot in range(SLOTS):
                self._bank(f"slot{slot}", fresh=True)

    def _bank(self, name: str, fresh: bool = False) -> Bank:
        return Bank(self.folder / f"bank-{name}", self.task.ids, self.run.encoder.dimension, fresh)

    def _agree(self, number: int) -> int:
        """Rank zero's ``number``, on all ranks."""
        if self.group is None:
            return number
        agreed = torch.tensor([number])
        dist.broadcast(agreed, src=0, group=self.group)
        return int(agreed)

    def _meet(self) -> None:
        """Wait until all ranks are here."""
        if self.group is not None:
            dist.barrier(group=self.group)

    def before_batch(self, batch: int) -> None:
        """See :class:`~lit_metric.refresh.refresher.Refresher`.

        Raises:
            MiningFailed: if a refresh is given up, and ``strict`` is set.
        """
        if not self.uses and batch == 0 and self.refresh.first_table == "in_background":
            self.uses.add(TableUse(0, 0, 0))
            self._begin(0)
        if not self.uses or self.impossible:
            super().before_batch(batch)
            return
        versions, started = len(self.uses.uses), time.perf_counter()
        while not self.impossible and self.pending and self.pending[0].first <= batch:
            self._settle(self.pending[0])
        if len(self.uses.uses) > versions:
            self._on_new_version(time.perf_counter() - started)
        if self.impossible:
            self._mine(batch)

    def share_threads(self, batch: int) -> None:
        """On a CPU, leave the worker its threads while it is at work.

        The timetable decides, and not what the worker does, because sums depend on the number of threads.
        """
        if self._lent_threads and not self.impossible:
            first = self.refresh.first_table == "in_background" and batch < self.timetable.switch(0)
            lent = self._lent_threads if first or self.timetable.mining(batch) else 0
            wanted = max(1, self._all_threads - lent)
            if torch.get_num_threads() != wanted:
                torch.set_num_threads(wanted)

    def after_batch(self, batch: int, ids: Tensor, vectors: Tensor) -> None:
        """See :class:`~lit_metric.refresh.refresher.Refresher`; copies the weights when a refresh is due.

        Raises:
            MiningFailed: if a refresh is given up, and ``strict`` is set.
        """
        super().after_batch(batch, ids, vectors)
        if self.impossible:
            return
        if self.client is not None:
            self.client.look()
        if self.bank is not None:
            self.bank.put(ids, vectors, batch)
        if self.timetable.due(self.trained):
            self._begin(self.trained)

    def _begin(self, done: int) -> None:
        """Begin a refresh with the weights after ``done`` batches."""
        started = time.perf_counter()
        while len(self.pending) >= SLOTS:  # a loader with another sampler requests no batch
            self._settle(self.pending[0])
        if self.impossible:
            return
        pending = PendingRefresh(done, self.timetable.switch(done), *self.run.position())
        self.pending.append(pending)
        self._copy(pending)
        self.run.log({"snapshot_seconds": time.perf_counter() - started})

    def _copy(self, pending: PendingRefresh) -> None:
        """Copy weights and vectors for the worker, and send it the job."""
        if self.bank is not None:
            self._meet()  # all ranks have put into their banks what they had
        if self.client is not None:
            slot = self._slot(pending)
            try:
                self.slots[slot].write(trained(self.run.encoder))
                if self.bank is not None:
                    banks = [self._bank(f"rank{rank}") for rank in range(self.run.world_size)]
                    self._bank(f"slot{slot}").merge(banks)
            except OSError as error:
                self.client.fail(pending.taken, str(error))
            else:
                self._ask(pending)
        if self.bank is not None:
            self._meet()  # no rank writes into its bank before it has been read

    def _slot(self, pending: PendingRefresh) -> int:
        assert self.timetable.period is not None
        return pending.taken // self.timetable.period % SLOTS

    def _ask(self, pending: PendingRefresh) -> None:
        assert self.client is not None
        slot = self._slot(pending)
        job = Job(
            number=pending.taken,
            weights=str(self.slots[slot].path),
            step=pending.step,
            epoch=pending.epoch,
            bank=None if self.bank is None else str(self.folder / f"bank-slot{slot}"),
            fresh_from=max(0, pending.taken - self.timetable.per_epoch),
            previous=self.uses.uses[-1].version if self.uses else 0,
        )
        self.client.ask(job)

    def _settle(self, pending: PendingRefresh) -> None:
        """Wait for a table, and take it into use or give it up, on all ranks together."""
        self.pending.remove(pending)
        started, answer = time.perf_counter(), Answer("failed", reason="see what rank zero logs")
        impossible = False
        if self.client is not None:
            with stage(f"waiting for the negatives that are mined since batch {pending.taken}"):
                answer = self.client.wait(pending.taken, self.refresh.timeout)
            impossible = self.client.impossible is not None
        version = self._agree(-1 if impossible else answer.version)
        if version < 0:
            self.impossible = True
            self.pending = []
            self.close()
            _log_inline(self.run, f"no worker can do it; {answer.reason}")
            return
        stalled = time.perf_counter() - started
        delay = float(pending.first - pending.taken)
        if version:
            self.uses.add(TableUse(pending.first, version, pending.taken))
            if self.run.rank == 0:
                log.info(
                    "From batch %d on, negatives are those mined with the weights of batch %d, in %.1f s",
                    pending.first,
                    pending.taken,
                    answer.report.get("seconds", stalled),
                )
        if self.client is not None:
            restarts = float(self.client.restarted)
            waited = {"stall_seconds": stalled, "skipped": float(not version), "restarts": restarts}
            self.run.log({**answer.report, **waited, "delay": delay})
        if not version:
            self._give_up(pending, answer.reason)

    def _give_up(self, pending: PendingRefresh, reason: str) -> None:
        if self.refresh.strict:
            raise MiningFailed(f"negatives could not be mined after batch {pending.taken}: {reason}")
        self.skipped.append({"batch": pending.taken, "reason": reason})
        if self.run.rank == 0:
            log.warning(
                "The refresh after batch %d is skipped and the old table stays in use, so this run can't be "
                "reproduced exactly: %s",
                pending.taken,
                reason,
            )
            with contextlib.suppress(OSError):  # a full disk may be why it is skipped
                write_json(self.task.tables / "skipped.json", self.skipped)

    def _under_way(self) -> dict[str, Any] | None:
        if self.impossible:
            return None
        bank: dict[str, str] = {}
        try:
            for pending in self.pending:
                # Weights that were copied a moment ago are in the checkpoint itself.
                if self.client is not None and pending.taken != self.trained and not pending.kept:
                    pending.kept = self.kept.keep(f"{pending.taken:09d}", self._files(pending))
            if self.bank is not None:
                bank = self.kept.keep(f"{self.trained:09d}-rank{self.run.rank}", self.bank.files)
        except OSError as error:
            log.warning("A run resumed from this checkpoint will skip a refresh: %s", error)
        return {
            "pending": [asdict(pending) for pending in self.pending],
            "skipped": self.skipped,
            "bank": {str(self.run.rank): bank},
        }

    def _files(self, pending: PendingRefresh) -> list[Path]:
        """The files that the worker reads for a refresh."""
        slot = self._slot(pending)
        bank = () if self.bank is None else Bank.files_of(self.folder / f"bank-slot{slot}")
        return [self.slots[slot].path, *bank]

    def _resume_under_way(self, state: dict[str, Any]) -> None:
        self.skipped = list(state["skipped"])
        if self.bank is not None:
            name = f"{self.trained:09d}-rank{self.run.rank}"
            try:
                own = state["bank"].get(str(self.run.rank)) or self.kept.find(name)
                self.kept.restore(own, self.bank.files)
            except (SnapshotError, OSError) as error:
                log.warning(
                    "Vectors of earlier steps can't be used, so the next refresh encodes more: %s", error
                )
                self.bank = self._bank(f"rank{self.run.rank}", fresh=True)
        for each in state["pending"]:
            pending = PendingRefresh(**each)
            self.pending.append(pending)
            if pending.taken == self.trained:
                self._copy(pending)
            elif self.client is not None:
                try:
                    self.kept.restore(pending.kept, self._files(pending))
                except (SnapshotError, OSError) as error:
                    self.client.fail(pending.taken, str(error))
                else:
                    self._ask(pending)
        self._meet()

    def stop(self) -> None:
        """End the worker, and give training its threads back. A checkpoint can still be written."""
        if self.client is not None:
            self.client.stop()
        if self._lent_threads:
            torch.set_num_threads(self._all_threads)

    def close(self) -> None:
        """End the worker, and remove the files that only it needed. Tables and what checkpoints name stay."""
        self.stop()
        if self.client is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group(self.group)
        self.group = None


def start_refresher(
    refresh: Refresh, task: MiningTask, run: TrainingRun, ahead: int, state: dict[str, Any]
) -> Refresher:
    """The refresher of a run, with its worker started if it has one; called by all ranks.

    Args:
        refresh: when to mine again.
        task: what is mined.
        run: for which training.
        ahead: batches that the loader prefetches.
        state: of the refresher in the checkpoint to resume, ``{}`` if there is none.

    Raises:
        ValueError: if the options can't be kept with this loader.
        OSError: if the disk has no room for the worker's files.
    """
    inline = refresh.mode == "inline" or run.trial
    if not inline and (reason := refresh.too_short(run.per_epoch, ahead)):
        _log_inline(run, reason)
        inline = True
    reuse = not inline and refresh.reuses_embeddings(run.nodes, all_trained=task.anchors is None)
    reused = len(task.ids) if reuse else None
    timetable = refresh.timetable(run.per_epoch, ahead, inline, reused, run.world_size)
    if not inline and timetable.period is not None:
        try:
            task.describe(run.encoder, {})
        except TypeError as error:
            _log_inline(run, f"no worker can do it; {error}")
            inline = True
    refresher: Refresher
    if inline or timetable.period is None:
        refresher = InlineRefresher(task, run, timetable)
    else:
        refresher = BackgroundRefresher(task, run, timetable, refresh, reuse)
    refresher.resume(state)
    return refresher


def _log_inline(run: TrainingRun, reason: str) -> None:
    if run.rank == 0:
        log.warning("Mining stops training each time (inline): %s", reason)
