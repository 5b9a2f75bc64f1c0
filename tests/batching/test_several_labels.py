"""Planners of classes where an item has several labels."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from lit_metric.batching import NPairPlanner, PKPlanner, ShufflePlanner, StratifiedPlanner
from lit_metric.batching.members import Members
from lit_metric.data import LabelRelations, MultiLabelRelations
from lit_metric.data.ragged import Ragged

CLASSES = 8


def labelled(seed: int, most: int = 3, items: int = 120) -> tuple[list[set[int]], MultiLabelRelations]:
    draw = random.Random(seed)
    rows = [draw.sample(range(CLASSES), draw.randrange(most + 1)) for _ in range(items)]
    names = [str(number) for number in range(CLASSES)]
    return [{*row} for row in rows], MultiLabelRelations(Ragged.from_lists(rows), names, torch.arange(items))


def test_an_item_is_a_member_of_each_of_its_classes():
    rows, relations = labelled(0)
    ids = torch.arange(0, 120, 2)
    members = Members.of(ids, relations, "PKPlanner", smallest=2)
    expected = [[item for item in ids.tolist() if label in rows[item]] for label in range(CLASSES)]
    assert [part.tolist() for part in np.split(members.ids, np.cumsum(members.sizes)[:-1])] == expected
    assert members.items == len({item for row in expected for item in row})


@pytest.mark.parametrize("per_class", [2, 4, 40])
def test_pk_batches_hold_each_item_once_and_k_members_of_p_classes(per_class):
    for seed in range(6):
        rows, relations = labelled(seed)
        sizes = Counter(label for row in rows for label in row)
        items = sum(map(bool, rows))
        plan = PKPlanner(3, per_class).plan(torch.arange(120), relations, seed, 0)
        assert len(plan) == -(-items // (3 * per_class))
        for batch in plan.anchors.tolist():
            assert len({*batch}) == len(batch) <= 3 * per_class
            counts = Counter(label for item in batch for label in rows[item])
            # What another class brought counts as a member too, so no drawn class has too few.
            assert sum(counts[label] >= min(per_class, sizes[label]) for label in range(CLASSES)) >= 3


def test_n_pair_batches_hold_each_item_once_and_pairs_of_a_common_class():
    dropped = 0
    for seed in range(6):
        rows, relations = labelled(seed)
        plan = NPairPlanner(6).plan(torch.arange(120), relations, seed, 0)
        for anchors, candidates in zip(plan.anchors.tolist(), plan.candidates.tolist(), strict=True):
            assert len({*anchors, *candidates}) == 2 * len(anchors)
            assert all(rows[a] & rows[c] for a, c in zip(anchors, candidates, strict=True))
            assert 1 <= len(anchors) <= 6
            dropped += 6 - len(anchors)
    assert 0 < dropped < 60


def test_stratified_and_shuffled_batches_hold_each_labelled_item_once():
    rows, relations = labelled(3)
    labelled_items = {item for item, row in enumerate(rows) if row}
    everything = ShufflePlanner(16).plan(torch.arange(120), relations, 0, 0).anchors.values.tolist()
    assert sorted(everything) == sorted(labelled_items)
    seen: set[int] = set()
    for epoch in range(20):
        for batch in StratifiedPlanner(16).plan(torch.arange(120), relations, 0, epoch).anchors.tolist():
            assert len({*batch}) == len(batch) <= 16
            seen |= {*batch}
    assert seen == labelled_items


@pytest.mark.parametrize(
    "planner", [PKPlanner(3, 4), NPairPlanner(3), StratifiedPlanner(16), ShufflePlanner(16)]
)
def test_one_label_each_gives_the_plans_of_single_labels(planner):
    labels = torch.randint(-1, CLASSES, (120,), generator=torch.Generator().manual_seed(0))
    names = [str(number) for number in range(CLASSES)]
    single = LabelRelations(labels, names, torch.arange(120))
    rows = [[label] if label >= 0 else [] for label in labels.tolist()]
    several = MultiLabelRelations(Ragged.from_lists(rows), names, torch.arange(120))
    for epoch in range(3):
        first, second = (planner.plan(torch.arange(120), each, 1, epoch) for each in (single, several))
        assert first.anchors.tolist() == second.anchors.tolist()
        assert first.candidates.tolist() == second.candidates.tolist()
