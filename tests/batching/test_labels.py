"""Batches of texts with all labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_metric.batching import LabelPlanner
from lit_metric.data import DataError, PairRelations
from tests.batching.cases import judged, relations_of


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_each_text_comes_once_and_meets_every_label(batch_size: int) -> None:
    relations = judged(0, anchors=40, candidates=12, count=90, negatives=20)
    first, second, _ = relations.judgements(torch.arange(40))
    texts, labels = sorted({*first.tolist()}), sorted({*second.tolist()})
    planner = LabelPlanner(batch_size)
    orders = set()
    for seed in range(3):
        for epoch in range(2):
            plan = planner.plan(torch.arange(40), relations, seed, epoch)
            assert sorted(plan.anchors.values.tolist()) == texts
            sizes = [
                len(part) for part in np.array_split(np.arange(len(texts)), -(-len(texts) // batch_size))
            ]
            assert plan.anchors.lengths.tolist() == sizes
            assert plan.candidates.tolist() == [labels] * len(sizes)
            assert len(plan) == planner.length(torch.arange(40), relations, seed)
            orders.add(tuple(plan.anchors.values.tolist()))
    assert len(orders) == 6


def test_only_the_labels_of_training_texts_are_candidates() -> None:
    relations = PairRelations(torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]), None, torch.arange(6))
    plan = LabelPlanner(8).plan(torch.tensor([2, 0, 0]), relations, 0, 0)
    assert sorted(plan.anchors[0].tolist()) == [0, 2]
    assert plan.candidates[0].tolist() == [3, 5]


def test_all_labels_are_shared_out_among_ranks() -> None:
    relations = judged(0, anchors=10, candidates=5, count=60)
    plan = LabelPlanner(4).plan(torch.arange(10), relations, 0, 0)
    shares = [plan.batch(0, rank, 2)[1].tolist() for rank in (0, 1)]
    assert [*shares[0], *shares[1]] == plan.candidates[0].tolist()


def test_data_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        LabelPlanner(0)
    with pytest.raises(TypeError, match="LabelPlanner plans pairs, and LabelRelations has none"):
        LabelPlanner().plan(torch.arange(3), relations_of([3]), 0, 0)
    nothing = PairRelations(torch.tensor([0]), torch.tensor([1]), None, torch.arange(3))
    with pytest.raises(DataError, match="none of the 1 items to train on is judged"):
        LabelPlanner().plan(torch.tensor([2]), nothing, 0, 0)
