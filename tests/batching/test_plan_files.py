"""One process of a machine makes a plan, and the others read it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader

from lit_metric.batching import (
    BatchPlanner,
    MixturePlanner,
    PairPlanner,
    PKPlanner,
    Plan,
    PlanDataset,
    PlanFiles,
    PlanSampler,
)
from lit_metric.data import (
    Collator,
    Items,
    LabelRelations,
    PairRelations,
    Relations,
    Tokens,
    UnionRelations,
)
from tests.forked import SERVER


class Counted(BatchPlanner):
    """Another planner, with a file for each plan that any process made."""

    def __init__(self, planner: BatchPlanner, folder: Path) -> None:
        self.planner = planner
        self.folder = folder

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        made = sum(path.name.startswith(f"{epoch}-") for path in self.folder.iterdir())
        (self.folder / f"{epoch}-{made}").touch(exist_ok=False)
        return self.planner.plan(ids, relations, seed, epoch)

    def made(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


LABELS = LabelRelations(torch.arange(60) % 6, [str(number) for number in range(6)], torch.arange(60))
PAIRS = PairRelations(torch.arange(30), torch.arange(30) + 30, None, torch.arange(60))


def rows(plan: Plan) -> tuple[list[list[int]], list[list[int]], list[int] | None]:
    tasks = None if plan.tasks is None else plan.tasks.tolist()
    return plan.anchors.tolist(), plan.candidates.tolist(), tasks


@pytest.mark.parametrize(
    ("planner", "relations", "ids"),
    [
        (PKPlanner(4, 3), LABELS, torch.arange(60)),
        (PairPlanner(8), PAIRS, torch.arange(30)),
        (
            MixturePlanner([PKPlanner(4, 3), PairPlanner(8)]),
            UnionRelations([LABELS, PAIRS]),
            torch.arange(90),
        ),
    ],
)
def test_a_plan_is_read_as_it_was_made(tmp_path, planner, relations, ids):
    plan = planner.plan(ids, relations, 3, 1)
    files = PlanFiles(tmp_path / "plans")
    for _ in range(2):
        assert rows(files.get(1, 0, lambda: plan)) == rows(plan)
    assert (files.get(1, 0, lambda: plan).candidates.values.dtype) == torch.int64


def test_plans_of_old_epochs_are_removed_and_made_again_on_demand(tmp_path):
    files = PlanFiles(tmp_path)
    plans = {epoch: PKPlanner(4, 3).plan(torch.arange(60), LABELS, 0, epoch) for epoch in range(4)}
    for epoch, plan in plans.items():
        files.get(epoch, 0, lambda plan=plan: plan)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "000000002-0.safetensors",
        "000000003-0.safetensors",
    ]
    assert rows(files.get(0, 0, lambda: plans[0])) == rows(plans[0])


@pytest.mark.parametrize("full", [False, True])
def test_without_room_for_files_each_process_makes_its_plans(tmp_path, monkeypatch, caplog, full):
    if full:
        error = SafetensorError("No space left on device")
        monkeypatch.setattr("lit_metric.batching.plan_files.save_file", Mock(side_effect=error))
    else:
        (tmp_path / "plans").touch()  # so there can be no folder of this name
    files = PlanFiles(tmp_path / "plans")
    for epoch in range(2):
        plan = PKPlanner(4, 3).plan(torch.arange(60), LABELS, 0, epoch)
        assert rows(files.get(epoch, 0, lambda plan=plan: plan)) == rows(plan)
    assert caplog.text.count("plans can't be shared") == 1


def test_another_version_of_the_vectors_is_another_plan(tmp_path):
    files = PlanFiles(tmp_path)
    first, second = (PKPlanner(4, 3).plan(torch.arange(60), LABELS, seed, 0) for seed in (0, 1))
    assert rows(files.get(0, 1, lambda: first)) == rows(first)
    assert rows(files.get(0, 2, lambda: second)) == rows(second)


def loader(counted: BatchPlanner, folder: Path, workers: int, context: Any = None) -> DataLoader:
    items, vocabulary = Items.encode([[f"text {number}"] for number in range(60)])
    collator = Collator(items, Tokens.from_lists([[number] for number in range(len(vocabulary))]))
    dataset = PlanDataset(counted, torch.arange(60), LABELS, collator, plan_files=PlanFiles(folder))
    return DataLoader(
        dataset,
        sampler=PlanSampler(len(dataset)),
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context=context,
    )


@pytest.mark.parametrize(("workers", "context"), [(3, "fork"), (1, SERVER)])
def test_all_workers_read_the_plan_that_one_process_made(tmp_path, workers, context):
    (made := tmp_path / "made").mkdir()
    counted = Counted(PKPlanner(4, 3), made)
    batches = loader(counted, tmp_path / "plans", workers, context)
    for epoch in range(3):
        batches.sampler.set_epoch(epoch)
        plan = PKPlanner(4, 3).plan(torch.arange(60), LABELS, 0, epoch)
        assert [batch.anchor_ids.tolist() for batch in batches] == plan.anchors.tolist()
    assert counted.made() == ["0-0", "1-0", "2-0"]


def plan_here(counted: Counted, folder: Path, barrier: object) -> None:
    barrier.wait()
    plan = PlanFiles(folder).get(0, 0, lambda: counted.plan(torch.arange(60), LABELS, 0, 0))
    assert rows(plan) == rows(PKPlanner(4, 3).plan(torch.arange(60), LABELS, 0, 0))


def test_processes_that_ask_at_the_same_time_make_one_plan(tmp_path):
    (made := tmp_path / "made").mkdir()
    counted, context = Counted(PKPlanner(4, 3), made), multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [
        context.Process(target=plan_here, args=(counted, tmp_path / "plans", barrier)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 4
    assert counted.made() == ["0-0"]


def test_the_folder_of_a_run_goes_with_the_process_that_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = PlanFiles.of_run(None)
    files.get(0, 0, lambda: PKPlanner(4, 3).plan(torch.arange(60), LABELS, 0, 0))
    assert len(list(tmp_path.iterdir())) == 1
    pid = multiprocessing.get_context("fork").Process(target=files.__class__.__init__, args=(files, "x"))
    pid.start()
    pid.join(300)
    assert len(list(tmp_path.iterdir())) == 1  # a child that ends removes nothing
    del files, pid
    assert list(tmp_path.iterdir()) == []
