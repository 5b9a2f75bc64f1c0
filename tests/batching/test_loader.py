"""Datasets and samplers: the same batches on any number of workers and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from lit_metric.batching import BatchPlanner, NPairPlanner, PKPlanner, PlanDataset, PlanSampler, Step
from lit_metric.batching.plan import share
from lit_metric.data import Batch, Collator, Items, LabelRelations, tokenize
from tests.forked import SERVER

LABELS = [number % 12 for number in range(100)]


class Bytes:
    fingerprint = "bytes"

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def prompt_tokens(self) -> int:
        return 0


@pytest.fixture
def data(tmp_path) -> tuple[LabelRelations, Collator]:
    items, vocabulary = Items.encode([[f"text {number}"] for number in range(100)])
    relations = LabelRelations(
        torch.tensor(LABELS), [str(number) for number in range(12)], items.fingerprints
    )
    return relations, Collator(items, tokenize(vocabulary, Bytes(), tmp_path))


def dataset_of(
    data: tuple[LabelRelations, Collator], planner: BatchPlanner | None = None, **options
) -> PlanDataset:
    relations, collator = data
    return PlanDataset(planner or PKPlanner(4, 3), torch.arange(100), relations, collator, **options)


def ids_of(batch: Batch) -> tuple[list[int], list[int]]:
    return batch.anchor_ids.tolist(), batch.candidate_ids.tolist()


def negatives(anchors: Tensor, seed: int, epoch: int, step: int, version: int) -> Tensor:
    """Two a row: one that depends on everything, and for odd anchors nothing else."""
    first = (anchors * 7 + seed + epoch + step + version) % 100
    return torch.stack([first, torch.where(anchors % 2 == 1, -1, (anchors * 3) % 100)], dim=1)


def loader_of(dataset: PlanDataset, workers: int, context: Any = None, **options) -> DataLoader:
    sampler = PlanSampler(len(dataset), **options)
    return DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=context,
    )


def test_items_are_those_of_the_plan_with_their_texts(data):
    dataset = dataset_of(data, seed=3)
    plan = PKPlanner(4, 3).plan(torch.arange(100), data[0], 3, 2)
    assert len(dataset) == len(plan) == 9
    for step in range(9):
        batch = dataset[2, step, 0]
        assert ids_of(batch) == (plan.anchors[step].tolist(), plan.candidates[step].tolist())
        texts = [bytes(row).decode() for row in batch.tokens.tolist()]
        assert texts == [f"text {number}" for number in batch.item_ids.tolist()]


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (1, SERVER)])
def test_any_number_of_workers_gives_the_same_epochs(data, workers, context):
    position = {"epoch": 0}
    dataset = dataset_of(data, negatives=negatives)
    loader = loader_of(dataset, workers, context, position_fn=lambda: (position["epoch"], 0))
    expected = dataset_of(data, negatives=negatives)
    for epoch in (0, 1, 4):
        position["epoch"] = epoch
        seen = [ids_of(batch) for batch in loader]
        assert seen == [ids_of(expected[epoch, step, 0]) for step in range(9)]
    assert len(loader) == 9


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("planner", [PKPlanner(4, 3), NPairPlanner(7)])
def test_ranks_together_see_the_batch_of_a_single_process(data, planner, world_size):
    alone = dataset_of(data, planner, seed=5, negatives=negatives)
    ranks = [
        dataset_of(data, planner, seed=5, rank=rank, world_size=world_size, negatives=negatives)
        for rank in range(world_size)
    ]
    for step in range(len(alone)):
        anchors, candidates = ids_of(alone[1, step, 2])
        parts = [ids_of(rank[1, step, 2]) for rank in ranks]
        assert [item for part, _ in parts for item in part] == anchors
        drawn = torch.cat([rank[1, step, 2].mined_negatives for rank in ranks])
        assert torch.equal(drawn, negatives(torch.tensor(anchors), 5, 1, step, 2))
        together = [item for _, part in parts for item in part]
        assert len(together) == len(candidates)
        assert sorted(together) == sorted(candidates)
        sizes = [len(part) for part, _ in parts]
        assert max(sizes) - min(sizes) <= 1


def test_shares_are_contiguous_and_whole():
    ids = torch.arange(10, 23)
    for world_size in range(1, 16):
        parts = [share(ids, rank, world_size) for rank in range(world_size)]
        assert torch.cat(parts).tolist() == ids.tolist()
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1


def test_drawn_negatives_become_candidates_once(data):
    dataset = dataset_of(data, NPairPlanner(7), seed=1, negatives=negatives)
    plan = dataset.plan(2)
    for step in range(len(plan)):
        anchors, candidates = plan.anchors[step], plan.candidates[step].tolist()
        drawn = negatives(anchors, 1, 2, step, 9).flatten().tolist()
        got = dataset[2, step, 9].candidate_ids.tolist()
        assert torch.equal(dataset[2, step, 9].mined_negatives, negatives(anchors, 1, 2, step, 9))
        assert got[: len(candidates)] == candidates
        extra = got[len(candidates) :]
        assert len(extra) == len(set(extra))
        assert set(extra) == set(drawn) - set(candidates) - {-1}


def test_a_source_that_draws_nothing_changes_nothing(data):
    def nothing(anchors: Tensor, *_: int) -> Tensor:
        return torch.full((len(anchors), 4), -1, dtype=torch.int32)

    batch = dataset_of(data, negatives=nothing)[0, 0, 0]
    assert ids_of(batch) == ids_of(dataset_of(data)[0, 0, 0])
    assert batch.candidates.dtype == batch.mined_negatives.dtype == torch.int64
    assert dataset_of(data)[0, 0, 0].mined_negatives is None


def test_a_plan_is_made_once_an_epoch(data):
    class Counting(PKPlanner):
        epochs: list[int] = []  # noqa: RUF012

        def plan(self, ids, relations, seed, epoch):
            self.epochs.append(epoch)
            return super().plan(ids, relations, seed, epoch)

    dataset = dataset_of(data, Counting(4, 3))
    for epoch in (0, 1):
        for step in range(len(dataset)):
            dataset[epoch, step, 0]
    assert Counting.epochs == [0, 1]


def plain(sampler: PlanSampler) -> list[Step]:
    steps: Iterator[Step] = iter(sampler)
    return list(steps)


def test_the_sampler_yields_what_is_left_but_counts_all():
    position = {"epoch": 3, "start": 2}
    sampler = PlanSampler(5, lambda: (position["epoch"], position["start"]))
    assert plain(sampler) == [(3, 2, 0, 0), (3, 3, 0, 0), (3, 4, 0, 0)]
    position.update(epoch=4, start=0)
    sampler.set_epoch(17)  # what Lightning calls, too late
    assert plain(sampler) == [(4, step, 0, 0) for step in range(5)]
    position.update(start=5)
    assert plain(sampler) == []
    assert len(sampler) == 5
    assert isinstance(sampler, DistributedSampler)


def test_the_position_is_asked_when_iteration_begins_not_at_the_first_batch():
    position = {"epoch": 1}
    sampler = PlanSampler(2, lambda: (position["epoch"], 0))
    steps = iter(sampler)
    position["epoch"] = 2
    assert list(steps) == [(1, 0, 0, 0), (1, 1, 0, 0)]


def test_each_version_is_made_available_before_its_batch_and_an_epoch_is_planned_by_that_of_its_first():
    current = {"version": 0}
    calls = []

    def before(epoch: int, step: int) -> None:
        calls.append((epoch, step))

    def version(epoch: int, step: int) -> int:
        assert calls[-1] in ((epoch, step), (epoch, 1), (epoch, 2))
        return 100 * epoch + 10 * step + current["version"]

    steps = iter(PlanSampler(3, lambda: (1, 1), before, version))
    assert next(steps) == (1, 1, 110, 100)
    assert calls == [(1, 1)]
    current["version"] = 1
    assert list(steps) == [(1, 2, 121, 101)]
    assert calls == [(1, 1), (1, 2)]


def test_a_plain_loop_tells_the_epoch_by_set_epoch():
    sampler = PlanSampler(2)
    assert plain(sampler) == [(0, 0, 0, 0), (0, 1, 0, 0)]
    sampler.set_epoch(6)
    assert plain(sampler) == [(6, 0, 0, 0), (6, 1, 0, 0)]


def test_a_sequential_sampler_repeats_the_first_epoch(data):
    """Which is what Lightning puts in place of any sampler when asked to overfit some batches."""
    dataset = dataset_of(data)
    loader = DataLoader(dataset, sampler=SequentialSampler(dataset), batch_size=None)
    for _ in range(2):
        assert [ids_of(batch) for batch in loader] == [ids_of(dataset[0, step, 0]) for step in range(9)]


def test_a_rank_out_of_range_is_refused(data):
    with pytest.raises(ValueError, match=r"rank must be within 0\.\.1, not 2"):
        dataset_of(data, rank=2, world_size=2)
