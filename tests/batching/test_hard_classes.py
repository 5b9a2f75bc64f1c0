"""Hard classes are chosen as a loop over all of them would, and come as often as any planner's classes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lit_metric.batching import HardPKPlanner, NegativeClassPlanner, NPairPlanner, PKPlanner
from lit_metric.batching.hard_classes import hardest_together
from lit_metric.batching.members import Members
from lit_metric.batching.plan import VectorPlanner, grid_vectors, random_stream
from lit_metric.data import DataError, LabelRelations
from tests.batching.cases import SIZES, families, item_vectors, likeness, relations_of, scattered, sized


def greedy(hardness: np.ndarray, given: int, count: int) -> list[int]:
    """Class by class, looking at each that is left."""
    chosen = list(range(given))
    while len(chosen) < count:
        left = [each for each in range(len(hardness)) if each not in chosen]
        sums = [sum(hardness[each, other] for other in chosen) for each in left]
        chosen.append(left[sums.index(max(sums))])
    return chosen


@pytest.mark.parametrize("given", [1, 2, 5])
def test_the_hardest_are_those_of_a_loop(given: int) -> None:
    for seed in range(20):
        # Whole numbers, so that many are equal.
        hardness = np.random.default_rng(seed).integers(4, size=(12, 12)).astype(float)
        hardness += hardness.T
        assert hardest_together(hardness, given, 7).tolist() == greedy(hardness, given, 7)


def test_violations_are_those_of_a_loop() -> None:
    lots = np.random.default_rng(0)
    x, y = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in lots.standard_normal((2, 6, 3)))
    expected = np.zeros((6, 6))
    for one in range(6):
        for other in range(6):
            for anchor, negative in ((one, other), (other, one)):
                expected[one, other] += max(0, 0.3 + x[anchor] @ y[negative] - x[anchor] @ y[anchor])
    np.testing.assert_allclose(NegativeClassPlanner(margin=0.3).violations(x, y), expected, atol=1e-12)


def test_centroids_are_mean_directions() -> None:
    relations, vectors, _ = families()
    members = Members.of(torch.arange(len(relations)), relations, "HardPKPlanner")
    for label, centre in enumerate(HardPKPlanner.centroids(vectors, members)):
        mean = grid_vectors(vectors, (relations.labels == label).nonzero()[:, 0].numpy()).mean(axis=0)
        # Half a step of the grid.
        np.testing.assert_allclose(centre, mean / np.linalg.norm(mean), atol=0.5 / 2048 + 1e-6)


@pytest.mark.parametrize("weighting", ["size", "sqrt", "uniform"])
@pytest.mark.parametrize("shape", SIZES)
def test_each_class_comes_as_often_as_its_rate_says(shape: str, weighting: str) -> None:
    members = sized(SIZES[shape])
    planner = HardPKPlanner(4, pool=5, class_weighting=weighting, batches=23)  # type: ignore[arg-type]
    centres = grid_vectors(scattered(len(members.sizes)), np.arange(len(members.sizes)))
    for seed in range(10):
        table = planner._hard_classes(
            members, random_stream(seed, 0), lambda own: centres[own] @ centres[own].T
        )
        assert all(len(set(batch)) == 4 for batch in table.tolist())
        expected = 23 * members.rates(4, planner.class_weighting)
        assert (np.abs(np.bincount(table.reshape(-1), minlength=len(expected)) - expected) < 1).all()


def test_two_pairs_of_near_classes_make_two_batches() -> None:
    # Directions at 0 and 20 degrees, and at 90 and 115: whichever begins, the other of its pair is next.
    angles = np.radians([0, 20, 90, 115]).repeat(2)
    vectors = item_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    relations = LabelRelations(torch.arange(4).repeat_interleave(2), list("abcd"), torch.arange(8))
    for planner in (HardPKPlanner(2, 2), NegativeClassPlanner(2)):
        for seed in range(10):
            plan = planner.plan(torch.arange(8), relations, seed, 0, vectors)
            met = [sorted({*relations.labels[batch].tolist()}) for batch in plan.anchors.tolist()]
            assert sorted(met) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("planner", [HardPKPlanner(2, 2, pool=2), NegativeClassPlanner(2, pool=2)])
def test_a_batch_is_chosen_from_its_pool_alone(planner: VectorPlanner) -> None:
    # Two near pairs, as above; but a pool of two leaves no choice, so any two meet.
    angles = np.radians([0, 20, 90, 115]).repeat(2)
    vectors = item_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    relations = LabelRelations(torch.arange(4).repeat_interleave(2), list("abcd"), torch.arange(8))
    met: Counter[str] = Counter()
    for seed in range(300):
        plan = planner.plan(torch.arange(8), relations, seed, 0, vectors)
        met[str(sorted(sorted({*relations.labels[each].tolist()}) for each in plan.anchors.tolist()))] += 1
    assert len(met) == 3
    assert all(abs(count - 100) < 5 * (300 * 2 / 9) ** 0.5 for count in met.values())


@pytest.mark.parametrize("planner", [HardPKPlanner(2, 2), NegativeClassPlanner(2, margin=0.5)])
def test_a_random_class_begins_and_of_equals_a_random_one_follows(planner: VectorPlanner) -> None:
    # All classes are at right angles, so none violates anything. Two of six meet in each of three batches:
    # each of 15 pairs in a fifth of all epochs, within 5 standard deviations.
    vectors = item_vectors(np.eye(6).repeat(2, axis=0))
    relations = LabelRelations(torch.arange(6).repeat_interleave(2), list("abcdef"), torch.arange(12))
    met: Counter[tuple[int, ...]] = Counter()
    for epoch in range(300):
        plan = planner.plan(torch.arange(12), relations, 0, epoch, vectors)
        met.update(tuple(sorted({*relations.labels[batch].tolist()})) for batch in plan.anchors.tolist())
    assert len(met) == 15
    assert all(abs(count - 60) < 5 * (300 * 4 / 25) ** 0.5 for count in met.values())


def test_a_class_is_measured_by_two_different_items() -> None:
    # Two items of a class are at right angles, and items of classes a and b, or c and d, have a cosine of
    # 0.3. An item compared with itself would satisfy each constraint: 0.5 + 0.3 - 1 < 0.
    cosines = np.kron(
        np.eye(2), np.block([[np.eye(2), np.full((2, 2), 0.3)], [np.full((2, 2), 0.3), np.eye(2)]])
    )
    vectors = item_vectors(np.linalg.cholesky(cosines))
    relations = LabelRelations(torch.arange(4).repeat_interleave(2), list("abcd"), torch.arange(8))
    for seed in range(10):
        plan = NegativeClassPlanner(2, margin=0.5).plan(torch.arange(8), relations, seed, 0, vectors)
        met = [sorted({*relations.labels[batch].tolist()}) for batch in plan.anchors.tolist()]
        assert sorted(met) == [[0, 1], [2, 3]]


def test_the_class_that_violates_the_most_is_added() -> None:
    # Degrees of each class's two members. One batch of two classes out of three, which come equally often on
    # average; whichever begins, the other follows by the violations
    #   a and b: 2 (0.2 + cos 30 - cos 0), a and c: 2 (0.2 + cos 180 - cos 0) < 0, b and c: below 0, too.
    angles = np.radians([0, 0, 30, 30, 180, 180])
    vectors = item_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    relations = LabelRelations(torch.arange(3).repeat_interleave(2), list("abc"), torch.arange(6))
    planner = NegativeClassPlanner(2, margin=0.2, batches=1)
    x = grid_vectors(vectors, np.array([0, 2, 4]))
    np.testing.assert_allclose(
        planner.violations(x, x)[np.triu_indices(3, 1)], [2 * (np.cos(np.pi / 6) - 0.8), 0, 0], atol=1e-3
    )
    met: Counter[tuple[int, ...]] = Counter()
    for seed in range(300):
        plan = planner.plan(torch.arange(6), relations, seed, 0, vectors)
        met[tuple(sorted(relations.labels[plan.anchors[0]].tolist()))] += 1
    assert {*met} == {(0, 1), (0, 2), (1, 2)}
    # Two of three classes are due. Both are taken: which pairs those are is chance, a third each; 5 sigma.
    assert all(abs(count - 100) < 5 * (300 * 2 / 9) ** 0.5 for count in met.values())


@pytest.mark.parametrize(
    ("hard", "plain"),
    [
        (HardPKPlanner(6, 3, pool=48), PKPlanner(6, 3)),
        (NegativeClassPlanner(6, pool=48), NPairPlanner(6)),
        (NegativeClassPlanner(6), NPairPlanner(6)),
    ],
)
def test_classes_of_a_batch_are_nearer_than_random_ones(hard: VectorPlanner, plain: PKPlanner) -> None:
    relations, vectors, family = families()
    ids, labels = torch.arange(len(relations)), relations.labels
    plans = [hard.plan(ids, relations, 0, epoch, vectors) for epoch in range(4)]
    random = [plain.plan(ids, relations, 0, epoch) for epoch in range(4)]
    near = np.mean([likeness(plan, labels, vectors) for plan in plans])
    far = np.mean([likeness(plan, labels, vectors) for plan in random])
    assert abs(far) < 0.15
    assert near > far + 0.2
    kin = [
        np.bincount(family[labels[batch].unique()]).max() for plan in plans for batch in plan.anchors.tolist()
    ]
    assert np.median(kin) >= 4  # of six classes, where chance gives two


@pytest.mark.parametrize("planner", [HardPKPlanner(5, 3), NegativeClassPlanner(4)])
def test_every_item_is_reachable(planner: VectorPlanner) -> None:
    sizes = SIZES["long tail"]
    relations = relations_of(sizes, unlabelled=5)
    least = 1 if isinstance(planner, HardPKPlanner) else 2
    wanted = {
        item for item, label in enumerate(relations.labels.tolist()) if label >= 0 and sizes[label] >= least
    }
    seen: set[int] = set()
    for epoch in range(60):
        plan = planner.plan(torch.arange(len(relations)), relations, 0, epoch, scattered(len(relations)))
        seen |= {*plan.anchors.values.tolist(), *plan.candidates.values.tolist()}
    assert seen == wanted


def test_what_cannot_be_planned_is_refused() -> None:
    relations = relations_of([5, 5, 1, 1])
    ids, vectors = torch.arange(12), scattered(12)
    with pytest.raises(ValueError, match=r"HardPKPlanner plans by the items' vectors and got none"):
        HardPKPlanner(2, 2).plan(ids, relations, 0, 0)
    with pytest.raises(DataError, match=r"NegativeClassPlanner\(classes=3\) needs 3 .* only 2 with 2"):
        NegativeClassPlanner(3).length(ids, relations, 0)
    with pytest.raises(DataError, match=r"HardPKPlanner\(classes=5\) needs 5 .* only 4 with 1"):
        HardPKPlanner(5, 2).plan(ids, relations, 0, 0, vectors)
    with pytest.raises(ValueError, match="pool=3 must be at least classes=4"):
        HardPKPlanner(4, pool=3)
    with pytest.raises(ValueError, match=r"margin=-0\.1 must be at least 0"):
        NegativeClassPlanner(margin=-0.1)
    with pytest.raises(ValueError, match="classes >= 2"):
        NegativeClassPlanner(1)
    with pytest.raises(KeyError, match=r"7 of the 10 requested items have no vector, the first is item \d"):
        HardPKPlanner(2, 2).plan(torch.arange(10), relations_of([5, 5]), 0, 0, scattered(3))
