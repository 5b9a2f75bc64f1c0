"""Datasets and the sampler for a DataLoader: planned batches for training, chunks of items for encoding.

    loader = DataLoader(dataset, sampler=PlanSampler(len(dataset), ...), batch_size=None, num_workers=2)

The sampler runs in the main process and yields a :class:`Step`, which names the next batch. The dataset
builds that batch in a worker. Workers hold no state that could go stale: a batch depends on its step only, so
persistent workers and prefetching change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, IterableDataset

from lit_metric.batching.plan import BatchPlanner, Plan, VectorSource, share
from lit_metric.batching.plan_files import PlanFiles
from lit_metric.data.batch import Batch, Collator
from lit_metric.data.items import Items
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations
from lit_metric.data.rows_to_encode import RowsToEncode
from lit_metric.data.tokens import Tokenizer, Tokens, count_truncated, tokenize_in_memory

MAX_ITEMS = 4096
"""Items in a batch for encoding."""

NegativeSource = Callable[[Tensor, int, int, int, int], Tensor]


class Step(NamedTuple):
    """One batch of a run.

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

    It keeps the plan of the latest epoch.

    Args:
        planner: decides which items meet.
        ids: int64 global ids of the items to train on.
        relations: what belongs together.
        collator: builds a batch from ids.
        seed: the same for the whole run and on all ranks.
        rank: of this process.
        world_size: the number of processes that share each planned batch, by contiguous parts.
        negatives: called with ``(anchor_ids [A], seed, epoch, step, version)``; returns ids ``[A, n]`` of
            more candidates, -1 for none. It must be a pure function of its arguments. The dataset calls it
            for the anchors of *all* ranks and shares out the new candidates, so all ranks together see the
            batch that a single process would see. Must be picklable where workers are spawned.
        vectors: gives the items' vectors of a version, for a planner that uses them.
        plan_files: where the processes of a machine share plans. None: each makes its own, once per epoch.
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
        plan_files: PlanFiles | None = None,
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
        self.plan_files = plan_files
        self._plan: tuple[tuple[int, int], Plan] | None = None

    def plan(self, epoch: int, planned: int = 0) -> Plan:
        """The plan of ``epoch`` for all ranks, by the vectors of version ``planned`` if it uses any."""
        by_vectors = self.planner.uses_vectors
        key = epoch, planned if by_vectors else 0
        if self._plan is None or self._plan[0] != key:

            def make() -> Plan:
                given: dict[str, Any] = {}
                if by_vectors and planned and self.vectors is not None:
                    given["vectors"] = self.vectors(planned)
                return self.planner.plan(self.ids, self.relations, self.seed, epoch, **given)

            self._plan = None  # two plans of a large epoch need not be in memory together
            self._plan = key, make() if self.plan_files is None else self.plan_files.get(*key, make)
        return self._plan[1]

    def __len__(self) -> int:
        """The number of batches in every epoch."""
        if self.planner.uses_vectors:  # which are not there yet, so there is no plan
            return self.planner.length(self.ids, self.relations, self.seed)
        return len(self._plan[1] if self._plan is not None else self.plan(0))

    def __getitem__(self, index: Step | tuple[int, ...] | int) -> Batch:
        """The batch of a step. A bare number, as other samplers yield it, is a step of epoch 0."""
        epoch, step, version, planned = Step(0, index) if isinstance(index, int) else Step(*index)
        plan = self.plan(epoch, planned)
        anchors, candidates = plan.batch(step, self.rank, self.world_size)
        mined = None
        if self.negatives is not None:
            found = self.negatives(plan.anchors[step], self.seed, epoch, step, version)
            mined, known = share(found.long(), self.rank, self.world_size), plan.candidates[step]
            extra = torch.from_numpy(np.setdiff1d(found[found >= 0].numpy(), known.numpy()))
            candidates = torch.cat([candidates, share(extra.to(known.dtype), self.rank, self.world_size)])
        task = {} if plan.tasks is None else {"task": int(plan.tasks[step])}
        batch = self.collator(anchors, candidates, **task)
        return batch if mined is None else replace(batch, mined_negatives=mined)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plan": None}


