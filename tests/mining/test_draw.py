"""Draws against probabilities worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from lit_metric.mining import (
    Candidates,
    Draw,
    DrawContext,
    Miner,
    PositiveScores,
    SimANS,
    TopK,
    UniformWindow,
    WithRandom,
)
from tests.mining.cases import candidates_of, relations_of

NONE = -math.inf
NOW = 3, 1, 17
"""Seed, epoch and step."""


def context_of(items: int, now: tuple[int, int, int] = NOW) -> DrawContext:
    """Random negatives come from all items, each of a class of its own."""
    return DrawContext(*now, torch.arange(items), relations_of(torch.arange(items)))


def alike(anchors: int, scores: list[float], positive: float, first: int = 0) -> Candidates:
    """Many anchors with the same scores, candidates 0, 1, ...: each anchor draws its own lot."""
    table = torch.tensor(scores).expand(anchors, -1)
    ids = torch.arange(len(scores)).expand(anchors, -1)
    same = torch.full((anchors,), positive)
    return Candidates(torch.arange(first, first + anchors), ids, table, PositiveScores(same, same, same))


def expected_in_order(probabilities: list[float]) -> Tensor:
    """Probability of each ordered pair when two are drawn one after the other without replacement."""
    count = len(probabilities)
    return torch.tensor(
        [
            [
                0 if i == j else probabilities[i] * probabilities[j] / (1 - probabilities[i])
                for j in range(count)
            ]
            for i in range(count)
        ]
    )


def check_pairs(draw: Draw, candidates: Candidates, probabilities: list[float]) -> None:
    """Chi-square of the ordered pairs that were drawn."""
    picked = draw.pick(candidates, 2, context_of(4))
    count = len(probabilities)
    seen = torch.bincount(picked[:, 0] * count + picked[:, 1], minlength=count**2).double()
    expected = expected_in_order(probabilities).double().flatten() * len(picked)
    possible = expected > 0
    assert seen[~possible].sum() == 0
    assert stats.chisquare(seen[possible], expected[possible] * (seen.sum() / expected.sum())).pvalue > 0.01


def test_top_k_takes_the_most_similar_that_are_there() -> None:
    candidates = candidates_of([[0.3, 0.9, 0.5], [0.9, NONE, NONE]], [1, 1], [1, 1], [1, 1])
    assert TopK().pick(candidates, 2, context_of(3)).tolist() == [[101, 102], [100, -1]]
    assert TopK().pick(candidates, 4, context_of(3)).tolist() == [[101, 102, 100, -1], [100, -1, -1, -1]]


def test_simans_probabilities_by_hand() -> None:
    # s+ = 0.8, b = -0.1: the peak is at 0.7. Squares (0.9-0.8+0.1)^2 = 0.04, 0 and 0.04; times a = 50: 2, 0
    # and 2. With +b turned round the peak would be at 0.9 and the weights 1, e^-2 and e^-8.
    candidates = alike(20_000, [0.9, 0.7, 0.5], positive=0.8)
    draw = SimANS(a=50, b=-0.1)
    weights = draw.log_weights(candidates)[0].exp().tolist()
    assert weights == pytest.approx([math.exp(-2), 1, math.exp(-2)], rel=1e-5)
    total = 1 + 2 * math.exp(-2)
    check_pairs(draw, candidates, [math.exp(-2) / total, 1 / total, math.exp(-2) / total])


def test_simans_measures_from_the_chosen_positive() -> None:
    candidates = candidates_of([[0.9, 0.5]], best=[0.9], worst=[0.5], mean=[0.7])
    assert SimANS(a=1, positive_score="best").log_weights(candidates)[0].tolist() == pytest.approx([0, -0.16])
    assert SimANS(a=1, positive_score="worst").log_weights(candidates)[0].tolist() == pytest.approx(
        [-0.16, 0]
    )
    assert SimANS(a=1, positive_score="mean").log_weights(candidates)[0].tolist() == pytest.approx(
        [-0.04, -0.04]
    )


def test_simans_without_a_positive_draws_uniformly() -> None:
    check_pairs(SimANS(a=100), alike(20_000, [0.9, 0.5, 0.1], positive=math.nan), [1 / 3] * 3)


def test_window_draws_uniformly_within_and_never_outside() -> None:
    candidates = alike(20_000, [0.9, 0.8, 0.7, 0.6, 0.5], positive=1)
    check_pairs(UniformWindow(1, 4), candidates, [0, 1 / 3, 1 / 3, 1 / 3, 0])
    short = UniformWindow(3).pick(candidates, 3, context_of(5))
    assert short[:, 2].unique().tolist() == [-1]
    assert short[:, :2].sort(dim=1).values.unique(dim=0).tolist() == [[3, 4]]


DRAWS = [TopK(), UniformWindow(0, 10), SimANS(20), WithRandom(SimANS(20), 0.4), WithRandom(share=1.0)]


@pytest.mark.parametrize("draw", DRAWS)
def test_a_draw_depends_on_the_anchor_and_the_moment_alone(draw: Draw) -> None:
    lots = torch.Generator().manual_seed(0)
    scores = torch.rand(60, 20, generator=lots).sort(dim=1, descending=True).values
    ids = torch.stack([torch.randperm(200, generator=lots)[:20] + 60 for _ in range(60)])
    same = torch.full((60,), 0.8)
    positives = PositiveScores(same, same, same)

    def pick(rows: Tensor, now: tuple[int, int, int] = NOW) -> Tensor:
        part = Candidates(rows, ids[rows], scores[rows], positives.select(rows))
        return draw.pick(part, 5, context_of(260, now))

    whole = pick(torch.arange(60))
    order = torch.randperm(60, generator=lots)
    assert torch.equal(pick(order), whole[order])
    ranks = [pick(part) for part in torch.arange(60).tensor_split(7)]
    assert torch.equal(torch.cat(ranks), whole)
    assert all(len(set(row)) == 5 and -1 not in row for row in whole.tolist())
    if not isinstance(draw, TopK):
        for other in ((4, 1, 17), (3, 2, 17), (3, 1, 18)):
            assert not torch.equal(pick(torch.arange(60), other), whole)


def test_the_share_of_random_items_is_right_on_average() -> None:
    candidates = alike(5000, [0.9, 0.8, 0.7], positive=1, first=10)
    context = DrawContext(*NOW, torch.arange(3, 10), relations_of(torch.arange(5010)))
    picked = WithRandom(TopK(), share=0.3).pick(candidates, 2, context)
    at_random = (picked >= 3).sum(1)
    assert at_random.unique().tolist() == [0, 1]
    assert float(at_random.double().mean()) == pytest.approx(0.6, abs=0.03)
    # What is not random comes first and is what the other draw would have picked first.
    assert picked[:, 0].unique().tolist() == [0]
    assert picked[at_random == 0][:, 1].unique().tolist() == [1]


def test_random_items_obey_the_relations_and_are_uniform_otherwise() -> None:
    # Items 0-9 are of class 0, 10-29 of class 1; 29 has the same text as the anchors.
    labels = torch.tensor([0] * 10 + [1] * 20 + [0] * 6000)
    fingerprints = torch.arange(6030)
    fingerprints[29] = fingerprints[30:] = -7
    context = DrawContext(*NOW, torch.arange(30), relations_of(labels, fingerprints))
    anchors = torch.arange(30, 6030)
    taken = torch.full((6000, 1), 12)
    picked = context.random_negatives(anchors, torch.full((6000,), 3), taken)
    assert all(len(set(row)) == 3 for row in picked.tolist())
    allowed = sorted({*range(10, 29)} - {12})
    assert picked.unique().tolist() == allowed
    assert stats.chisquare(torch.bincount(picked[:, 0])[allowed]).pvalue > 0.001


def test_random_items_are_found_even_where_nearly_all_are_forbidden() -> None:
    labels = torch.zeros(3000, dtype=torch.int64)
    labels[[1234, 77, 2999]] = torch.tensor([1, 2, 3])
    context = DrawContext(*NOW, torch.arange(3000), relations_of(labels))
    picked = context.random_negatives(torch.tensor([0, 1]), torch.tensor([5, 2]), torch.full((2, 0), -1))
    assert sorted(picked[0].tolist()) == [-1, -1, 77, 1234, 2999]
    assert set(picked[1, :2].tolist()) < {77, 1234, 2999}
    assert picked[1, 2:].tolist() == [-1, -1, -1]


def test_random_items_fill_in_only_if_asked_to() -> None:
    candidates = candidates_of([[0.9, NONE, NONE, NONE]], [1.0], [1.0], [1.0])
    context = context_of(50)
    assert WithRandom(share=0.0).pick(candidates, 3, context).tolist() == [[100, -1, -1]]
    filled = WithRandom(share=0.0, fill=True).pick(candidates, 3, context)[0].tolist()
    assert filled[0] == 100
    assert len({*filled} - {100, 0, -1}) == 2


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="a=-1"):
        SimANS(a=-1)
    with pytest.raises(ValueError, match="share=2"):
        WithRandom(share=2)
    with pytest.raises(ValueError, match="start=-1 must be at least 0"):
        UniformWindow(-1, 5)


def test_a_draw_without_arguments_can_be_described_for_the_table() -> None:
    assert Miner(draw=TopK()).spec()["init_args"]["draw"] == {
        "class_path": "lit_metric.mining.TopK",
        "init_args": {},
    }
