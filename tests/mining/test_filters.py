"""Filters against hand-computed ceilings and naive loops."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from lit_metric.data import LabelRelations
from lit_metric.mining import (
    AbsoluteMargin,
    Candidates,
    FloorFilter,
    MaxScore,
    NegativeFilter,
    PositiveScores,
    RankRange,
    RelativeMargin,
)
from lit_metric.mining.filters import RelationFilter, allowed
from tests.mining.cases import candidates_of, relations_of

NAN, NONE = math.nan, -math.inf


def kept(rule: NegativeFilter, candidates: Candidates) -> list[list[int]]:
    """Ids that are left in each row."""
    left = candidates.without(candidates.present & ~rule.keep(candidates))
    return [[one for one in row if one >= 0] for row in left.ids.tolist()]


def test_absolute_maximum_keeps_what_is_strictly_below() -> None:
    candidates = candidates_of([[0.9, 0.75, 0.5, NONE]], [1.0], [1.0], [1.0])
    assert kept(MaxScore(0.75), candidates) == [[102]]


def test_margin_lies_below_the_chosen_positive() -> None:
    # Ceilings 0.8 - 0.25 = 0.55, 0.5 - 0.25 = 0.25 and 0.625 - 0.25 = 0.375.
    candidates = candidates_of([[0.6, 0.5, 0.375, 0.3, 0.2]], best=[0.8], worst=[0.5], mean=[0.625])
    assert kept(AbsoluteMargin(0.25, "best"), candidates) == [[101, 102, 103, 104]]
    assert kept(AbsoluteMargin(0.25, "worst"), candidates) == [[104]]
    assert kept(AbsoluteMargin(0.25, "mean"), candidates) == [[103, 104]]


def test_floor_keeps_what_violates_the_margin() -> None:
    # Floors 0.8 - 0.25 = 0.55, 0.5 - 0.25 = 0.25 and 0.625 - 0.25 = 0.375; the floor itself has no loss.
    candidates = candidates_of([[0.9, 0.6, 0.5, 0.375, 0.3, 0.2]], best=[0.8], worst=[0.5], mean=[0.625])
    assert kept(FloorFilter(0.25, "best"), candidates) == [[100, 101]]
    assert kept(FloorFilter(0.25, "mean"), candidates) == [[100, 101, 102]]
    assert kept(FloorFilter(0.25, "worst"), candidates) == [[100, 101, 102, 103, 104]]
    band = candidates.without(~AbsoluteMargin(0.0, "best").keep(candidates))
    assert kept(FloorFilter(0.25, "best"), band) == [[101]]  # nearer than the positive is out, too


def test_floor_drops_nothing_of_an_anchor_without_positives_and_no_empty_place_matters() -> None:
    candidates = candidates_of([[0.5, NONE, NONE]], best=[NAN], worst=[NAN], mean=[NAN])
    assert kept(FloorFilter(0.1), candidates) == [[100]]
    with pytest.raises(ValueError, match="positive_score"):
        FloorFilter(positive_score="median")


def test_percentage_of_the_chosen_positive() -> None:
    # Ceilings 0.5 * 0.8 = 0.4, 0.5 * 0.4 = 0.2 and 0.5 * 0.6 = 0.3.
    candidates = candidates_of([[0.5, 0.35, 0.25, 0.1]], best=[0.8], worst=[0.4], mean=[0.6])
    assert kept(RelativeMargin(0.5, "best"), candidates) == [[101, 102, 103]]
    assert kept(RelativeMargin(0.5, "worst"), candidates) == [[103]]
    assert kept(RelativeMargin(0.5, "mean"), candidates) == [[102, 103]]


def test_percentage_of_a_score_that_is_not_positive_never_lets_a_nearer_candidate_pass() -> None:
    # 0.95 * -0.2 = -0.19 would keep the candidate at -0.195, which is nearer than the positive at -0.2.
    scores = [[0.1, -0.195, -0.2, -0.21], [0.1, 0.0, -0.01, NONE]]
    candidates = candidates_of(scores, best=[-0.2, 0.0], worst=[-0.2, 0.0], mean=[-0.2, 0.0])
    assert kept(RelativeMargin(0.05), candidates) == [[103], [102]]


def test_percentage_ceiling_is_continuous_and_rises_with_the_positive() -> None:
    positives = torch.linspace(-0.5, 0.5, 101)
    ladder = torch.linspace(-0.6, 0.6, 1201).flip(0).expand(101, -1)
    candidates = Candidates(
        torch.arange(101),
        torch.arange(1201).expand(101, -1),
        ladder,
        PositiveScores(positives, positives, positives),
    )
    ceiling = ladder.masked_fill(~RelativeMargin(0.1).keep(candidates), NONE).amax(1)
    assert (ceiling < positives + 1e-6).all()
    steps = ceiling.diff()
    assert (steps > -1e-6).all()
    assert steps.max() < 0.0125  # 0.01 between positives and 0.001 between candidates: no jump


@pytest.mark.parametrize("rule", [AbsoluteMargin(0.05), RelativeMargin(0.05)])
def test_an_anchor_without_positives_keeps_all(rule: NegativeFilter) -> None:
    candidates = candidates_of([[0.9, 0.1], [0.9, 0.1]], [NAN, 0.5], [NAN, 0.5], [NAN, 0.5])
    assert kept(rule, candidates) == [[100, 101], [101]]


def test_rank_counts_only_what_earlier_filters_kept() -> None:
    candidates = candidates_of([[0.9, 0.8, 0.7, 0.6, NONE]], [1.0], [1.0], [1.0])
    assert kept(RankRange(1, 3), candidates) == [[101, 102]]
    assert kept(RankRange(2), candidates) == [[102, 103]]
    thinned = candidates.without(torch.tensor([[False, True, False, False, False]]))
    assert kept(RankRange(1, 3), thinned) == [[102, 103]]


@pytest.mark.parametrize("reference", ["best", "worst", "mean"])
def test_score_filters_agree_with_a_loop_over_ragged_positives(reference: str) -> None:
    # Row i must be judged by its own positives only; the peers' offset ran one query behind.
    lots = random.Random(0)
    positives = [[lots.uniform(-1, 1) for _ in range(count)] for count in (1, 3, 0, 2, 5, 1)]
    scores = [sorted((lots.uniform(-1, 1) for _ in range(40)), reverse=True) for _ in positives]
    best, worst = [max(row, default=NAN) for row in positives], [min(row, default=NAN) for row in positives]
    mean = [sum(row) / len(row) if row else NAN for row in positives]
    candidates = candidates_of(scores, best, worst, mean)
    chosen = {"best": best, "worst": worst, "mean": mean}[reference]

    def loop(ceiling_of) -> list[list[int]]:  # type: ignore[no-untyped-def]
        return [
            [100 + place for place, score in enumerate(row) if math.isnan(one) or score < ceiling_of(one)]
            for row, one in zip(scores, chosen, strict=True)
        ]

    margin = AbsoluteMargin(0.1, reference)  # type: ignore[arg-type]
    assert kept(margin, candidates) == loop(lambda one: one - 0.1)
    percentage = RelativeMargin(0.3, reference)  # type: ignore[arg-type]
    assert kept(percentage, candidates) == loop(lambda one: min(0.7 * one, one))


def test_relations_drop_the_anchor_its_positives_and_equal_texts() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, -1])
    fingerprints = torch.tensor([10, 11, 12, 10, 13, 14])  # items 0 and 3 are the same text under two labels
    ids = torch.tensor([[0, 1, 2, 3, 4, 5, -1], [3, 2, 1, 0, 4, 5, -1]])
    nothing = torch.zeros(2)
    candidates = Candidates(
        torch.tensor([0, 3]), ids, torch.zeros(ids.shape), PositiveScores(nothing, nothing, nothing)
    )
    assert kept(RelationFilter(relations_of(labels, fingerprints)), candidates) == [[2, 4], [1, 4]]


def test_the_anchor_is_dropped_even_if_the_relations_do_not_say_so() -> None:
    class Careless(LabelRelations):
        def excluded_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
            return torch.zeros_like(anchors, dtype=torch.bool)

    relations = Careless(torch.tensor([0, 1]), ["a", "b"], torch.arange(2))
    assert allowed(relations, torch.tensor([0, 1]), torch.tensor([[0, 1, -1]] * 2)).tolist() == [
        [False, True, False],
        [True, False, False],
    ]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"margin=-0\.5 must be at least 0 and below 1"):
        RelativeMargin(-0.5)
    with pytest.raises(ValueError, match="'median'; use one of 'best', 'worst', 'mean'"):
        AbsoluteMargin(positive_score="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="range_max=3 above it"):
        RankRange(3, 3)