class PlanSampler(DistributedSampler[Step]):
    """Yields a :class:`Step` for each remaining batch of an epoch.

    It is a ``DistributedSampler`` because Lightning replaces any other kind under a distributed strategy. All
    ranks get the same sequence, and the dataset takes the rank's share.

    Lightning starts iterating before it calls ``set_epoch``, and after a resume starts again at the first
    batch. So the sampler calls ``position_fn`` whenever an iteration begins. Its length is that of a full
    epoch all the same, because Lightning counts by it.

    Args:
        length: batches per epoch, ``len(dataset)``.
        position_fn: returns the epoch about to be iterated, and how many of its batches have been trained on
            already. By default the epoch of the last ``set_epoch``, and none. It may be called twice for an
            epoch (persistent workers do so), so it must have no effect.
        before_fn: called with ``(epoch, step)`` just before a batch is handed out, which is the loader's
            prefetching ahead of its use. It makes the batch's version available, and may wait.
        version_fn: called with ``(epoch, step)`` after that; returns the version of the table of negatives
            that a batch uses, by default 0. The version of step 0 is the one that the epoch is planned by.

    With Lightning::

        PlanSampler(len(dataset), position_fn=lambda: resume_position(trainer))
    """

    def __init__(
        self,
        length: int,
        position_fn: Callable[[], tuple[int, int]] | None = None,
        before_fn: Callable[[int, int], None] | None = None,
        version_fn: Callable[[int, int], int] | None = None,
    ) -> None:
        super().__init__(range(length), num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
        self.length = length
        self.position_fn = position_fn
        self.before_fn = before_fn
        self.version_fn = version_fn

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Step]:
        # Here and not in the generator: its body runs at the first batch only, when Lightning has already
        # changed its counters.
        epoch, start = (self.epoch, 0) if self.position_fn is None else self.position_fn()
        return self._steps(epoch, start)

    def _steps(self, epoch: int, start: int) -> Iterator[Step]:
        for step in range(start, self.length):
            if self.before_fn is not None:
                self.before_fn(epoch, step)
            versions = (0, 0) if self.version_fn is None else [self.version_fn(epoch, at) for at in (step, 0)]
            yield Step(epoch, step, *versions)


def resume_position(trainer: Any) -> tuple[int, int]:
    """The epoch that a train iterator made now will serve, and the number of its batches trained on before.

    The number is 0 except after a resume in the middle of an epoch.

    When Lightning makes the iterator of a resumed run (``FitLoop.setup_data``), it has loaded the
    checkpoint's counters but not corrected them: ``FitLoop.reset`` and ``_TrainingEpochLoop.reset`` come
    later. So this function repeats their work. ``epoch_loop.restarting`` is true from loading the checkpoint
    to the end of the first iteration. ``batch_progress.current`` counts the batches of the epoch. A later
    reset sets ``ready`` back to ``completed``, so a batch whose training failed is trained again. But a
    checkpoint saved in ``on_train_batch_end`` counts its own batch as processed and not as completed. If that
    was the epoch's last batch, Lightning moves on to the next epoch.

    Under ``max_steps``, after a resume from a checkpoint of ``on_train_epoch_end``, Lightning (2.6) counts
    one epoch too many from then on, and so does this function. ``max_epochs`` is not affected.
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


def chunks(items: Items, tokens: Tokens, ids: Tensor, max_tokens: int = 16384) -> list[Tensor]:
    """Cut ``ids`` into batches of items of similar size, longest first.

    A batch holds at most ``MAX_ITEMS`` items and about ``max_tokens`` tokens, or a single item. Where all
    distinct texts of the items fit together, as a vocabulary of tags does, only the number of items counts.

    Returns:
        int64 global ids, each of ``ids`` once.

    Raises:
        ValueError: if ``max_tokens`` is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    if not len(ids):
        return []
    texts = items.texts.select(ids)
    lengths = tokens.lengths
    if int(lengths[texts.values.unique()].sum()) <= max_tokens:
        return list(ids.split(MAX_ITEMS))
    sizes = torch.zeros(len(ids), dtype=torch.int64).index_add_(0, texts.segment_ids, lengths[texts.values])
    order = sizes.argsort(descending=True, stable=True)
    ends = sizes[order].cumsum(0).tolist()
    cuts, used = [0], 0
    for place, end in enumerate(ends):
        full = end - used > max_tokens or place - cuts[-1] >= MAX_ITEMS
        if full and place > cuts[-1]:
            cuts.append(place)
            used = ends[place - 1]
    return [ids[order[start:stop]] for start, stop in zip(cuts, [*cuts[1:], len(ids)], strict=True)]


