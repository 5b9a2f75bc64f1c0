"""Keeps the table of hard negatives fresh, with training stopped meanwhile or not."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_metric.callbacks.mining_background import Background
from lit_metric.callbacks.mining_inline import items_to_mine, mine_inline, tokenizer_of
from lit_metric.callbacks.mining_kept import CheckpointFiles
from lit_metric.callbacks.mining_task import describe
from lit_metric.data import Batch
from lit_metric.datamodule import MetricDataModule
from lit_metric.loggers import run_folder
from lit_metric.mining import NegativeTable, TableError, TableVectors, collect_versions
from lit_metric.mining.sample import add_texts
from lit_metric.mining.snapshot import fingerprint
from lit_metric.mining.texts import text_of_items
from lit_metric.refresh.schedule import TableUse, TableUses, Timetable

__all__ = ["MiningCallback", "fingerprint"]

log = logging.getLogger(__name__)


class MiningCallback(Callback):
    """Keeps the data module's table of hard negatives fresh; does nothing where it has no miner.

    Before the first batch all ranks encode the training items by shares and rank zero mines version 1 under
    ``RUN/negatives``, unless ``first_table`` of :class:`~lit_metric.Refresh` says otherwise. Later versions
    are mined the same way, or by a worker process while training goes on (see ``mode`` there). The plan names
    the version that each batch uses, 0 for no table. A checkpoint names those that it needs, with a copy of
    the weights of a refresh under way, so that a resumed run goes on with the same; what the checkpoints of
    this run name is not collected.

    Logs ``mining/seconds``, what the miner reports (``mining/rejected/FILTER``, ``mining/without``, ...) and
    ``mining/staleness``, the number of batches since the weights of the table in use; of refreshes in the
    background also ``mining/stall_seconds`` (training waited), ``mining/snapshot_seconds``,
    ``mining/delay``, ``mining/overlap`` (with the table before), ``mining/encoded`` (the share of items that
    was encoded for it), ``mining/restarts`` and ``mining/skipped``.
    """

    def __init__(self) -> None:
        self.uses = TableUses()
        self.trained = 0
        """Batches of the whole run that have been trained on."""
        self.clock = Timetable(1, None, 0)
        self.background: Background | None = None
        self._plans = False
        self._saved: dict[str, Any] = {}
        self._temporary: TemporaryDirectory[str] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether the checkpoint's tables are there, start the worker if there is to be one, and have the
        data module ask before each batch."""
        data = self._data(trainer)
        if data is None:
            return
        assert data.miner is not None
        data.tables = (run_folder(trainer) or self._scratch(trainer)) / "negatives"
        per_epoch = batches_of_epoch(trainer, data)
        ahead = data.num_workers * data.prefetch_factor + 1
        inline = data.refresh.mode == "inline" or bool(getattr(trainer, "fast_dev_run", False))
        if not inline and (reason := data.refresh.too_short(per_epoch, ahead)):
            _say_inline(trainer, reason)
            inline = True
        assert data.dataset is not None
        all_trained = data.dataset.corpus_of("train") is None
        free = not inline and data.refresh.reuses_embeddings(trainer.num_nodes, all_trained)
        reused = len(items_to_mine(data)[0]) if free else None
        self.clock = data.refresh.timetable(per_epoch, ahead, inline, reused, trainer.world_size)
        self._keep_time(trainer)
        try:
            for version in {use.version for use in self.uses.uses if use.version}:
                NegativeTable.open(data.tables, version, data.corpus, tokenizer=tokenizer_of(pl_module))
                if data.planner.uses_vectors:
                    TableVectors(data.tables, data.corpus)(version)
        except TableError as error:
            log.warning("The checkpoint's table of negatives can't be used, so one is mined: %s", error)
            self.uses = TableUses()
        if not inline and self.clock.period is not None:
            self.background = self._start(trainer, pl_module, data, free)
        data.version_for = partial(self._version_for, trainer, pl_module, data)
        data.planned_for = self._planned_for
        self._plans = data.planner.uses_vectors

    def _keep_time(self, trainer: Trainer) -> None:
        """Forget what the checkpoint says in batches, where these are counted otherwise now."""
        times = self._saved.get("times")
        if times is None or times == [self.clock.per_epoch, self.clock.period, self.clock.delay]:
            return
        if (self._saved.get("background") or {}).get("pending") and trainer.is_global_zero:
            log.info(
                "The refresh under way in the checkpoint is dropped, as the miner's timetable is another"
            )
        self._saved = {**self._saved, "background": None}
        if times[0] != self.clock.per_epoch:
            self.uses = TableUses()
            # The checkpoint is from the end of an epoch, or it would have been refused.
            self.trained = self.trained // times[0] * self.clock.per_epoch

    def _start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        data: MetricDataModule,
        free: bool,
    ) -> Background | None:
        assert data.tables is not None
        try:
            task = describe(trainer, pl_module, data, data.tables)
        except TypeError as error:
            _say_inline(trainer, f"a process can't be told how; {error}")
            return None
        background = Background(
            task,
            pl_module.encoder,  # type: ignore[arg-type]
            data.refresh,
            self.clock,
            data.tables,
            trainer.global_rank,
            trainer.world_size,
            trainer.num_nodes,
            trainer.local_rank == 0,
            free,
            partial(_log, trainer),
        )
        if self._saved.get("background"):
            background.resume({**self._saved["background"], "trained": self.trained}, self.uses)
        return background

    def _scratch(self, trainer: Trainer) -> Path:
        """A folder for the tables of a run that writes nothing, removed when it ends."""
        self._temporary = TemporaryDirectory(prefix="lit-metric-") if trainer.is_global_zero else None
        return Path(trainer.strategy.broadcast(self._temporary.name if self._temporary else ""))

    def _version_for(
        self, trainer: Trainer, pl_module: LightningModule, data: MetricDataModule, epoch: int, step: int
    ) -> int:
        """The version that a batch uses, which is mined now if it must be.

        Asked when the loader prepares the batch, so not when the epoch before ends: a run that is resumed
        from the last batch of an epoch never sees that end.
        """
        assert data.miner is not None
        if step >= self.clock.per_epoch and self.uses:  # prefetched, but beyond limit_train_batches
            return self.uses.uses[-1].version
        batch = self.clock.batch(epoch, step)
        if not self.uses and batch == 0 and data.refresh.first_table == "in_background":
            self.uses.add(TableUse(0, 0, 0))
            if self.background is not None:
                self.background.copy(0, trainer.global_step, epoch, self.uses)
        if not self.uses:
            self._mine(trainer, pl_module, data, batch)
        elif self.background is None:
            if self.clock.last_due(batch) > self.uses.uses[-1].first:
                self._mine(trainer, pl_module, data, batch)
        else:
            before = len(self.uses.uses)
            self.background.bring_up_to(batch, self.uses)
            if len(self.uses.uses) > before:
                self._show(trainer, data)
                self._collect(trainer, data)
            if self.background.impossible is not None:
                _say_inline(trainer, f"a process can't be told how; {self.background.impossible}")
                self._stop()
                self.background.clear()
                self.background = None
                self._mine(trainer, pl_module, data, batch)
        return self.uses.at(batch).version

    def _planned_for(self, epoch: int) -> int:
        """The version that an epoch is planned by: that in use at its first batch."""
        return self.uses.at(self.clock.batch(epoch, 0)).version

    def _needed(self) -> tuple[int, int | None]:
        """From which batch on versions are needed, and which batch's besides, to plan this epoch again."""
        return self.trained, self.clock.start(self.trained) if self._plans else None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Log how old the table is, and share out the threads."""
        if self.uses:
            number = self.clock.batch(trainer.current_epoch, batch_idx)
            use = self.uses.at(number)
            if use.version:
                pl_module.log("mining/staleness", float(number - use.taken), batch_size=1)
            if self.background is not None:
                self.background.spare_threads(number)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Copy the weights when it is time."""
        number = self.clock.batch(trainer.current_epoch, batch_idx)
        self.trained = number + 1
        if self.background is not None:
            self.background.look()
            if self.background.bank is not None:
                self.background.bank.put(batch.item_ids, outputs["vectors"], number)
            if self.clock.due(self.trained):
                self.background.copy(self.trained, trainer.global_step, trainer.current_epoch, self.uses)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the worker: evaluations to come should have the machine for themselves."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the worker."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the worker, whatever else failed, and remove what it leaves."""
        self._stop()
        if self.background is not None:
            self.background.clear()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _stop(self) -> None:
        if self.background is not None:
            self.background.stop()

    def _data(self, trainer: Trainer) -> MetricDataModule | None:
        data = getattr(trainer, "datamodule", None)
        return data if isinstance(data, MetricDataModule) and data.miner is not None else None

    def _mine(self, trainer: Trainer, pl_module: LightningModule, data: MetricDataModule, batch: int) -> None:
        """Mine inline for ``batch`` and those after it."""
        started = time.perf_counter()
        mined = mine_inline(trainer, pl_module, data)
        self.uses.add(TableUse(batch, mined["version"], min(batch, self.trained)))
        self._show(trainer, data)
        if self.background is None or not self.background.pending:
            self._collect(trainer, data)
        _log(trainer, {**mined["report"], "seconds": time.perf_counter() - started})

    def _show(self, trainer: Trainer, data: MetricDataModule) -> None:
        """Let people read the texts in the sample of the version that has just come into use."""
        if trainer.is_global_zero:
            assert data.tables is not None
            texts = partial(text_of_items, data.items, data.vocabulary)
            add_texts(data.tables, self.uses.uses[-1].version, texts, data.items.keys)

    def _collect(self, trainer: Trainer, data: MetricDataModule) -> None:
        """Remove what neither a batch to come nor a checkpoint needs."""
        self.uses = TableUses(self.uses.from_batch(*self._needed()))
        if trainer.is_global_zero:
            assert data.tables is not None
            states = states_in_checkpoints(trainer)
            named = {int(use[1]) for state in states for use in state.get("uses", [])}
            collect_versions(data.tables, keep=named | {use.version for use in self.uses.uses})
            files = {name for state in states for name in _files(state)}
            CheckpointFiles(data.tables / "kept").collect(files, before=self.trained)

    def state_dict(self) -> dict[str, Any]:
        """The versions in use, and the refreshes under way."""
        background = None if self.background is None else self.background.state(self.trained)
        uses = [list(use) for use in self.uses.from_batch(*self._needed())]
        times = [self.clock.per_epoch, self.clock.period, self.clock.delay]
        return {"uses": uses, "trained": self.trained, "background": background, "times": times}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What to go on with."""
        self._saved = state_dict
        # Earlier versions saved something else; a table is mined then.
        self.uses, self.trained = TableUses(state_dict.get("uses", [])), int(state_dict.get("trained", 0))


