"""Shares of classes in batches of long-tailed data."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lit_metric.batching import StratifiedPlanner
from lit_metric.batching.members import capped_shares
from lit_metric.data import DataError
from tests.batching.cases import SIZES, plan_of, relations_of


def test_shares_are_proportional_below_their_caps():
    # 10 in the proportion 6 : 3 : 1; then with the first held at 4, 6 more at 3 : 1; then all but one full.
    weights = np.array([6.0, 3.0, 1.0])
    assert capped_shares(weights, np.array([9.0, 9.0, 9.0]), 10).tolist() == [6, 3, 1]
    assert capped_shares(weights, np.array([4.0, 9.0, 9.0]), 10).tolist() == [4, 4.5, 1.5]
    assert capped_shares(weights, np.array([4.0, 2.0, 9.0]), 10).tolist() == [4, 2, 4]
    assert capped_shares(weights, np.array([1.0, 1.0, 1.0]), 10).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        # 64, 16 and 4 members: 84 by size, 8 + 4 + 2 = 14 by root, 3 alike.
        (1.0, [64, 16, 4]),
        (0.5, [48, 24, 12]),
        (0.0, [28, 28, 28]),
    ],
)
def test_batches_follow_the_shares_raised_to_a_power(power, expected):
    sizes = [640, 160, 40]
    relations = relations_of(sizes, unlabelled=30)
    for seed in range(5):
        plan = plan_of(StratifiedPlanner(84, power), relations, seed)
        assert len(plan) == 10
        assert plan.anchors is plan.candidates
        for batch in plan.anchors.tolist():
            assert len({*batch}) == len(batch)
            assert relations.labels[batch].bincount(minlength=3).tolist() == expected


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_shares_are_rounded_up_or_down_in_each_batch_and_over_the_epoch(together, power):
    sizes = np.array(SIZES["long tail"])
    relations = relations_of(sizes.tolist(), unlabelled=9)
    slots = 24 // together
    shares = capped_shares(sizes.astype(float) ** power, -(-sizes // together).astype(float), slots)
    groups_of = -(-sizes // together)
    for seed in range(10):
        plan = plan_of(StratifiedPlanner(24, power, together, batches=16), relations, seed)
        total = np.zeros(len(sizes))
        for batch in plan.anchors.tolist():
            assert len({*batch}) == len(batch) <= 24
            count = relations.labels[batch].bincount(minlength=len(sizes)).numpy()
            # A class comes by groups, or with all that it has.
            groups = -(-count // together)
            assert ((count == groups * together) | (count == sizes)).all()
            low, high = np.floor(shares + 1e-9), np.minimum(np.ceil(shares - 1e-9), groups_of)
            assert ((groups >= low) & (groups <= high)).all()
            total += groups
        assert (np.abs(total - 16 * shares) <= 1 + 1e-6).all()


def test_every_item_of_every_class_comes():
    relations = relations_of(SIZES["long tail"], unlabelled=9)
    for power in (0.0, 0.5, 1.0):
        seen: set[int] = set()
        for epoch in range(120):
            seen |= {*plan_of(StratifiedPlanner(16, power), relations, 0, epoch).anchors.values.tolist()}
        assert seen == {*torch.nonzero(relations.labels >= 0).flatten().tolist()}


def test_members_of_rare_classes_come_together():
    relations = relations_of([400] + [2] * 50)
    single = together = 0
    for epoch in range(5):
        for batch in plan_of(StratifiedPlanner(16, 0.5), relations, 0, epoch).anchors.tolist():
            counts = Counter(relations.labels[batch].tolist())
            single += sum(count == 1 for count in counts.values())
            together += sum(count == 2 for label, count in counts.items() if label)
    assert single == 0
    assert together > 50


def test_what_can_not_be_planned_is_refused():
    with pytest.raises(ValueError, match="batch_size=1 must be at least 2, and at least together=2"):
        StratifiedPlanner(1)
    with pytest.raises(ValueError, match="batch_size=4 must be at least 2, and at least together=5"):
        StratifiedPlanner(4, together=5)
    with pytest.raises(ValueError, match=r"power=-0\.5: below 0"):
        StratifiedPlanner(power=-0.5)
    with pytest.raises(ValueError, match="together=0 must be at least 1, and so must batches=None"):
        StratifiedPlanner(together=0)
    with pytest.raises(DataError, match="StratifiedPlanner needs 1 different classes"):
        plan_of(StratifiedPlanner(), relations_of([], unlabelled=3))
