"""What every planner promises, on any classes and pairs: plans that depend on their arguments alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_metric.batching import (
    BatchPlanner,
    HardPKPlanner,
    MixturePlanner,
    NegativeClassPlanner,
    NGAMEPlanner,
    NPairPlanner,
    PairPlanner,
    PKPlanner,
    Plan,
    ScoredPairPlanner,
    ShufflePlanner,
    StratifiedPlanner,
)
from lit_metric.batching.plan import even_lengths, share
from lit_metric.data import DataError, LabelRelations, Relations, UnionRelations
from tests.batching.cases import clashes, facts, judged, pairs_of, scattered
from tests.peers.cases import count

SEEDS = st.integers(-(2**40), 2**40)
SMALL = st.integers(1, 5)


def labelled(data: st.DataObject) -> LabelRelations:
    """Classes of any sizes in any order, some items without a label, some of equal content."""
    names = data.draw(
        st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", None]), min_size=1, max_size=40)
    )
    prints = torch.arange(len(names))
    if data.draw(st.booleans()):
        prints = prints % max(len(names) // 2, 1)
    return LabelRelations.from_names(names, prints)


OF_CLASSES: dict[str, Callable[[int, int], BatchPlanner]] = {
    "pk": lambda p, k: PKPlanner(p, k),
    "pk uniform": lambda p, k: PKPlanner(p, k, "uniform"),
    "pk sqrt": lambda p, k: PKPlanner(p, k, "sqrt"),
    "n-pair": lambda p, k: NPairPlanner(p + 1),
    "n-pair sqrt": lambda p, k: NPairPlanner(p + 1, "sqrt"),
    "n-pair uniform": lambda p, k: NPairPlanner(p + 1, "uniform"),
    "shuffle": lambda p, k: ShufflePlanner(p + k),
    "stratified": lambda p, k: StratifiedPlanner(p + k, power=k / 3, together=min(k, 2)),
    "hard pk": lambda p, k: HardPKPlanner(p, k, pool=p + 2),
    "negative class": lambda p, k: NegativeClassPlanner(p + 1, pool=p + 3),
    "clusters": lambda p, k: NGAMEPlanner(p + k, k + 1),
}
OF_PAIRS: dict[str, Callable[[int, int], BatchPlanner]] = {
    "one of each": lambda size, negatives: PairPlanner(size + 1, negatives),
    "all": lambda size, negatives: PairPlanner(size + 1, negatives, "all"),
    "clusters": lambda size, negatives: NGAMEPlanner(size + 1, min(size + 1, negatives + 2)),
    "scored": lambda size, negatives: ScoredPairPlanner(size + 1),
}


def made(planner: BatchPlanner, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan | None:
    """A plan; None where the data has too few classes or pairs, which is said as such."""
    try:
        given = {"vectors": scattered(len(relations))} if planner.uses_vectors else {}
        return planner.plan(ids, relations, seed, epoch, **given)
    except DataError:
        return None


def listed(plan: Plan) -> tuple[list[list[int]], list[list[int]]]:
    return plan.anchors.tolist(), plan.candidates.tolist()


def keeps_its_word(data: st.DataObject, planner: BatchPlanner, relations: Relations) -> Plan | None:
    """What holds of all planners: pure, one length, heedless of order and repeats, shared out whole."""
    ids = torch.arange(len(relations))
    seed, epoch = data.draw(SEEDS), data.draw(st.integers(0, 3))
    plan = made(planner, ids, relations, seed, epoch)
    shuffled = torch.tensor(data.draw(st.permutations(range(len(relations)))), dtype=torch.int64)
    again = made(planner, torch.cat([shuffled, shuffled[:2]]), relations, seed, epoch)
    if plan is None or again is None:
        assert plan is again
        return None
    assert listed(again) == listed(plan)
    assert planner.length(ids, relations, seed) == len(plan)
    other = made(planner, ids, relations, seed, epoch + 1)
    assert other is not None
    assert len(other) == len(plan)
    ranks = data.draw(st.integers(1, 5))
    for step in range(len(plan)):
        assert len({*plan.candidates[step].tolist()}) == len(plan.candidates[step])
        for side, whole in enumerate((plan.anchors[step], plan.candidates[step])):
            shares = [plan.batch(step, rank, ranks)[side] for rank in range(ranks)]
            assert torch.equal(torch.cat(shares), whole)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    return plan


@pytest.mark.parametrize("name", OF_CLASSES)
@given(data=st.data())
def test_classes(name: str, data: st.DataObject) -> None:
    count("property", "planners")
    relations, classes, each = labelled(data), data.draw(SMALL), data.draw(SMALL)
    plan = keeps_its_word(data, OF_CLASSES[name](classes, each), relations)
    labels = relations.labels
    sizes = torch.bincount(labels[labels >= 0], minlength=len(relations.classes))
    in_pairs = name.startswith("n-pair") or name == "negative class"
    enough = (classes + 1, 2) if in_pairs else (classes, 1) if "pk" in name else (1, 1)
    assert (plan is not None) == (int((sizes >= enough[1]).sum()) >= enough[0])
    if plan is None:
        return
    for anchors, candidates in zip(*listed(plan), strict=True):
        met = labels[sorted({*anchors, *candidates})]
        assert bool((met >= 0).all())
        if "pk" in name:
            held = Counter(labels[anchors].tolist())
            assert held == {label: min(each, int(sizes[label])) for label in held}
            assert len(held) == classes
            assert anchors == candidates
        elif in_pairs:
            assert labels[anchors].tolist() == labels[candidates].tolist()
            assert len({*labels[anchors].tolist()}) == len(anchors) == classes + 1
            assert not {*anchors} & {*candidates}
    # As many batches as make an epoch about as large as the data.
    drawn, size = int(sizes[sizes >= enough[1]].sum()), classes + each
    if "pk" in name or in_pairs:
        size = (classes + 1) * 2 if in_pairs else classes * each
    assert len(plan) == -(-drawn // size)
    if name in ("shuffle", "clusters"):
        assert sorted(plan.anchors.values.tolist()) == (labels >= 0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("name", OF_PAIRS)
@given(data=st.data())
def test_pairs(name: str, data: st.DataObject) -> None:
    count("property", "planners")
    bounds = {"anchors": (1, 15), "candidates": (1, 20), "count": (0, 25), "negatives": (1, 12)}
    numbers = {each: data.draw(st.integers(*own)) for each, own in bounds.items()}
    copies = data.draw(st.integers(0, numbers["candidates"] // 2))
    relations = judged(data.draw(st.integers(0, 10**6)), **numbers, copies=copies)
    size, negatives = data.draw(SMALL), data.draw(st.integers(0, 3))
    plan = keeps_its_word(data, OF_PAIRS[name](size, negatives), relations)
    prints, positive, negative = facts(relations)
    assert (plan is not None) == bool(positive | negative if name == "scored" else positive)
    if plan is None:
        return
    came: Counter[tuple[int, int]] = Counter()
    for pairs, (anchors, candidates) in zip(pairs_of(plan), zip(*listed(plan), strict=True), strict=True):
        assert 1 <= len(anchors) <= size + 1
        if name in ("one of each", "all"):
            assert {*pairs} <= positive
            assert clashes(pairs, candidates, prints, positive) == []
            came.update(pairs)
        elif name == "clusters":
            for anchor in anchors:
                assert {(anchor, candidate) for candidate in candidates} & positive
    if name == "all":
        assert set(came.values()) <= {1}
    elif name == "one of each":
        assert set(Counter(anchor for anchor, _ in came.elements()).values()) <= {1}


@given(data=st.data())
def test_mixtures(data: st.DataObject) -> None:
    count("property", "planners")
    parts: list[Relations] = [
        labelled(data),
        judged(data.draw(st.integers(0, 1000)), 8, 10, 12, 4),
        labelled(data),
    ]
    planner = MixturePlanner([ShufflePlanner(4), PairPlanner(3), StratifiedPlanner(4)])
    union = UnionRelations(parts)
    plan = keeps_its_word(data, planner, union)
    if plan is None:
        return
    assert plan.tasks is not None
    for task, anchors, candidates in zip(plan.tasks.tolist(), *listed(plan), strict=True):
        assert {*union.part_of(torch.tensor(anchors + candidates)).tolist()} == {task}


@given(st.integers(0, 10**6), st.integers(1, 50))
def test_even_lengths_and_shares(total: int, parts: int) -> None:
    count("property", "planners")
    lengths = even_lengths(total, parts)
    assert (int(lengths.sum()), len(lengths)) == (total, parts)
    assert int(lengths.max() - lengths.min()) <= 1
    ids = torch.arange(total % 100)
    assert torch.equal(torch.cat([share(ids, rank, parts) for rank in range(parts)]), ids)