def _say_inline(trainer: Trainer, reason: str) -> None:
    if trainer.is_global_zero:
        log.warning("Mining stops training each time (inline): %s", reason)


def states_in_checkpoints(trainer: Trainer) -> list[dict[str, Any]]:
    """What this callback saved in the checkpoints that there are."""
    folders = {
        Path(folder) for each in trainer.checkpoint_callbacks if (folder := getattr(each, "dirpath", None))
    }
    paths = {path for folder in folders for path in folder.glob("*.ckpt")}
    if trainer.ckpt_path:
        paths.add(Path(trainer.ckpt_path))
    states = []
    for path in filter(Path.is_file, paths):
        # Mapped, not read: nothing but the small values is looked at.
        callbacks = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("callbacks", {})
        if MiningCallback.__name__ in callbacks:
            states.append(callbacks[MiningCallback.__name__])
    return states


def _files(state: dict[str, Any]) -> list[str]:
    background = state.get("background") or {"pending": [], "bank": {}}
    parts = [*(pending["kept"] for pending in background["pending"]), *background["bank"].values()]
    return [name for part in parts for name in part]


def batches_of_epoch(trainer: Trainer, data: MetricDataModule) -> int:
    """Batches of an epoch that are trained on."""
    batches, limit = data.batches_per_epoch, trainer.limit_train_batches
    return max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))


def _log(trainer: Trainer, values: dict[str, float]) -> None:
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"mining/{name}": value for name, value in values.items()}, trainer.global_step
            )
