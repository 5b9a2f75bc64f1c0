"""Mining in a process of its own while training goes on, from the trainer's side."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_metric.callbacks.mining_kept import CheckpointFiles
from lit_metric.data import Collator
from lit_metric.data.progress import stage
from lit_metric.encoders.packing import evaluating
from lit_metric.mining import shares
from lit_metric.mining.bank import Bank, files_of
from lit_metric.mining.ranks import Ranks
from lit_metric.mining.snapshot import Snapshot, SnapshotError, trained
from lit_metric.mining.supervisor import MiningFailed, Supervisor
from lit_metric.mining.task import Task
from lit_metric.mining.worker import Job
from lit_metric.refresh.schedule import Refresh, TableUse, TableUses, Timetable
from lit_metric.store import write_json

log = logging.getLogger(__name__)

SLOTS = 2


@dataclass
class Pending:
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


class Background:
    """Refreshes of the table by a worker process, which rank zero keeps.

    All ranks call the same methods at the same batches, and hold the same list of refreshes under way; what
    came of one, rank zero tells the others. On each further machine the first of its ranks keeps a worker,
    too, which encodes a share for that of rank zero.

    Args:
        task: what the worker of this machine is told.
        encoder: whose weights are copied.
        refresh: its options.
        clock: when to do what.
        folder: that of the tables.
        rank: of this process.
        world_size: the number of processes.
        machines: that they run on.
        first_of_machine: whether this is the first of its machine's.
        free: whether the vectors of training steps are taken.
        report: told what to log, on rank zero.
    """

    def __init__(
        self,
        task: Task,
        encoder: torch.nn.Module,
        refresh: Refresh,
        clock: Timetable,
        folder: Path,
        rank: int,
        world_size: int,
        machines: int,
        first_of_machine: bool,
        free: bool,
        report: Callable[[dict[str, float]], None],
    ) -> None:
        self.encoder: Any = encoder
        self.refresh = refresh
        self.clock = clock
        self.folder = folder
        self.rank, self.world_size, self.machines = rank, world_size, machines
        self.report = report
        self.pending: list[Pending] = []
        self.skipped: list[dict[str, Any]] = []
        self.impossible: str | None = None
        """Why the worker can't do what is asked for, once that is known on all ranks."""
        self.ranks = Ranks(refresh.timeout)
        self.machine = task.settings.machine
        self.place = folder / _named("worker", self.machine)
        self.kept = CheckpointFiles(folder / "kept")
        self.supervisor: Supervisor | None = None
        self.helper: Supervisor | None = None
        """Keeps a worker that encodes a share for that of rank zero."""
        self.ids = task.ids
        self.slots = [Snapshot(self.place / f"weights{slot}.safetensors") for slot in range(SLOTS)]
        self._own_threads = torch.get_num_threads()
        self._given_threads = 0
        if rank == 0:
            self._start(task, free)
        elif not self.ranks.agree(1):
            raise MiningFailed("the mining worker could not be started: see what rank zero says")
        elif self.machine and first_of_machine:
            self._help(task)
        self.bank = self._bank(f"rank{rank}", fresh=True) if free else None
        """Takes the vectors of this rank's training steps."""

    def _start(self, task: Task, free: bool) -> None:
        started = 0
        try:
            self.supervisor = self._worker(task)
            if free:
                for slot in range(SLOTS):
                    self._bank(f"slot{slot}", fresh=True)
            started = 1
        finally:
            self.ranks.agree(started)

    def _help(self, task: Task) -> None:
        try:
            self.helper = self._worker(task)
        except OSError as error:
            log.warning("Machine %d encodes nothing for mining, so rank zero's does: %s", self.machine, error)

    def _worker(self, task: Task) -> Supervisor:
        """Start the worker of this machine."""
        threads = task.settings.threads
        spec = task.write(self.place, self.encoder, _vectors(self.encoder, task))
        words = self.folder / f"{_named('worker', self.machine)}.log"
        supervisor = Supervisor(spec, threads, words, self.refresh.restarts)
        if task.settings.device == self.encoder.device.type == "cpu":
            self._given_threads = threads
        return supervisor

    def _bank(self, name: str, fresh: bool = False) -> Bank:
        return Bank(self.place / f"bank-{name}", self.ids, self.encoder.dimension, fresh)

    def spare_threads(self, batch: int) -> None:
        """On a CPU, leave the worker its threads while it is at work."""
        if self._given_threads:
            busy = self._mining(batch)
            # By the timetable and not by what the worker does: sums depend on the number of threads.
            wanted = max(1, self._own_threads - self._given_threads) if busy else self._own_threads
            if torch.get_num_threads() != wanted:
                torch.set_num_threads(wanted)

    def _mining(self, batch: int) -> bool:
        first = self.refresh.first_table == "in_background" and batch < self.clock.switch(0)
        return first or self.clock.mining(batch)

    def copy(self, done: int, step: int, epoch: int, uses: TableUses) -> None:
        """Copy the weights after ``done`` batches and begin a refresh.

        Raises:
            MiningFailed: if the slot is taken by a refresh that fails, and the miner is strict.
        """
        started = time.perf_counter()
        while len(self.pending) >= SLOTS:
            self._settle(self.pending[0], uses)
        pending = Pending(done, self.clock.switch(done), step, epoch)
        self.pending.append(pending)
        self._copy(pending, uses)
        if self.supervisor is not None:
            self.report({"snapshot_seconds": time.perf_counter() - started})

    def _copy(self, pending: Pending, uses: TableUses) -> None:
        if self.bank is not None:
            self.ranks.meet()  # all have put into their banks what they had
        if self.supervisor is not None:
            slot = self._slot(pending)
            try:
                self.slots[slot].write(trained(self.encoder))
                if self.bank is not None:
                    banks = [self._bank(f"rank{rank}") for rank in range(self.world_size)]
                    self._bank(f"slot{slot}").merge(banks)
            except OSError as error:
                self.supervisor.fail(pending.taken, str(error))
            else:
                self._ask(self.supervisor, pending, uses, self.machines)
        elif self.helper is not None:
            # With its own copy of the weights, which are the same on all ranks: no file has to come first.
            try:
                self.slots[self._slot(pending)].write(trained(self.encoder))
            except OSError as error:
                self.helper.fail(pending.taken, str(error))
            else:
                self._ask(self.helper, pending, uses, self.machines)
        if self.bank is not None:
            self.ranks.meet()  # none writes before they have been read

    def _slot(self, pending: Pending) -> int:
        assert self.clock.period is not None
        return pending.taken // self.clock.period % SLOTS

    def _ask(self, worker: Supervisor, pending: Pending, uses: TableUses, machines: int = 1) -> None:
        slot = self._slot(pending)
        job = Job(
            number=pending.taken,
            weights=str(self.slots[slot].path),
            step=pending.step,
            epoch=pending.epoch,
            bank=None if self.bank is None else str(self.place / f"bank-slot{slot}"),
            fresh_from=max(0, pending.taken - self.clock.per_epoch),
            previous=uses.uses[-1].version if uses else 0,
            machines=machines,
        )
        worker.ask(job)

    def look(self) -> None:
        """Notice what has become of the worker, without waiting."""
        if self.supervisor is not None:
            self.supervisor.look()
        if self.helper is None:
            return
        for outcome in self.helper.outcomes():
            if "error" in outcome:
                log.warning(
                    "Machine %d encodes no share for the refresh after batch %d, so rank zero's does: %s",
                    self.machine,
                    outcome["job"],
                    outcome["error"],
                )
        if self.helper.impossible is not None:
            log.warning("Machine %d encodes nothing for mining: %s", self.machine, self.helper.impossible)
            self.helper = None
            shutil.rmtree(self.place, ignore_errors=True)

    def bring_up_to(self, batch: int, uses: TableUses) -> None:
        """Take into use what ``batch`` must or may use.

        Raises:
            MiningFailed: if a refresh is given up, and the miner is strict.
        """
        while self.pending and self.impossible is None:
            pending = self.pending[0]
            if pending.first > batch:
                return
            self._settle(pending, uses)

    def _settle(self, pending: Pending, uses: TableUses) -> None:
        """Wait for a table, and take it into use or give it up, on all ranks alike."""
        self.pending.remove(pending)
        started, answer = time.perf_counter(), {}
        if self.supervisor is not None:
            with stage(f"waiting for the negatives that are mined since batch {pending.taken}"):
                answer = self.supervisor.wait(pending.taken, self.refresh.timeout)
        impossible = self.supervisor is not None and self.supervisor.impossible is not None
        version = self.ranks.agree(-1 if impossible else int(answer.get("version", 0)))
        if version < 0:
            self.impossible = str(answer.get("error", "see what rank zero says"))
            return
        stalled = time.perf_counter() - started
        if version:
            uses.add(TableUse(pending.first, version, pending.taken))
            if self.rank == 0:
                log.info(
                    "From batch %d on, negatives are those mined with the weights of batch %d, in %.1f s",
                    pending.first,
                    pending.taken,
                    answer.get("report", {}).get("seconds", stalled),
                )
        if self.supervisor is not None:
            restarted = float(self.supervisor.restarted)
            waited = {"stall_seconds": stalled, "skipped": float(not version), "restarts": restarted}
            self.report({**answer.get("report", {}), **waited, "delay": float(pending.first - pending.taken)})
        if not version:
            self._give_up(pending, str(answer.get("error", "see what rank zero says")))

    def _give_up(self, pending: Pending, reason: str) -> None:
        if self.refresh.strict:
            raise MiningFailed(f"negatives could not be mined after batch {pending.taken}: {reason}")
        self.skipped.append({"batch": pending.taken, "reason": reason})
        if self.rank == 0:
            log.warning(
                "The refresh after batch %d is skipped and the old table stays in use, so this run can't be "
                "reproduced exactly: %s",
                pending.taken,
                reason,
            )
            with contextlib.suppress(OSError):  # a full disk may be why it is skipped
                write_json(self.folder / "skipped.json", self.skipped)

    def state(self, done: int) -> dict[str, Any]:
        """What a checkpoint must say of the refreshes under way; keeps the files that they need."""
        bank: dict[str, str] = {}
        try:
            for pending in self.pending:
                # What was copied a moment ago is in the checkpoint itself.
                if self.supervisor is not None and pending.taken != done and not pending.kept:
                    pending.kept = self.kept.keep(f"{pending.taken:09d}", self._files(pending))
            if self.bank is not None:
                bank = self.kept.keep(f"{done:09d}-rank{self.rank}", list(self.bank.files))
        except OSError as error:
            log.warning("A run resumed from this checkpoint will skip a refresh: %s", error)
        return {
            "pending": [asdict(pending) for pending in self.pending],
            "skipped": self.skipped,
            "bank": {str(self.rank): bank},
        }

    def _files(self, pending: Pending) -> list[Path]:
        """What the worker reads for a refresh."""
        slot = self._slot(pending)
        bank = () if self.bank is None else files_of(self.place / f"bank-slot{slot}")
        return [self.slots[slot].path, *bank]

    def resume(self, state: dict[str, Any], uses: TableUses) -> None:
        """Go on where :meth:`state` was taken."""
        self.skipped = list(state["skipped"])
        if self.bank is not None:
            self._resume_bank(state)
        for each in state["pending"]:
            pending = Pending(**each)
            self.pending.append(pending)
            if pending.taken == state["trained"]:
                self._copy(pending, uses)
                continue
            if self.supervisor is None:
                continue
            try:
                self.kept.restore(pending.kept, self._files(pending))
            except (SnapshotError, OSError) as error:
                self.supervisor.fail(pending.taken, str(error))
            else:
                self._ask(self.supervisor, pending, uses)
        self.ranks.meet()

    def _resume_bank(self, state: dict[str, Any]) -> None:
        assert self.bank is not None
        own = state["bank"].get(str(self.rank)) or self.kept.find(f"{state['trained']:09d}-rank{self.rank}")
        try:
            self.kept.restore(own, list(self.bank.files))
        except (SnapshotError, OSError) as error:
            log.warning("Vectors of earlier steps can't be used, so the next refresh encodes more: %s", error)
            self.bank = self._bank(f"rank{self.rank}", fresh=True)

    def clear(self) -> None:
        """Remove what only the worker needed; tables and what checkpoints name stay."""
        if self.supervisor is not None or self.helper is not None:
            shutil.rmtree(self.place, ignore_errors=True)
        if self.supervisor is not None:
            shutil.rmtree(self.folder / shares.FOLDER, ignore_errors=True)
        self.ranks.part()

    def stop(self) -> None:
        """End the worker. A checkpoint can still be written."""
        for worker in (self.supervisor, self.helper):
            if worker is not None:
                worker.stop()
        if self._given_threads:
            torch.set_num_threads(self._own_threads)


@torch.no_grad()
def _vectors(encoder: Any, task: Task) -> Tensor:
    """What the encoder makes of the items by which a copy of it is recognised."""
    with evaluating(encoder):
        batch = Collator(task.items, task.tokens)(task.probed, torch.empty(0, dtype=torch.int64))
        return encoder(batch.to(encoder.device).inputs)[batch.anchors.to(encoder.device)]


def _named(name: str, machine: int) -> str:
    return f"{name}{machine}" if machine else name
