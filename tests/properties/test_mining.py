"""Draws, filters, tables and mining itself, against lists and loops."""

from __future__ import annotations

import math
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from lit_metric.data import LabelRelations
from lit_metric.index import Embeddings
from lit_metric.mining import (
    AbsoluteMargin,
    Candidates,
    Draw,
    DrawContext,
    MaxScore,
    Miner,
    NegativeTable,
    PositiveScores,
    RankRange,
    RelativeMargin,
    SimANS,
    TopK,
    UniformWindow,
    WithRandom,
)
from lit_metric.mining.hashing import hashed, permuted, uniform
from tests.peers.cases import count

NUMBERS = st.integers(-(2**40), 2**40)
MOMENTS = st.tuples(NUMBERS, st.integers(0, 1000), st.integers(0, 10**6))
"""Seed, epoch and step."""


def found(data: st.DataObject, items: int = 30) -> Candidates:
    """Candidates of a few anchors, most similar first, with empty places anywhere."""
    rows, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    ids = torch.stack([torch.randperm(items, generator=generator)[:width] for _ in range(rows)])
    scores = (2 * torch.rand(rows, width, generator=generator) - 1).sort(dim=1, descending=True).values
    empty = torch.rand(rows, width, generator=generator) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    mean = 2 * torch.rand(rows, generator=generator) - 1
    mean[torch.rand(rows, generator=generator) < 0.2] = math.nan
    anchors = torch.randperm(1000, generator=generator)[:rows] + items
    positives = PositiveScores(mean + 0.1, mean - 0.1, mean)
    return Candidates(anchors, ids.masked_fill(empty, -1), scores.masked_fill(empty, -math.inf), positives)


def context(moment: tuple[int, int, int], items: int = 1100) -> DrawContext:
    """Random negatives come from the first 30 items, each of a class of its own."""
    relations = LabelRelations(torch.arange(items), [*map(str, range(items))], torch.arange(items))
    return DrawContext(*moment, torch.arange(30), relations)


DRAWS: dict[str, Draw] = {
    "first": TopK(),
    "window": UniformWindow(0, 5),
    "later": UniformWindow(2),
    "ambiguous": SimANS(50.0, -0.1),
    "sharp": SimANS(1e6),
    "with random": WithRandom(TopK(), 0.4),
    "filled": WithRandom(SimANS(10.0), 0.5, fill=True),
    "random": WithRandom(share=1.0),
}


@pytest.mark.parametrize("name", DRAWS)
@given(data=st.data())
def test_draws(name: str, data: st.DataObject) -> None:
    count("property", "draws")
    draw, candidates, moment = DRAWS[name], found(data), data.draw(MOMENTS)
    number = data.draw(st.integers(1, 6))
    picked = draw.pick(candidates, number, context(moment))
    assert picked.shape == (len(candidates.anchors), number)
    assert torch.equal(picked, draw.pick(candidates, number, context(moment)))
    row = data.draw(st.integers(0, len(picked) - 1))
    alone = Candidates(
        candidates.anchors[[row]],
        candidates.ids[[row]],
        candidates.scores[[row]],
        candidates.positives.select(torch.tensor([row])),
    )
    assert draw.pick(alone, number, context(moment)).tolist() == [picked[row].tolist()]  # in any company
    for own, some in zip(picked.tolist(), candidates.ids.tolist(), strict=True):
        there = [one for one in own if one >= 0]
        assert own == there + [-1] * (number - len(there))
        assert len({*there}) == len(there)
        present = [one for one in some if one >= 0]
        if "random" not in name and name != "filled":
            first = {"window": (0, 5), "later": (2, None)}.get(name, (0, None))
            allowed = present[slice(*first)]
            assert {*there} <= {*allowed}
            assert len(there) == min(number, len(allowed))
        if name == "first":
            assert there == present[:number]
        if name in ("filled", "random"):
            assert len(there) == number  # 30 items are to be had, and none is forbidden


@given(data=st.data())
def test_random_negatives_never_break_the_relations(data: st.DataObject) -> None:
    count("property", "draws")
    names = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=2, max_size=25))
    prints = torch.tensor(data.draw(st.lists(st.integers(0, 12), min_size=len(names), max_size=len(names))))
    relations = LabelRelations.from_names(names, prints)
    some = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=25, unique=True))
    anchors = torch.tensor(data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=6)))
    counts = torch.tensor(
        data.draw(st.lists(st.integers(0, 8), min_size=len(anchors), max_size=len(anchors)))
    )
    taken = torch.tensor([[some[0], -1]] * len(anchors))
    picked = DrawContext(*data.draw(MOMENTS), torch.tensor(some), relations).random_negatives(
        anchors, counts, taken
    )
    may = relations.negative(anchors, torch.arange(len(names)))
    for row, (own, number) in enumerate(zip(picked.tolist(), counts.tolist(), strict=True)):
        there = [one for one in own if one >= 0]
        allowed = {one for one in some if bool(may[row, one])} - {some[0], int(anchors[row])}
        assert {*there} <= allowed
        assert len({*there}) == len(there) == min(number, len(allowed))


