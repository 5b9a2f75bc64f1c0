"""What each planner promises, over many seeds and several shapes of data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from lit_metric.batching import (
    BatchPlanner,
    HardPKPlanner,
    LabelPlanner,
    MixturePlanner,
    NegativeClassPlanner,
    NGAMEPlanner,
    NPairPlanner,
    PairPlanner,
    PKPlanner,
    ScoredPairPlanner,
    ShufflePlanner,
    StratifiedPlanner,
)
from lit_metric.batching.plan import random_stream
from lit_metric.data import DataError, LabelRelations, PairRelations, Relations, UnionRelations
from tests.batching.cases import SIZES, by_vectors, digest, judged, plan_of, relations_of, scattered, sized
from tests.forked import SERVER

SEEDS = range(8)
PLANNERS: dict[str, Callable[[], BatchPlanner]] = {
    "pk": lambda: PKPlanner(classes=5, per_class=3),
    "pk uniform": lambda: PKPlanner(classes=5, per_class=3, class_weighting="uniform"),
    "n-pair": lambda: NPairPlanner(classes=4),
    "n-pair sqrt": lambda: NPairPlanner(classes=4, class_weighting="sqrt"),
    "shuffle": lambda: ShufflePlanner(batch_size=16),
    "stratified": lambda: StratifiedPlanner(batch_size=12),
    "hard pk": lambda: HardPKPlanner(classes=5, per_class=3, pool=7),
    "negative class": lambda: NegativeClassPlanner(classes=4, pool=5),
    "stratified one by one": lambda: StratifiedPlanner(batch_size=12, power=1, together=1),
}


@pytest.fixture(params=PLANNERS)
def planner(request) -> BatchPlanner:
    return PLANNERS[request.param]()


@pytest.fixture(params=SIZES)
def sizes(request) -> list[int]:
    return SIZES[request.param]


@pytest.mark.parametrize("batch_size", [2, 7, 16, 10_000])
def test_shuffled_batches_hold_every_labelled_item_once(sizes, batch_size):
    relations = relations_of(sizes, unlabelled=9)
    labelled = torch.nonzero(relations.labels >= 0).flatten().tolist()
    for seed in SEEDS:
        plan = plan_of(ShufflePlanner(batch_size), relations, seed)
        assert plan.anchors is plan.candidates
        assert sorted(plan.anchors.values.tolist()) == labelled
        # As few batches as can hold them, and as equal as whole numbers can be: numpy's way to cut an array.
        batches = -(-len(labelled) // batch_size)
        expected = [len(part) for part in np.array_split(np.arange(len(labelled)), batches)]
        assert [len(batch) for batch in plan.anchors.tolist()] == expected


def test_a_shuffle_puts_any_item_anywhere_and_any_two_together_equally_often():
    relations = relations_of([12])
    plans = [plan_of(ShufflePlanner(4), relations, seed, epoch) for seed in range(30) for epoch in range(100)]
    values = torch.stack([plan.anchors.values for plan in plans]).numpy()
    places = np.stack([(values == item).sum(0) for item in range(12)])
    # Each of 12 items 3000 / 12 times at each of 12 places; 5 standard deviations of a binomial.
    assert np.abs(places - 250).max() < 5 * (3000 * (1 / 12) * (11 / 12)) ** 0.5
    batches = np.argsort(values, axis=1) // 4
    together = (batches[:, :, None] == batches[:, None]).sum(0)[np.triu_indices(12, 1)]
    # Two items share a batch of four with a chance of 3 / 11.
    assert np.abs(together - 3000 * 3 / 11).max() < 5 * (3000 * (3 / 11) * (8 / 11)) ** 0.5


def test_a_class_repeats_no_member_before_all_have_come(planner, sizes):
    relations = relations_of(sizes)
    for seed in SEEDS:
        plan = plan_of(planner, relations, seed)
        seen: dict[int, Counter[int]] = {label: Counter() for label in range(len(sizes))}
        sides = [plan.anchors] if plan.anchors is plan.candidates else [plan.anchors, plan.candidates]
        for step in range(len(plan)):
            for item in torch.cat([side[step] for side in sides]).tolist():
                seen[int(relations.labels[item])][item] += 1
            # After every batch the members of a class have come equally often, up to one.
            for label, counts in seen.items():
                if counts:
                    fewest = 0 if len(counts) < sizes[label] else min(counts.values())
                    assert max(counts.values()) <= fewest + 1


def test_every_item_is_reachable(sizes):
    relations = relations_of(sizes, unlabelled=5)
    everyone = set(torch.nonzero(relations.labels >= 0).flatten().tolist())
    pairable = {item for item in everyone if sizes[int(relations.labels[item])] > 1}
    pk, n_pair = set(), set()
    for epoch in range(60):
        pk |= set(plan_of(PKPlanner(5, 3), relations, epoch=epoch).anchors.values.tolist())
        n_pair |= set(plan_of(NPairPlanner(4), relations, epoch=epoch).anchors.values.tolist())
    assert pk == everyone
    assert n_pair == pairable


def test_equal_classes_are_each_gone_through_once_an_epoch():
    relations = relations_of([6] * 20)
    for seed in SEEDS:
        for planner in (PKPlanner(5, 3), PKPlanner(5, 3, "uniform")):
            assert sorted(plan_of(planner, relations, seed).anchors.values.tolist()) == list(range(120))
        pairs = plan_of(NPairPlanner(5), relations, seed)
        assert sorted([*pairs.anchors.values.tolist(), *pairs.candidates.values.tolist()]) == list(range(120))


def test_epochs_have_one_length_and_differ(planner, sizes):
    relations = relations_of(sizes)
    plans = [plan_of(planner, relations, seed, epoch) for seed in (0, 1) for epoch in range(5)]
    assert {len(plan) for plan in plans} == {planner.length(torch.arange(len(relations)), relations, 0)}
    assert len({digest(plan) for plan in plans}) == 10


def test_other_vectors_make_another_plan_of_the_same_length() -> None:
    relations = relations_of(SIZES["long tail"])
    ids = torch.arange(len(relations))
    for planner in (HardPKPlanner(5, 3, pool=7), NegativeClassPlanner(4, pool=9), NGAMEPlanner(16, 4)):
        plans = [planner.plan(ids, relations, 0, 0, scattered(len(ids), seed)) for seed in range(5)]
        assert len({digest(plan) for plan in plans}) == 5
        assert {len(plan) for plan in plans} == {planner.length(ids, relations, 0)}


def test_batches_can_be_set():
    relations = relations_of(SIZES["long tail"])
    for planner in (PKPlanner(5, 3, batches=7), NPairPlanner(4, batches=7)):
        assert [len(plan_of(planner, relations, epoch=epoch)) for epoch in range(3)] == [7, 7, 7]
    assert len(plan_of(PKPlanner(5, 3, batches=1), relations)) == 1


def test_only_the_given_ids_are_used(planner):
    relations = relations_of(SIZES["equal"])
    ids = torch.arange(0, len(relations), 2)
    plan = by_vectors(planner, ids, relations, 0, 0)
    assert set(plan.anchors.values.tolist()) | set(plan.candidates.values.tolist()) <= set(ids.tolist())


PAIR_PLANNERS: dict[str, Callable[[], BatchPlanner]] = {
    "pairs": lambda: PairPlanner(batch_size=8, negatives=2),
    "clusters of pairs": lambda: NGAMEPlanner(batch_size=8, cluster_size=4),
    "all pairs": lambda: PairPlanner(batch_size=8, pairs="all"),
    "scored pairs": lambda: ScoredPairPlanner(batch_size=8),
    "labels": lambda: LabelPlanner(batch_size=8),
}


def mixed() -> tuple[MixturePlanner, UnionRelations]:
    """A planner of everything at once."""
    labels = relations_of(SIZES["long tail"])
    pairs = judged(0, anchors=40, candidates=20, count=70, negatives=30)
    planners = [make() for make in [*PLANNERS.values(), *PAIR_PLANNERS.values()]]
    return MixturePlanner(planners), UnionRelations([labels] * len(PLANNERS) + [pairs] * len(PAIR_PLANNERS))


def mixed_digests() -> list[str]:
    planner, relations = mixed()
    ids = torch.arange(len(relations))
    return [
        digest(by_vectors(planner, ids, relations, seed, epoch)) for seed in (0, -5) for epoch in range(3)
    ]


def test_another_process_makes_the_same_plan():
    here = mixed_digests()
    assert len({*here}) == 6
    with ProcessPoolExecutor(1, mp_context=SERVER) as pool:  # where strings have other hashes
        assert pool.submit(mixed_digests).result() == here


def test_neighbouring_seeds_and_epochs_do_not_share_random_numbers():
    streams = {tuple(random_stream(seed, epoch).random(4)) for seed in range(-3, 10) for epoch in range(10)}
    assert len(streams) == 130
    assert random_stream(2, 1).random() != random_stream(1, 2).random()


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        # 60 + 30 + 10 members, one class a batch: by size, by root of size, evenly.
        ("size", [0.6, 0.3, 0.1]),
        ("sqrt", [0.473, 0.334, 0.193]),
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_rates_follow_the_weighting(weighting, expected):
    assert sized([60, 30, 10]).rates(1, weighting) == pytest.approx(expected, abs=5e-4)


def test_no_rate_is_above_one_and_the_rest_is_shared():
    # Two slots: the first class would come 1.6 times a batch; what is left goes 3 : 1 to the others.
    assert sized([80, 15, 5]).rates(2, "size") == pytest.approx([1, 0.75, 0.25])
    assert sized([80, 15, 5]).rates(3, "size").tolist() == [1, 1, 1]


@pytest.mark.parametrize("weighting", ["size", "sqrt", "uniform"])
def test_classes_come_as_often_as_their_rates_say(sizes, weighting):
    members = sized(sizes)
    expected = 37 * members.rates(4, weighting)
    total = np.zeros(len(sizes))
    for seed in range(200):
        table = members.draw_classes(37, 4, weighting, random_stream(seed, 0))
        appearances = np.bincount(table.reshape(-1), minlength=len(sizes))
        assert (np.abs(appearances - expected) < 1).all()  # in every epoch, rounded up or down
        total += appearances
    # On average exactly: a rounding has variance of at most 1/4, so this is five standard errors.
    assert np.abs(total / 200 - expected).max() < 5 * 0.5 / 200**0.5


def test_any_two_classes_meet_about_as_often_as_any_others():
    batches, together = 40, np.zeros((20, 20))
    for epoch in range(50):
        present = np.zeros((batches, 20))
        np.put_along_axis(
            present, sized([8] * 20).draw_classes(batches, 5, "size", random_stream(0, epoch)), 1, axis=1
        )
        together += present.T @ present
    pairs = together[np.triu_indices(20, 1)] / 50
    # 40 batches with 10 pairs each, over 190 pairs of classes.
    assert pairs.mean() == pytest.approx(40 * 10 / 190)
    assert pairs.min() > 1.2
    assert pairs.max() < 3.1


def test_too_few_classes_are_refused_with_numbers_and_remedy():
    relations = relations_of([5, 5, 1, 1], unlabelled=3)
    with pytest.raises(
        DataError, match=r"NPairPlanner\(classes=3\) needs 3 .* only 2 with 2 or .* at most 2"
    ):
        plan_of(NPairPlanner(3), relations)
    with pytest.raises(DataError, match=r"PKPlanner\(classes=5\) needs 5 .* only 4 with 1 or more"):
        plan_of(PKPlanner(5, 2), relations)
    with pytest.raises(DataError, match=r"only 2 with 2 or more"):
        plan_of(PKPlanner(3, 2, smallest_class=2), relations)


def test_small_classes_can_be_left_out():
    relations = relations_of([5, 5, 4, 1, 1, 1])
    plan = plan_of(PKPlanner(3, 2, smallest_class=2), relations)
    assert set(relations.labels[plan.anchors.values].tolist()) == {0, 1, 2}


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="per_class must be at least 1, not 0"):
        PKPlanner(4, 0)
    with pytest.raises(ValueError, match="batches must be at least 1, not 0"):
        PKPlanner(4, 2, batches=0)
    with pytest.raises(ValueError, match="class_weighting must be one of size, sqrt, uniform, not 'log'"):
        NPairPlanner(4, "log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes >= 2 to hold any negative, not 1"):
        NPairPlanner(1)
    with pytest.raises(ValueError, match="batch_size must be at least 2 for items to meet, not 1"):
        ShufflePlanner(1)


def test_a_shuffle_of_nothing_is_refused():
    with pytest.raises(DataError, match="none of the 5 items to train on has a label"):
        plan_of(ShufflePlanner(4), relations_of([], unlabelled=5))


def test_relations_without_classes_are_refused():
    class Pairs(LabelRelations):
        labels = None  # type: ignore[assignment]

        def __init__(self) -> None: ...

    relations: Relations = Pairs()
    with pytest.raises(TypeError, match=r"PKPlanner draws classes, and these data have pairs only \(Pairs\)"):
        PKPlanner(4, 2).plan(torch.arange(3), relations, 0, 0)
    # A shuffle needs none.
    assert sorted(ShufflePlanner(2).plan(torch.arange(3), relations, 0, 0).anchors.values.tolist()) == [
        0,
        1,
        2,
    ]


def test_a_hundred_thousand_items_are_planned():
    assert len(plan_of(PKPlanner(16, 4), relations_of([20] * 5_000)).anchors.values) == 16 * 4 * 1563


@pytest.mark.parametrize("sizes", [[50, 50], [40, 30, 20], [5] * 14, [2] * 30, [2, 2], [200] + [3] * 70])
@pytest.mark.parametrize("kind", [PKPlanner, NPairPlanner, HardPKPlanner, NegativeClassPlanner])
def test_by_default_as_many_classes_as_there_are_at_most(
    kind: type[BatchPlanner], sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    relations, planner = relations_of(sizes, unlabelled=3), kind()
    in_twos = kind in (NPairPlanner, NegativeClassPlanner)
    most = 64 if in_twos else 16
    expected = min(most, len(sizes))
    plan = plan_of(planner, relations)
    for epoch in range(3):
        for row in range(len(plan_of(planner, relations, epoch=epoch))):
            labels = relations.labels[plan.anchors[row % len(plan)]]
            assert len(labels.unique()) == expected
    assert len(plan) == planner.length(torch.arange(len(relations)), relations, 0)
    # Where there are few classes, each gives more of its members, up to all, so that batches are no smaller.
    if not in_twos:
        per_class = max(4, 64 // expected)
        sizes_of = relations.labels[plan.anchors[0]].bincount(minlength=len(sizes))
        for label in relations.labels[plan.anchors[0]].unique().tolist():
            assert int(sizes_of[label]) == min(per_class, sizes[label])
    told = [record.message for record in caplog.records if "by default" in record.message]
    assert len(told) == (len(sizes) < most)  # once, however many epochs are planned
    assert not told or f"all {len(sizes)} classes" in told[0]


@pytest.mark.parametrize("kind", [PKPlanner, NPairPlanner, HardPKPlanner, NegativeClassPlanner])
def test_a_number_of_classes_that_was_given_is_a_demand(kind: type[BatchPlanner]) -> None:
    relations = relations_of([5, 5, 5])
    told = rf"{kind.__name__}\(classes=4\) needs 4 .* have only 3 .* lower it to at most 3"
    with pytest.raises(DataError, match=told):
        plan_of(kind(classes=4), relations)
    with pytest.raises(DataError, match=rf"{kind.__name__} needs 2 .* only 1 "):
        plan_of(kind(), relations_of([9]))


@pytest.mark.parametrize("kind", [StratifiedPlanner, ShufflePlanner, NGAMEPlanner])
@pytest.mark.parametrize("sizes", [[2, 2], [3] * 3, [2] * 14])
def test_batch_sizes_are_at_most(kind: type[BatchPlanner], sizes: list[int]) -> None:
    plan = plan_of(kind(), relations_of(sizes))
    assert len(plan) == 1
    assert sorted(plan.anchors[0].tolist()) == list(range(sum(sizes)))


@pytest.mark.parametrize("kind", [PairPlanner, ScoredPairPlanner, NGAMEPlanner])
@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_few_pairs_make_one_batch(kind: type[BatchPlanner], pairs: int) -> None:
    first = torch.arange(pairs)
    relations = PairRelations(first, first + pairs, None, torch.arange(2 * pairs))
    plan = by_vectors(kind(), first, relations, 0, 0)
    assert sorted(plan.anchors[0].tolist()) == first.tolist()


def test_a_planner_of_classes_says_what_pairs_want_instead() -> None:
    first = torch.arange(3)
    relations = PairRelations(first, first + 3, None, torch.arange(6))
    for kind in (PKPlanner, NPairPlanner, HardPKPlanner, NegativeClassPlanner, StratifiedPlanner):
        told = rf"{kind.__name__} draws classes.*take planner=PairPlanner\(\)"
        with pytest.raises(TypeError, match=told):
            by_vectors(kind(), first, relations, 0, 0)
