"""From plans to batches: the dataset and the sampler that a DataLoader is given.

    loader = DataLoader(dataset, sampler=PlanSampler(len(dataset), ...), batch_size=None, num_workers=2)

The sampler runs in the main process and says *which* batch comes next, a :class:`Step`; the dataset, in the
workers, builds it. Workers hold no state that could go stale: everything follows from that step, so
persistent workers and prefetching change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from lit_metric.batching.plan import BatchPlanner, Plan, share
from lit_metric.batching.vectors import VectorSource
from lit_metric.data.batch import Batch, Collator
from lit_metric.data.relations import Relations

NegativeSource = Callable[[Tensor, int, int, int, int], Tensor]


class Step(NamedTuple):
    """Which batch.

    Args:
        epoch: from 0.
        step: of that epoch, from 0.
        version: of the table that its negatives are drawn from.
        planned: the version whose vectors the epoch is planned by; the same for all of its steps.
    """

    epoch: int
    step: int
    version: int = 0
    planned: int = 0


class PlanDataset(Dataset[Batch]):
    """The batches of a planner's plans, by :class:`Step`, as one rank sees them.

    The plan of the latest epoch is kept, so a worker plans once per epoch.

    Args:
        planner: decides who meets whom.
        ids: int64 global ids of the items to train on.
        relations: what belongs together.
        collator: builds a batch from ids.
        seed: the same for the whole run and on all ranks.
        rank: of this process.
        world_size: the number of processes that share each planned batch, by contiguous parts.
        negatives: called with ``(anchor_ids [A], seed, epoch, step, version)`` for more candidates: ids ``[A,
            n]``, -1 for none, a pure function of its arguments. It is asked for the anchors of *all* ranks;
            what it returns and is not a candidate already is shared out, so that the ranks together always
            see the batch that a single process would see. Must be picklable where workers are spawned.
        vectors: gives the items' vectors of a version, for a planner that uses them.
    """

    def __init__(
        self,
        planner: BatchPlanner,
        ids: Tensor,
        relations: Relations,
        collator: Collator,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        negatives: NegativeSource | None = None,
        vectors: VectorSource | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be within 0..{world_size - 1}, not {rank}")
        self.planner = planner
        self.ids = ids
        self.relations = relations
        self.collator = collator
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.negatives = negatives
        self.vectors = vectors
        self._plan: tuple[tuple[int, int], Plan] | None = None

    def plan(self, epoch: int, planned: int = 0) -> Plan:
        """The plan of ``epoch`` by the vectors of version ``planned``, if it uses any, all ranks together."""
        by_vectors = self.planner.uses_vectors
        key = epoch, planned if by_vectors else 0
        if self._plan is None or self._plan[0] != key:
            vectors = self.vectors(planned) if by_vectors and planned and self.vectors is not None else None
            self._plan = key, self.planner.plan_by(vectors, self.ids, self.relations, self.seed, epoch)
        return self._plan[1]

    def __len__(self) -> int:
        """The number of batches in every epoch."""
        if self.planner.uses_vectors:  # the plan itself has to wait for them
            return self.planner.length(self.ids, self.relations, self.seed)
        return len(self._plan[1] if self._plan is not None else self.plan(0))

    def __getitem__(self, index: Step | tuple[int, ...] | int) -> Batch:
        """The batch of a step; a bare number, as other samplers give it, is one of epoch 0."""
        epoch, step, version, planned = Step(0, index) if isinstance(index, int) else Step(*index)
        plan = self.plan(epoch, planned)
        anchors, candidates = plan.batch(step, self.rank, self.world_size)
        own = None
        if self.negatives is not None:
            drawn = self.negatives(plan.anchors[step], self.seed, epoch, step, version)
            own, known = share(drawn.long(), self.rank, self.world_size), plan.candidates[step]
            extra = torch.from_numpy(np.setdiff1d(drawn[drawn >= 0].numpy(), known.numpy()))
            candidates = torch.cat([candidates, share(extra.to(known.dtype), self.rank, self.world_size)])
        task = {} if plan.tasks is None else {"task": int(plan.tasks[step])}
        batch = self.collator(anchors, candidates, **task)
        return batch if own is None else replace(batch, mined_negatives=own)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plan": None}


class PlanSampler(DistributedSampler[Step]):
    """Yields a :class:`Step` for each batch that is left of an epoch.

    It is a ``DistributedSampler`` because Lightning replaces any other kind under a distributed strategy; all
    ranks get the same sequence, and the dataset takes the rank's share.

    Lightning starts iterating before it calls ``set_epoch``, and after a resume starts again at the first
    batch. So the sampler asks where training stands: ``epoch_fn`` and ``start_fn`` are called whenever an
    iteration begins. Its length is that of a full epoch all the same, which is what Lightning counts by.

    Args:
        length: batches per epoch, ``len(dataset)``.
        epoch_fn: the epoch about to be iterated; by default what ``set_epoch`` was last told.
        start_fn: how many of its batches have been trained on already; by default none. Both may be called
            twice for an epoch (persistent workers do so), and so must only look.
        version_fn: called with ``(epoch, step)`` just before each batch is handed out, which is the loader's
            prefetching ahead of its use; by default 0. It may wait.
        planned_fn: called with ``epoch`` after that, for the version that the epoch is planned by; by default
            0.

    With Lightning::

        PlanSampler(
            len(dataset),
            epoch_fn=lambda: resume_epoch(trainer),
            start_fn=lambda: resume_position(trainer),
        )
    """

    def __init__(
        self,
        length: int,
        epoch_fn: Callable[[], int] | None = None,
        start_fn: Callable[[], int] | None = None,
        version_fn: Callable[[int, int], int] | None = None,
        planned_fn: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__(range(length), num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
        self.length = length
        self.epoch_fn = epoch_fn
        self.start_fn = start_fn
        self.version_fn = version_fn
        self.planned_fn = planned_fn

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Step]:
        # Asked here, not in the generator: its body would only run at the first batch, when Lightning has
        # already changed its counters.
        epoch = self.epoch if self.epoch_fn is None else self.epoch_fn()
        start = 0 if self.start_fn is None else self.start_fn()
        return self._steps(epoch, start)

    def _steps(self, epoch: int, start: int) -> Iterator[Step]:
        for step in range(start, self.length):
            version = 0 if self.version_fn is None else self.version_fn(epoch, step)
            yield Step(epoch, step, version, 0 if self.planned_fn is None else self.planned_fn(epoch))


def resume_position(trainer: Any) -> int:
    """How many batches of the coming epoch have been trained on before: 0 but after a resume in mid-epoch.

    To be called when the train loader's iterator is made; see :func:`resume_epoch` for the epoch it belongs
    to.
    """
    return _position(trainer)[1]


def resume_epoch(trainer: Any) -> int:
    """The epoch that a train iterator made now will serve.

    ``trainer.current_epoch`` is one less after a resume from a checkpoint of ``on_train_epoch_end``.

    Under ``max_steps``, after a resume from such a checkpoint, Lightning (2.6) counts one epoch too many from
    then on, and this follows it; ``max_epochs`` is not affected.
    """
    return _position(trainer)[0]


def _position(trainer: Any) -> tuple[int, int]:
    """Epoch and step at which Lightning's fit loop will go on.

    When Lightning makes the iterator of a resumed run (``FitLoop.setup_data``) the checkpoint's counters are
    loaded but not put right yet (``FitLoop.reset`` and ``_TrainingEpochLoop.reset`` come later), so this
    repeats what they will do. ``epoch_loop.restarting`` is true from loading the checkpoint to the end of the
    first iteration. ``batch_progress.current`` counts the batches of the epoch; at a later reset ``ready``
    falls back to ``completed``, so a batch whose training failed is trained again. But a checkpoint saved in
    ``on_train_batch_end`` has that very batch processed and not yet counted as completed, and if it was the
    epoch's last batch, Lightning moves on to the next epoch.
    """
    fit_loop = trainer.fit_loop
    progress, epochs = fit_loop.epoch_loop.batch_progress, fit_loop.epoch_progress
    epoch = int(epochs.current.processed)
    if not fit_loop.epoch_loop.restarting:
        return epoch, 0
    total = progress.total
    at_batch_end = total.ready == total.started == total.processed == total.completed + 1
    within_epoch = epochs.total.ready == epochs.total.started == epochs.total.processed + 1
    if at_batch_end and progress.is_last_batch:
        return (epoch + 1 if within_epoch else epoch), 0
    return epoch, int(progress.current.completed) + int(at_batch_end)