@given(data=st.data())
def test_filters_by_score_and_rank(data: st.DataObject) -> None:
    count("property", "filters")
    candidates = found(data)
    start, width = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 5))
    rules = {
        MaxScore(0.3): lambda score, positive: score < 0.3,
        AbsoluteMargin(0.2): lambda score, positive: math.isnan(positive) or score < positive - 0.2,
        RelativeMargin(0.2): lambda score, positive: (
            math.isnan(positive) or score < min(0.8 * positive, positive)
        ),
    }
    positives = candidates.positives.mean.double().tolist()
    for rule, keep in rules.items():
        kept = rule.keep(candidates).tolist()
        for row, scores in enumerate(candidates.scores.double().tolist()):
            for place, score in enumerate(scores):
                assume(abs(score - rule.ceiling(candidates.positives)[row].nan_to_num(9)) > 1e-6)
                if candidates.ids[row, place] >= 0:
                    assert kept[row][place] == keep(score, positives[row])
    inside = RankRange(start, start + width).keep(candidates)
    for row, ids in enumerate(candidates.ids.tolist()):
        present = [one for one in ids if one >= 0]
        assert [one for one, ok in zip(ids, inside[row].tolist(), strict=True) if ok and one >= 0] == present[
            start : start + width
        ]


@given(st.integers(0, 2**60), st.integers(1, 500))
def test_permutations(key: int, size: int) -> None:
    count("property", "draws")
    assert sorted(permuted(hashed(key), np.arange(size), size).tolist()) == [*range(size)]
    assert 0 < float(uniform(key, size)[0]) < 1


@given(data=st.data())
def test_a_table_is_a_dictionary(data: st.DataObject) -> None:
    count("property", "tables")
    anchors = sorted(data.draw(st.sets(st.integers(0, 2**31 - 1), min_size=1, max_size=12)))
    width = data.draw(st.integers(1, 5))
    generator = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    ids = generator.integers(-1, 2**31 - 1, (len(anchors), width)).astype(np.int32)
    scores = generator.standard_normal(ids.shape).astype(np.float16)
    positives = generator.standard_normal((len(anchors), 3)).astype(np.float16)
    table = NegativeTable(np.array(anchors, np.int32), ids, scores, positives)
    known = {one: row for row, one in enumerate(anchors)}
    asked = data.draw(st.lists(st.sampled_from(anchors), max_size=10))
    found_ = table.candidates(torch.tensor(asked, dtype=torch.int64))
    rows = [known[one] for one in asked]
    assert found_.anchors.tolist() == asked
    assert found_.ids.tolist() == ids[rows].tolist()
    assert torch.equal(found_.scores, torch.from_numpy(scores[rows].astype(np.float32)))
    assert torch.equal(found_.positives.worst, torch.from_numpy(positives[rows][:, 1].astype(np.float32)))
    missing = data.draw(st.integers(0, 2**31 - 1))
    assume(missing not in known)
    with pytest.raises(KeyError, match=f"item {missing} has no row"):
        table.rows(torch.tensor([*asked, missing]))
    with tempfile.TemporaryDirectory() as folder:
        version = table.save(folder, corpus="c", weights="w", step=3, epoch=1)
        stored = NegativeTable.open(folder, version, corpus="c")
        assert torch.equal(stored.candidates(torch.tensor(asked, dtype=torch.int64)).ids, found_.ids)


def nearest(
    vectors: Tensor, relations: LabelRelations, anchor: int, ceiling: float, wanted: int
) -> list[int]:
    """The nearest negatives of an anchor below a ceiling; none without a positive."""
    ids = torch.arange(len(vectors))
    own = torch.tensor([anchor])
    if not bool(relations.positive(own, ids).any()):
        return []
    scores = vectors @ vectors[anchor]
    may = relations.negative(own, ids)[0]
    kept = sorted(
        (-float(scores[one]), one) for one in ids.tolist() if may[one] and float(scores[one]) < ceiling
    )
    return [one for _, one in kept[:wanted]]


@given(data=st.data())
def test_mining_against_a_loop(data: st.DataObject) -> None:
    """Items without a positive among them, classes of one item, no class at all."""
    count("property", "mining")
    names = data.draw(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=25))
    relations = LabelRelations.from_names(names, torch.arange(len(names)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    vectors = torch.nn.functional.normalize(torch.randn(len(names), 6, generator=generator), dim=1)
    wanted, ceiling = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([math.inf, 0.3]))
    filters = [] if math.isinf(ceiling) else [MaxScore(ceiling)]
    miner = Miner(top_k=wanted, filters=filters)
    table = miner.mine(Embeddings(torch.arange(len(names)), vectors), relations)
    for anchor, row in zip(table.anchors.tolist(), table.ids.tolist(), strict=True):
        expected = nearest(vectors, relations, anchor, ceiling, wanted)
        assert row == expected + [-1] * (len(row) - len(expected)), anchor
