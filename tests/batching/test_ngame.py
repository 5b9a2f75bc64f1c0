"""Batches of clusters: every item once, each with a positive, among near ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lit_metric.batching import NGAMEPlanner, Plan, ShufflePlanner
from lit_metric.batching.members import Members
from lit_metric.batching.plan import grid_vectors, random_stream
from lit_metric.clusters import balanced_clusters
from lit_metric.data import DataError, LabelRelations, MultiLabelRelations, PairRelations, Ragged
from tests.batching.cases import SIZES, families, item_vectors, judged, likeness, relations_of, scattered


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("batch_size", [16, 50, 10_000])
def test_every_labelled_item_is_an_anchor_once_and_brings_a_positive(shape: str, batch_size: int) -> None:
    relations = relations_of(SIZES[shape], unlabelled=9)
    ids, labels = torch.arange(len(relations)), relations.labels.tolist()
    labelled = [item for item, label in enumerate(labels) if label >= 0]
    planner = NGAMEPlanner(batch_size, cluster_size=8)
    for seed in range(3):
        plan = planner.plan(ids, relations, seed, 0, scattered(len(relations)))
        assert sorted(plan.anchors.values.tolist()) == labelled
        batches = -(-len(labelled) // batch_size)
        assert len(plan) == batches == planner.length(ids, relations, seed)
        expected = [len(part) for part in np.array_split(np.arange(len(labelled)), batches)]
        assert plan.anchors.lengths.tolist() == expected
        for anchors, candidates in zip(plan.anchors.tolist(), plan.candidates.tolist(), strict=True):
            assert candidates[: len(anchors)] == anchors
            assert len({*candidates}) == len(candidates) <= 2 * len(anchors)
            there = Counter(labels[each] for each in candidates)
            assert all((there[labels[each]] > 1) == (SIZES[shape][labels[each]] > 1) for each in anchors)


def test_a_batch_is_clusters_laid_end_to_end() -> None:
    relations, vectors, _ = families(members=4)  # 192 items: 16 clusters of 12
    planner = NGAMEPlanner(batch_size=48, cluster_size=12)
    plan = planner.plan(torch.arange(192), relations, 3, 2, vectors)
    random, numbers = random_stream(3, 2), np.arange(192)
    NGAMEPlanner.partners(numbers, Members(numbers, np.full(48, 4)), random)  # draws first
    clusters = balanced_clusters(lambda rows: grid_vectors(vectors, rows), 192, 12, random)
    order = random.permutation(16)
    for batch, places in zip(plan.anchors.tolist(), order.reshape(4, 4), strict=True):
        assert batch == [item for place in places for item in clusters[place].tolist()]


def test_four_items_in_two_directions_make_two_batches() -> None:
    vectors = item_vectors(np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1]]))
    relations = LabelRelations(torch.tensor([0, 0, 1, 1]), ["a", "b"], torch.arange(4))
    for seed in range(10):
        plan = NGAMEPlanner(2, 2).plan(torch.arange(4), relations, seed, 0, vectors)
        assert sorted(sorted(batch) for batch in plan.anchors.tolist()) == [[0, 2], [1, 3]]
        # Each brings the other of its class, which is far away.
        assert [sorted(batch) for batch in plan.candidates.tolist()] == [[0, 1, 2, 3]] * 2


def test_items_of_a_batch_are_nearer_than_random_ones() -> None:
    relations, vectors, _ = families(count=30, members=2)
    ids, labels = torch.arange(len(relations)), relations.labels
    plan = NGAMEPlanner(12, 12).plan(ids, relations, 0, 0, vectors)
    near = likeness(Plan(plan.anchors, plan.anchors), labels, vectors)
    far = likeness(ShufflePlanner(12).plan(ids, relations, 0, 0), labels, vectors)
    assert abs(far) < 0.15
    assert near > far + 0.2


def test_anchors_of_pairs_take_all_their_positives_in_turn() -> None:
    relations = judged(0, anchors=40, candidates=20, count=90, negatives=10)
    anchors = torch.arange(40)
    planner, seen = NGAMEPlanner(8, 4), set()
    everyone = {item for item in range(40) if len(relations.all_positives(torch.tensor([item])).values)}
    for epoch in range(6):
        plan = planner.plan(anchors, relations, 0, epoch, scattered(40))
        assert sorted(plan.anchors.values.tolist()) == sorted(everyone)
        assert len(plan) == -(-len(everyone) // 8) == planner.length(anchors, relations, 0)
        for own, others in zip(plan.anchors.tolist(), plan.candidates.tolist(), strict=True):
            assert len({*others}) == len(others) <= len(own)
            met = relations.positive(torch.tensor(own), torch.tensor(others))
            assert met.any(dim=1).all()
            assert met.any(dim=0).all()
            seen |= {(own[row], others[column]) for row, column in met.nonzero().tolist()}
    every, others, grades = relations.judgements(anchors)
    assert seen >= {*zip(every[grades > 0].tolist(), others[grades > 0].tolist(), strict=True)}


def test_an_item_with_several_labels_is_there_once_and_brings_one_of_any() -> None:
    labels = Ragged.from_lists([[0, 1], [0], [1], [], [2]])
    relations = MultiLabelRelations(labels, list("abc"), torch.arange(5))
    brought = set()
    for epoch in range(30):
        plan = NGAMEPlanner(4, 2).plan(torch.arange(5), relations, 0, epoch, scattered(5))
        assert sorted(plan.anchors[0].tolist()) == [0, 1, 2, 4]
        members = Members(np.array([0, 1, 0, 2, 4]), np.array([2, 2, 1]))
        partners = NGAMEPlanner.partners(np.array([0, 1, 2, 4]), members, random_stream(0, epoch)).tolist()
        assert partners[1:] == [0, 0, -1]
        brought.add(partners[0])
    assert brought == {1, 2}


def test_partners_are_others_of_the_class_equally_often() -> None:
    members = Members(np.arange(4), np.array([4]))
    random = random_stream(0, 0)
    drawn = np.stack([NGAMEPlanner.partners(np.arange(4), members, random) for _ in range(3000)])
    counts = np.stack([(drawn == item).sum(0) for item in range(4)])
    assert (counts.diagonal() == 0).all()
    # Each of three others a third of 3000 times, within 5 standard deviations.
    assert np.abs(counts[~np.eye(4, dtype=bool)] - 1000).max() < 5 * (3000 * 2 / 9) ** 0.5


def test_clusters_grow_by_epoch_and_size_one_is_random() -> None:
    relations, vectors, _ = families(count=30, members=2)
    ids, labels = torch.arange(len(relations)), relations.labels
    growing = NGAMEPlanner(24, 2, cluster_sizes={0: 1, 3: 12, 5: 24})
    for epoch, size in {3: 12, 4: 12, 5: 24, 9: 24}.items():
        plan = growing.plan(ids, relations, 1, epoch, vectors)
        fixed = NGAMEPlanner(24, size).plan(ids, relations, 1, epoch, vectors)
        assert plan.anchors.tolist() == fixed.anchors.tolist()
        assert plan.candidates.tolist() == fixed.candidates.tolist()
        assert len(plan) == growing.length(ids, relations, 1)
    near = [
        likeness(Plan(p.anchors, p.anchors), labels, vectors)
        for p in (growing.plan(ids, relations, 1, epoch, vectors) for epoch in (0, 3, 5))
    ]
    assert abs(near[0]) < 0.15
    assert near[0] + 0.1 < near[1] < near[2]
    first = growing.plan(ids, relations, 1, 0, vectors)
    assert sorted(first.anchors.values.tolist()) == ids.tolist()


def test_cluster_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cluster_sizes=\{3: 300\}: .* most batch_size=256"):
        NGAMEPlanner(cluster_sizes={3: 300})
    with pytest.raises(ValueError, match=r"cluster_sizes=\{-1: 4\}"):
        NGAMEPlanner(cluster_sizes={-1: 4})


def test_arguments_and_data_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cluster_size=300 must be at least 2, and at most batch_size=256"):
        NGAMEPlanner(cluster_size=300)
    with pytest.raises(ValueError, match="cluster_size=1 must be at least 2"):
        NGAMEPlanner(cluster_size=1)
    with pytest.raises(ValueError, match="NGAMEPlanner plans by the items' vectors and got none"):
        NGAMEPlanner().plan(torch.arange(3), relations_of([3]), 0, 0)
    nothing = PairRelations(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.0]), torch.arange(2))
    with pytest.raises(DataError, match="none of the 2 items to train on has a positive"):
        NGAMEPlanner().length(torch.arange(2), nothing, 0)
    with pytest.raises(DataError, match="NGAMEPlanner needs 1 different classes"):
        NGAMEPlanner().plan(torch.arange(2), relations_of([], unlabelled=2), 0, 0, scattered(2))
