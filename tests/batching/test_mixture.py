"""Batches of several data sets: whose turn it is, and that each is planned as if it were alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric.batching import (
    BatchPlanner,
    HardPKPlanner,
    MixturePlanner,
    NGAMEPlanner,
    PKPlanner,
    Plan,
    PlanDataset,
    ShufflePlanner,
)
from lit_metric.data import DataError, LabelRelations, UnionRelations
from lit_metric.index import Embeddings
from tests.batching.cases import families, scattered


def one_class(items: int) -> LabelRelations:
    return LabelRelations(torch.zeros(items, dtype=torch.int64), ["one"], torch.arange(items))


UNION = UnionRelations([one_class(12), one_class(40), one_class(8)])
EVERYTHING = torch.arange(60)


def planners() -> list[BatchPlanner]:
    """3, 10 and 2 batches of four items."""
    return [ShufflePlanner(4), ShufflePlanner(4), ShufflePlanner(4)]


def tasks_of(planner: MixturePlanner, epoch: int = 0) -> list[int]:
    plan = planner.plan(EVERYTHING, UNION, 0, epoch)
    assert plan.tasks is not None
    starts = torch.tensor([0, 12, 52, 60])
    for step, task in enumerate(plan.tasks.tolist()):
        for side in (plan.anchors[step], plan.candidates[step]):
            assert ((side >= starts[task]) & (side < starts[task + 1])).all()
    return plan.tasks.tolist()


def test_proportional_mixtures_show_everything_once_in_random_order():
    orders = [tasks_of(MixturePlanner(planners()), epoch) for epoch in range(5)]
    assert [Counter(order) for order in orders] == [{0: 3, 1: 10, 2: 2}] * 5
    assert len({tuple(order) for order in orders}) == 5
    plan = MixturePlanner(planners()).plan(EVERYTHING, UNION, 0, 3)
    assert sorted(plan.anchors.values.tolist()) == list(range(60))


def test_round_robin_takes_turns_until_the_smallest_is_through():
    assert tasks_of(MixturePlanner(planners(), "round_robin")) == [0, 1, 2, 0, 1, 2]
    assert tasks_of(MixturePlanner(planners(), "round_robin", batches=7)) == [0, 1, 2, 0, 1, 2, 0]


def test_weighted_mixtures_have_the_shares_asked_for():
    # 15 batches at 1 : 1 : 3 are 3, 3 and 9.
    assert Counter(tasks_of(MixturePlanner(planners(), "weighted", [1, 1, 3]))) == {0: 3, 1: 3, 2: 9}
    # 20 batches at 0.5, 0.3, 0.2.
    planner = MixturePlanner(planners(), "weighted", [0.5, 0.3, 0.2], batches=20)
    assert Counter(tasks_of(planner)) == {0: 10, 1: 6, 2: 4}


def test_whole_numbers_by_largest_remainder():
    # 7 at 2 : 2 : 1 is 2.8, 2.8, 1.4: two and two and one, and the two left over go to the first two.
    assert MixturePlanner.apportioned(7, [2, 2, 1]) == [3, 3, 1]
    # 10 at 5 : 4 : 1 is exact; 4 at 1 : 1 : 1 leaves one over, for the first.
    assert MixturePlanner.apportioned(10, [5, 4, 1]) == [5, 4, 1]
    assert MixturePlanner.apportioned(4, [1, 1, 1]) == [2, 1, 1]


@dataclass
class Counted(BatchPlanner):
    """Three batches that say which epoch and step they are: item ``3 * epoch + step``."""

    seeds: set[int] = field(default_factory=set)

    def plan(self, ids: Tensor, relations: LabelRelations, seed: int, epoch: int) -> Plan:  # type: ignore[override]
        self.seeds.add(seed)
        items = torch.arange(3 * epoch, 3 * epoch + 3)
        rows = ShufflePlanner(2).plan(torch.arange(6), one_class(6), 0, 0).anchors
        rows = type(rows).from_lengths(items, torch.ones(3, dtype=torch.int64))
        return Plan(rows, rows)


@pytest.mark.parametrize(("batches", "of_each"), [(4, 2), (10, 5), (6, 3)])
def test_parts_go_on_where_the_last_epoch_of_the_mixture_left_them(batches, of_each):
    union = UnionRelations([one_class(1000), one_class(1000)])
    first, second = Counted(), Counted()
    planner = MixturePlanner([first, second], "round_robin", batches=batches)
    seen: list[int] = []
    for epoch in range(6):
        plan = planner.plan(torch.arange(2000), union, 7, epoch)
        assert plan.anchors.values.tolist() == [
            place + shift for place in range(epoch * of_each, (epoch + 1) * of_each) for shift in (0, 1000)
        ]
        seen += plan.anchors.values[::2].tolist()
    assert seen == list(range(6 * of_each))
    assert len(first.seeds) == len(second.seeds) == 1
    assert first.seeds != second.seeds


def test_a_part_is_planned_as_if_it_were_alone():
    planner = MixturePlanner([PKPlanner(1, 3), Counted(), ShufflePlanner(4)])
    ids = torch.arange(3, 60)
    plan = planner.plan(ids, UNION, 5, 2)
    assert plan.tasks is not None
    mine = [row for row, task in zip(plan.anchors.tolist(), plan.tasks.tolist(), strict=True) if task == 0]
    assert sorted(chain(*mine)) == list(range(3, 12))


def test_parts_are_planned_by_their_own_vectors():
    part, vectors, _ = families(count=3)
    own, union = torch.arange(len(part)), UnionRelations([one_class(12), part, part])
    ids = torch.arange(len(union))
    # The second data set's items lie elsewhere than the third's.
    others = -vectors.values[::-1]
    directions = np.concatenate([scattered(12).values.repeat(2, axis=1), others, vectors.values])
    both = [Embeddings(own, others), vectors]
    planner = MixturePlanner([ShufflePlanner(4), HardPKPlanner(3, 4), NGAMEPlanner(16, 8)])
    assert planner.uses_vectors
    plan = planner.plan(ids, union, 5, 0, Embeddings(ids, directions))
    assert len(plan) == planner.length(ids, union, 5)
    assert plan.tasks is not None
    seeds = [each.seed for each in planner._parts(None, ids, union, 5)]
    for number, start in ((1, 12), (2, 12 + len(part))):
        alone = planner.planners[number].plan(own, part, seeds[number], 0, both[number - 1])
        rows = (plan.tasks == number).nonzero()[:, 0].tolist()
        assert [(plan.anchors[row] - start).tolist() for row in rows] == alone.anchors.tolist()
        assert [(plan.candidates[row] - start).tolist() for row in rows] == alone.candidates.tolist()
    with pytest.raises(ValueError, match="HardPKPlanner plans by the items' vectors and got none"):
        planner.plan(ids, union, 5, 0)
    assert not MixturePlanner(planners()).uses_vectors


def test_the_collator_is_told_the_task():
    told: list[tuple[int, int]] = []

    def collate(anchors: Tensor, candidates: Tensor, task: int = -1) -> None:
        told.append((int(anchors.min()), task))

    dataset = PlanDataset(MixturePlanner(planners()), EVERYTHING, UNION, collate)  # type: ignore[arg-type]
    for step in range(len(dataset)):
        dataset[0, step, 0]
    assert Counter(task for _, task in told) == {0: 3, 1: 10, 2: 2}
    assert all((0, 12, 52)[task] <= item < (12, 52, 60)[task] for item, task in told)
    alone = PlanDataset(ShufflePlanner(4), torch.arange(8), one_class(8), collate)  # type: ignore[arg-type]
    alone[0, 0, 0]
    assert told[-1][1] == -1


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="a mixture needs at least one planner"):
        MixturePlanner([])
    with pytest.raises(ValueError, match="'proportional', 'round_robin' or 'weighted', not 'random'"):
        MixturePlanner(planners(), "random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights=None with strategy='weighted': give both"):
        MixturePlanner(planners(), "weighted")
    with pytest.raises(ValueError, match=r"weights=\[1, 2, 3\] with strategy='proportional': give both"):
        MixturePlanner(planners(), weights=[1, 2, 3])
    for weights in ([1, 2], [1, 2, 0]):
        with pytest.raises(ValueError, match="must be 3 positive numbers, one for each planner"):
            MixturePlanner(planners(), "weighted", weights)
    with pytest.raises(ValueError, match="batches must be at least 1, not 0"):
        MixturePlanner(planners(), batches=0)
    with pytest.raises(DataError, match="2 planners for 3 data sets: give the mixture one for each"):
        MixturePlanner(planners()[:2]).plan(EVERYTHING, UNION, 0, 0)
    with pytest.raises(
        DataError, match="data set 1 of the mixture, counted from 0, has no items to train on"
    ):
        MixturePlanner(planners()).plan(torch.tensor([0, 55]), UNION, 0, 0)
    with pytest.raises(TypeError, match="plans for several data sets, and LabelRelations is one"):
        MixturePlanner(planners()).plan(torch.arange(8), one_class(8), 0, 0)