class ChunkDataset(Dataset[Batch]):
    """One batch per chunk, whose anchors are the chunk's items; there are no candidates.

    Args:
        collator: builds batches from ids.
        chunks: global ids, see :func:`chunks`.
    """

    def __init__(self, collator: Collator, chunks: list[Tensor]) -> None:
        self.collator = collator
        self.chunks = Ragged.from_lengths(
            torch.cat([torch.empty(0, dtype=torch.int64), *chunks]),
            torch.tensor([len(chunk) for chunk in chunks], dtype=torch.int64),
        )

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Batch:
        return self.collator(self.chunks[index], torch.empty(0, dtype=torch.int64))


class BlockDataset(IterableDataset[Batch]):
    """The same for one block of items after the other, so a block is complete when the next one begins.

    Its length isn't known before, and samplers of several processes leave it as it is.

    Args:
        collator: builds batches from ids.
        blocks: global ids.
        max_tokens: of a batch, see :func:`chunks`.
    """

    def __init__(self, collator: Collator, blocks: Sequence[Tensor], max_tokens: int = 16384) -> None:
        self.collator = collator
        self.blocks = blocks
        self.max_tokens = max_tokens

    def __iter__(self) -> Iterator[Batch]:
        for block in self.blocks:
            for part in chunks(self.collator.items, self.collator.tokens, block, self.max_tokens):
                yield self.collator(part, torch.empty(0, dtype=torch.int64))


class RowDataset(IterableDataset[Batch]):
    """The same for blocks of rows that are read as they are needed. The ids of items are the rows.

    Args:
        rows: after its survey.
        blocks: numbers of blocks.
        tokenizer: of the encoder.
        max_tokens: of a batch, see :func:`chunks`.
        logged: whether to log at the end how many texts were cut.
    """

    def __init__(
        self,
        rows: RowsToEncode,
        blocks: Collection[int],
        tokenizer: Tokenizer,
        max_tokens: int = 16384,
        logged: bool = True,
    ) -> None:
        self.rows = rows
        self.blocks = blocks
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.logged = logged

    def __iter__(self) -> Iterator[Batch]:
        counts: dict[int, list[int]] = {}
        for block in self.rows.blocks(self.blocks):
            tokens = tokenize_in_memory(block.vocabulary, self.tokenizer)
            for limit, found in count_truncated(block.vocabulary, tokens, self.tokenizer).items():
                counts[limit] = [sum(pair) for pair in zip(counts.get(limit, [0, 0]), found, strict=True)]
            collator = Collator(block.items, tokens)
            for part in chunks(block.items, tokens, torch.arange(len(block.items)), self.max_tokens):
                batch = collator(part, torch.empty(0, dtype=torch.int64))
                yield replace(batch, item_ids=block.rows[batch.item_ids])
        if self.logged:
            from lit_metric.encoders.tokenizer import log_truncation  # workers don't load transformers

            log_truncation(counts)
