"""Episodes: disjoint support and queries of a few classes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lit_metric.batching import EpisodePlanner
from lit_metric.data import DataError, MultiLabelRelations, Ragged
from tests.batching.cases import SIZES, plan_of, relations_of


@pytest.mark.parametrize("shape", ["equal", "long tail", "one giant"])
def test_each_class_of_an_episode_has_its_shots_and_queries_and_no_item_is_on_both_sides(shape: str) -> None:
    relations = relations_of(SIZES[shape], unlabelled=4)
    ways, shots, queries = (4, 2, 3) if shape != "one giant" else (2, 1, 1)
    planner = EpisodePlanner(ways, shots, queries)
    for seed in range(4):
        plan = plan_of(planner, relations, seed)
        assert len(plan) == planner.length(torch.arange(len(relations)), relations, seed)
        for anchors, candidates in zip(plan.anchors.tolist(), plan.candidates.tolist(), strict=True):
            assert not {*anchors} & {*candidates}
            labels = relations.labels.tolist()
            of_anchors, of_candidates = (
                Counter(labels[item] for item in side) for side in (anchors, candidates)
            )
            assert len(of_anchors) == ways
            assert {*of_anchors.values()} == {queries}
            assert of_candidates == dict.fromkeys(of_anchors, shots)
            assert all(SIZES[shape][label] >= shots + queries for label in of_anchors)


def test_any_class_and_any_item_may_come_on_either_side() -> None:
    relations = relations_of([6] * 5)
    plans = [plan_of(EpisodePlanner(2, 2, 2), relations, epoch=epoch) for epoch in range(40)]
    for side in ("anchors", "candidates"):
        assert {item for plan in plans for item in getattr(plan, side).values.tolist()} == {*range(30)}
    assert len({str(plan.anchors.tolist()) for plan in plans}) == 40


def test_an_item_of_several_classes_is_in_an_episode_once() -> None:
    labels = Ragged.from_lists([[0, 1]] * 6 + [[0]] * 3 + [[1]] * 3)
    relations = MultiLabelRelations(labels, ["a", "b"], torch.arange(12))
    for seed in range(20):
        plan = EpisodePlanner(2, 2, 2).plan(torch.arange(12), relations, seed, 0)
        for anchors, candidates in zip(plan.anchors.tolist(), plan.candidates.tolist(), strict=True):
            assert len({*anchors, *candidates}) == len(anchors) + len(candidates)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="ways must be at least 2, not 1"):
        EpisodePlanner(1)
    with pytest.raises(ValueError, match="queries must be at least 1, not 0"):
        EpisodePlanner(queries=0)
    with pytest.raises(DataError, match=r"EpisodePlanner\(classes=5\) needs 5 .* only 2 with 4 or more"):
        plan_of(EpisodePlanner(5, 2, 2), relations_of([4, 4, 3, 3, 3]))
