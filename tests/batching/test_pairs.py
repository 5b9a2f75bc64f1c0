"""Batches of pairs: nothing clashes, everything comes, and no more is left out than must be."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric.batching import PairPlanner, ScoredPairPlanner
from lit_metric.batching.placement import Placement
from lit_metric.batching.plan import even_lengths
from lit_metric.data import DataError, LabelRelations, PairRelations
from lit_metric.data.relations.lookup import PairSet
from tests.batching.cases import clashes, facts, ids_of, judged, pairs_of

WORLDS = {
    "few clashes": {"anchors": 60, "candidates": 200, "count": 90, "negatives": 80},
    "shared answers": {"anchors": 60, "candidates": 12, "count": 90, "negatives": 60},
    "copies": {"anchors": 40, "candidates": 60, "count": 70, "negatives": 60, "copies": 40},
    "one answer": {"anchors": 20, "candidates": 1, "count": 40},
}


@pytest.fixture(params=WORLDS)
def world(request) -> dict[str, int]:
    return WORLDS[request.param]


@pytest.mark.parametrize("pairs", ["one", "all"])
@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize("batch_size", [2, 7, 64])
def test_no_batch_holds_a_clash(world, batch_size, negatives, pairs):
    for seed in range(4):
        relations = judged(seed, **world)
        prints, positive, _ = facts(relations)
        plan = PairPlanner(batch_size, negatives, pairs).plan(ids_of(relations), relations, seed, 3)
        for batch, candidates in zip(pairs_of(plan), plan.candidates.tolist(), strict=True):
            assert 1 <= len(batch) <= batch_size
            assert {*batch} <= positive
            assert clashes(batch, candidates, prints, positive) == []
            assert len({prints[candidate] for candidate in candidates}) == len(candidates)


@pytest.mark.parametrize("pairs", ["one", "all"])
@pytest.mark.parametrize("batch_size", [2, 7, 64])
def test_every_pair_comes_once_and_what_is_left_out_has_no_place(world, batch_size, pairs):
    for seed in range(4):
        relations = judged(seed, **world)
        prints, positive, _ = facts(relations)
        plan = PairPlanner(batch_size, pairs=pairs).plan(ids_of(relations), relations, seed, 0)
        wanted = {anchor for anchor, _ in positive} if pairs == "one" else positive
        assert len(plan) == -(-len(wanted) // batch_size)
        batches = pairs_of(plan)
        came = Counter(anchor if pairs == "one" else (anchor, own) for anchor, own in chain(*batches))
        assert {*came} <= wanted
        assert set(came.values()) == {1}
        for missing in wanted - {*came}:
            # Whichever positive the anchor took: there is one that no batch with room could have held.
            own = [pair for pair in positive if missing in (pair, pair[0])]
            assert any(
                all(
                    len(batch) == batch_size
                    or clashes([*batch, pair], [own for _, own in [*batch, pair]], prints, positive)
                    or prints[pair[1]] in {prints[other] for _, other in batch}
                    for batch in batches
                )
                for pair in own
            )


def test_all_fit_where_all_can():
    relations = judged(0, **WORLDS["few clashes"])
    _, positive, _ = facts(relations)
    plan = PairPlanner(8, pairs="all").plan(ids_of(relations), relations, 0, 0)
    assert sorted(chain(*pairs_of(plan))) == sorted(positive)


def test_answers_shared_by_all_are_one_a_batch_and_the_rest_is_told(caplog):
    relations = judged(0, **WORLDS["one answer"])
    anchors = len(facts(relations)[1])
    with caplog.at_level(logging.INFO):
        plan = PairPlanner(8).plan(ids_of(relations), relations, 0, 5)
    assert plan.anchors.lengths.tolist() == [1] * -(-anchors // 8)
    assert f"epoch 5 leaves out {anchors - len(plan)} of {anchors} pairs" in caplog.text
    # Each in a batch of its own, all have a place.
    plan = PairPlanner(8, batches=1000).plan(ids_of(relations), relations, 0, 5)
    assert plan.anchors.lengths.tolist() == [1] * anchors


def said(caplog) -> list[str]:
    return [message.partition(":")[0] for message in caplog.messages if "leaves out" in message]


def test_what_is_left_out_is_said_once_and_again_where_it_is_more_than_twice_as_many(caplog):
    def shared(anchors: int) -> PairRelations:
        """All anchors have the same answer, so a batch holds one of them."""
        answers = torch.full((anchors,), anchors)
        return PairRelations(torch.arange(anchors), answers, None, torch.arange(anchors + 1))

    planner = PairPlanner(8)
    with caplog.at_level(logging.INFO):
        for epoch in (0, 0, 1, 2):  # the first also for the length of the schedule
            planner.plan(torch.arange(16), shared(16), 0, epoch)
        assert said(caplog) == ["epoch 0 leaves out 14 of 16 pairs"]
        planner.plan(torch.arange(32), shared(32), 0, 3)  # 28, no more than twice 14
        planner.plan(torch.arange(34), shared(34), 0, 4)
        planner.plan(torch.arange(34), shared(34), 0, 5)
    assert said(caplog) == ["epoch 0 leaves out 14 of 16 pairs", "epoch 4 leaves out 29 of 34 pairs"]


def test_a_worker_of_a_loader_leaves_saying_it_to_the_main_process(caplog, monkeypatch):
    relations = judged(0, **WORLDS["one answer"])
    monkeypatch.setattr("lit_metric.batching.pairs.get_worker_info", lambda: object())
    with caplog.at_level(logging.INFO):
        PairPlanner(8).plan(ids_of(relations), relations, 0, 0)
    assert said(caplog) == []


def test_an_anchor_takes_its_positives_in_turn():
    relations = judged(2, **WORLDS["few clashes"])
    _, positive, _ = facts(relations)
    planner, counts = PairPlanner(4), Counter(anchor for anchor, _ in positive)
    most = max(counts.values())
    assert most >= 3
    came = Counter(
        pair
        for epoch in range(most)
        for pair in chain(*pairs_of(planner.plan(ids_of(relations), relations, 0, epoch)))
    )
    assert {*came} == positive  # after as many epochs as any has positives, all have come
    for anchor, count in counts.items():
        own = [came[pair] for pair in positive if pair[0] == anchor]
        assert max(own) - min(own) <= 1
        assert sum(own) == most
        assert len(own) == count


def test_every_pair_comes_in_some_epoch_though_not_all_fit_in_one(world):
    relations = judged(1, **world)
    _, positive, _ = facts(relations)
    came = set()
    for epoch in range(150):
        came |= {*chain(*pairs_of(PairPlanner(8, pairs="all").plan(ids_of(relations), relations, 0, epoch)))}
    assert came == positive


def test_an_anchor_has_the_negatives_it_was_given_beside_it():
    relations = judged(1, **WORLDS["few clashes"])
    prints, positive, negative = facts(relations)
    assert negative
    for count in (1, 2, 10):
        plan = PairPlanner(6, count).plan(ids_of(relations), relations, 0, 0)
        added = 0
        for batch, candidates in zip(pairs_of(plan), plan.candidates.tolist(), strict=True):
            extra = candidates[len(batch) :]
            added += len(extra)
            held = {prints[one] for one in candidates}
            assert all(any((anchor, one) in negative for anchor, _ in batch) for one in extra)
            for anchor, _ in batch:
                given = [one for a, one in negative if a == anchor]
                usable = [one for one in given if not clashes(batch, [one], prints, positive)]
                # As many as asked for, or all that clash with nobody.
                assert sum(prints[one] in held for one in usable) >= min(count, len(usable))
        assert added > 10


def test_given_negatives_change_from_epoch_to_epoch():
    relations = judged(1, anchors=5, candidates=60, count=5, negatives=60)
    _, positive, negative = facts(relations)
    seen = set()
    for epoch in range(40):
        plan = PairPlanner(2, 1).plan(ids_of(relations), relations, 0, epoch)
        seen |= {*plan.candidates.values.tolist()}
    anchors = {anchor for anchor, _ in positive}
    assert seen == {one for _, one in positive} | {one for anchor, one in negative if anchor in anchors}


def test_only_given_anchors_are_planned():
    relations = judged(0, **WORLDS["shared answers"])
    ids = torch.arange(0, 60, 3)
    for planner in (PairPlanner(4), PairPlanner(4, pairs="all"), ScoredPairPlanner(4)):
        anchors = set(planner.plan(ids, relations, 0, 0).anchors.values.tolist())
        assert anchors
        assert anchors <= set(ids.tolist())


def test_symmetric_pairs_meet_once():
    first, second = torch.arange(30), torch.arange(30, 60)
    relations = PairRelations(first, second, None, torch.arange(60), symmetric=True)
    everyone = torch.arange(60)
    once = chain(*pairs_of(PairPlanner(8, pairs="all").plan(everyone, relations, 0, 0)))
    assert sorted(once) == list(zip(range(30), range(30, 60), strict=True))
    # Each item once as an anchor, and never in one batch with its own partner as an anchor.
    plan = PairPlanner(8).plan(everyone, relations, 0, 0)
    assert sorted(plan.anchors.values.tolist()) == list(range(60))
    for batch in plan.anchors.tolist():
        assert len({item % 30 for item in batch}) == len(batch)


def test_ignored_pairs_do_not_meet():
    anchors, candidates = torch.arange(12), torch.arange(12, 24)
    held_out = torch.randint(12, (2, 40), generator=torch.Generator().manual_seed(0))
    relations = PairRelations(
        anchors, candidates, None, torch.arange(24), ignored=(held_out[0], held_out[1] + 12)
    )
    ignored = set(zip(held_out[0].tolist(), (held_out[1] + 12).tolist(), strict=True))
    for seed in range(20):
        for batch in pairs_of(PairPlanner(4).plan(torch.arange(24), relations, seed, 0)):
            assert not ignored & {(a, c) for a, own in batch for _, c in batch if c != own}


def places_by_loop(own: Tensor, other: Tensor, clashes: PairSet, lengths: Tensor, capacity: int) -> list[int]:
    """By the rule: a pair waits if an earlier one of its batch has its candidate, or, among the rest, if it
    clashes with an earlier one. Then the emptiest batch takes it that can, the first of several."""
    equal = (other[:, None] == other).tolist()
    clash = clashes.contains(own[:, None], other).logical_or(other[:, None] == other)
    clash = (clash | clash.T).tolist()
    batches: list[list[int]] = []
    waiting: list[int] = []
    for part in torch.arange(len(own)).split(lengths.tolist()):
        pairs = part.tolist()
        first = [
            pair for pair in pairs if not any(equal[pair][earlier] for earlier in pairs if earlier < pair)
        ]
        kept = [
            pair for pair in first if not any(clash[pair][earlier] for earlier in first if earlier < pair)
        ]
        waiting += [pair for pair in pairs if pair not in kept]
        batches.append(kept)
    for pair in waiting:
        free = [
            batch for batch in batches if len(batch) < capacity and not any(clash[pair][p] for p in batch)
        ]
        if free:
            min(free, key=len).append(pair)
    batch_of = {pair: number for number, batch in enumerate(batches) for pair in batch}
    return [batch_of.get(pair, -1) for pair in range(len(own))]


@pytest.mark.parametrize("held", [1 << 22, 50, 3])
def test_places_against_a_loop(held, monkeypatch):
    monkeypatch.setattr("lit_metric.batching.placement._BLOCK", held)
    monkeypatch.setattr("lit_metric.batching.placement._TABLE", held)
    left_out = 0
    for seed in range(30):
        relations = judged(seed, anchors=50, candidates=15, count=70, copies=5)
        anchors, candidates, _ = relations.judgements(torch.arange(50))
        own, other = relations.contents[anchors], relations.contents[candidates]
        lengths = even_lengths(len(own), 9)
        expected = places_by_loop(own, other, relations.clashes, lengths, 10)
        assert Placement(own, other, relations.clashes).batches(lengths, 10).tolist() == expected
        left_out += expected.count(-1)
    assert left_out > 30


def test_scored_pairs_come_once_each_whatever_their_score():
    lots = np.random.default_rng(0)
    for size in (1, 5, 64, 1000):
        relations = judged(3, anchors=40, candidates=40, count=70, negatives=70)
        anchors, candidates, _ = relations.judgements(torch.arange(40))
        known = set(zip(anchors.tolist(), candidates.tolist(), strict=True))
        plan = ScoredPairPlanner(size).plan(ids_of(relations), relations, int(lots.integers(99)), 1)
        assert len(plan) == -(-len(known) // size)
        rows = list(zip(plan.anchors.tolist(), plan.candidates.tolist(), strict=True))
        assert all(len(set(side)) == len(side) for row in rows for side in row)
        met = [{(a, c) for a in row[0] for c in row[1]} & known for row in rows]
        assert set().union(*met) == known
        sizes = [len(part) for part in np.array_split(np.arange(len(known)), len(plan))]
        # Each batch holds its own pairs at least, and no item that has none of them.
        assert all(len(pairs) >= least for pairs, least in zip(met, sizes, strict=True))
        for row, pairs in zip(rows, met, strict=True):
            assert {a for a, _ in pairs} == {*row[0]}
            assert {c for _, c in pairs} == {*row[1]}
    assert plan.anchors[0].tolist() == anchors.unique().tolist()


def test_scored_pairs_are_shuffled_anew_each_epoch():
    relations = judged(3, anchors=40, candidates=40, count=70)
    batches = [
        ScoredPairPlanner(8).plan(ids_of(relations), relations, 0, epoch).anchors.tolist()
        for epoch in range(5)
    ]
    assert len({str(batch) for batch in batches}) == 5


def test_many_pairs_are_planned_without_a_table_of_all_pairs():
    count = 200_000  # a table of all would have 40 GB
    relations = PairRelations(
        torch.arange(count), count + torch.arange(count) // 2, None, torch.arange(2 * count)
    )
    plan = PairPlanner(512).plan(torch.arange(count), relations, 0, 0)
    assert len(plan) == 391
    assert len(plan.anchors.values.unique()) == len(plan.anchors.values) == count
    # Two anchors share each answer; they are never in one batch.
    keys = plan.candidates.segment_ids * 2 * count + plan.candidates.values
    assert len(keys.unique()) == count


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 2 for pairs to meet, not 1"):
        PairPlanner(1)
    with pytest.raises(ValueError, match="negatives=-1 must be at least 0, batches=None at least 1"):
        PairPlanner(negatives=-1)
    with pytest.raises(ValueError, match="pairs must be 'one' for each anchor or 'all', not 'some'"):
        PairPlanner(pairs="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        ScoredPairPlanner(0)


def test_nothing_to_plan_is_refused():
    relations = PairRelations(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.0]), torch.arange(3))
    with pytest.raises(DataError, match="none of the 3 items to train on has a positive: check the pairs"):
        PairPlanner().plan(torch.arange(3), relations, 0, 0)
    with pytest.raises(DataError, match="none of the 2 items to train on is judged with another"):
        ScoredPairPlanner().plan(torch.arange(1, 3), relations, 0, 0)
    labels = LabelRelations(torch.zeros(3, dtype=torch.int64), ["one"], torch.arange(3))
    with pytest.raises(
        TypeError,
        match=r"PairPlanner plans pairs, and LabelRelations has none; for labels take planner=PKPlanner",
    ):
        PairPlanner().plan(torch.arange(3), labels, 0, 0)


def test_candidates_of_an_anchor_come_together() -> None:
    draw = torch.Generator().manual_seed(0)
    pairs = torch.unique(torch.randint(0, 20, (70, 2), generator=draw) + torch.tensor([0, 20]), dim=0)
    relations = PairRelations(pairs[:, 0], pairs[:, 1], torch.rand(len(pairs)), torch.arange(40))
    planner = ScoredPairPlanner(batch_size=10, together=True)
    plans = [planner.plan(torch.arange(20), relations, seed=0, epoch=epoch) for epoch in range(2)]
    for plan in plans:
        assert len(plan) == -(-len(pairs) // 10)
        assert sorted(plan.anchors.values.tolist()) == sorted(set(pairs[:, 0].tolist()))
        assert int(plan.anchors.lengths.max() - plan.anchors.lengths.min()) <= 1
        for batch in range(len(plan)):
            anchors, met = plan.anchors[batch].tolist(), set(plan.candidates[batch].tolist())
            assert met == {other for anchor, other in pairs.tolist() if anchor in anchors}
    assert plans[0].anchors.tolist() != plans[1].anchors.tolist()
    # No batch is empty, even where there are fewer anchors than batches.
    one = PairRelations(torch.zeros(9, dtype=torch.int64), torch.arange(1, 10), None, torch.arange(10))
    assert len(ScoredPairPlanner(2, together=True).plan(torch.arange(10), one, 0, 0)) == 1


@pytest.mark.parametrize("pairs", ["one", "all"])
@pytest.mark.parametrize("batches", [None, 3, 90])
def test_the_number_of_batches_is_known_without_a_plan(pairs: Any, batches: int | None) -> None:
    draw = np.random.default_rng(0)
    anchors, candidates = torch.from_numpy(draw.integers(30, size=(2, 80)))
    relations = PairRelations(anchors, 30 + candidates, None, torch.arange(60))
    planner = PairPlanner(4, pairs=pairs, batches=batches)
    for ids in (torch.arange(30), torch.tensor([3, 1, 3])):
        for each in (planner, ScoredPairPlanner(7), ScoredPairPlanner(7, together=True)):
            assert each.length(ids, relations, 5) == len(each.plan(ids, relations, 5, 2))
