from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_metric.losses import DensePairs, PairLogisticLoss, TripletLoss
from tests.losses.cases import cosines, random_batch, random_weights, rows_of


def rank_of(scores: Tensor, row: int, column: int, listed: list[int]) -> int:
    return 1 + sum(bool(scores[row, other] > scores[row, column]) for other in listed)


def naive(
    logits: Tensor, pairs: DensePairs, weight: Tensor, by_rank: bool, fixed: Tensor | None = None
) -> Tensor:
    """Pair by pair; the ranks are those of the scores ``fixed``."""
    fixed = logits if fixed is None else fixed
    total, anchors, number = logits.new_zeros(()), 0, 0
    for row, positives, negatives in rows_of(pairs):
        anchors += bool(positives) and bool(negatives)
        for p in positives:
            for n in negatives:
                term = (
                    weight[row, p] * weight[row, n] * torch.log1p(torch.exp(logits[row, n] - logits[row, p]))
                )
                if by_rank:
                    listed = [c for c in positives + negatives if weight[row, c] > 0]
                    of_p, of_n = (rank_of(fixed, row, c, listed) for c in (p, n))
                    term = term * abs(1 / of_p - 1 / of_n)
                total, number = total + term, number + 1
    return total / (anchors if by_rank else number)


@pytest.mark.parametrize("weighting", ["none", "reciprocal_rank"])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(weighted: bool, weighting: str) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = random_weights(pairs) + 0.1 if weighted else torch.ones(7, 12, dtype=torch.float64)
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    output = PairLogisticLoss(weighting, temperature=0.3).on_pairs(anchors, candidates, given)
    expected = naive(cosines(anchors, candidates) / 0.3, pairs, weight, weighting != "none")
    torch.testing.assert_close(output["loss"], expected)


@pytest.mark.parametrize("cut", [None, 1, 2, 4, 50])
def test_as_adore_means_over_the_pairs_of_an_anchor_up_to_a_rank(cut: int | None) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    logits, total, count = cosines(anchors, candidates) / 0.3, 0.0, 0
    for row, positives, negatives in rows_of(pairs):
        listed = positives + negatives
        ranks = {c: rank_of(logits, row, c, listed) for c in listed}
        near = [n for n in negatives if cut is None or ranks[n] <= cut]
        inverse = {c: 1 / ranks[c] if cut is None or ranks[c] <= cut else 0.0 for c in listed}
        terms = [
            abs(inverse[p] - inverse[n]) * math.log1p(math.exp(logits[row, n] - logits[row, p]))
            for p in positives
            for n in near
        ]
        total += sum(terms) / max(len(terms), 1)
        count += bool(positives) and bool(negatives)
    loss = PairLogisticLoss("reciprocal_rank", temperature=0.3, average="pairs", cut=cut)
    assert loss.on_pairs(anchors, candidates, pairs)["loss"].item() == pytest.approx(total / count, rel=1e-9)


def test_a_cut_holds_the_rank_itself_in_single_precision() -> None:
    """1 / 41 · 41 is less than 1 there. The positive is first, and the others follow by rank."""
    candidates = -0.01 * torch.arange(120.0)[:, None]
    same = torch.arange(120)[None] == 0
    for cut in range(2, 120):
        loss = PairLogisticLoss("reciprocal_rank", temperature=1.0, distance="dot", cut=cut)
        found = loss.on_pairs(torch.ones(1, 1), candidates, DensePairs(same, ~same))["loss"]
        terms = [(1 - 1 / rank) * math.log1p(math.exp(-0.01 * (rank - 1))) for rank in range(2, cut + 1)]
        assert found.item() == pytest.approx(sum(terms), rel=1e-5)


def test_a_large_cut_holds_no_rank_beyond_it() -> None:
    same = torch.arange(20_010)[None] == 0
    loss = PairLogisticLoss("reciprocal_rank", temperature=1.0, distance="dot", cut=20_000)
    batch = torch.ones(1, 1).double(), torch.zeros(20_010, 1).double(), DensePairs(same, ~same)
    expected = sum((1 - 1 / rank) * math.log(2) for rank in range(2, 20_001))
    assert loss.on_pairs(*batch)["loss"].item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_the_naive_loop_with_ranks_held() -> None:
    anchors, candidates, pairs = random_batch()
    ones = torch.ones(pairs.positive.shape, dtype=torch.float64)
    fixed = cosines(anchors, candidates)
    inputs = anchors.requires_grad_(), candidates.requires_grad_()
    held = naive(cosines(*inputs) / 0.3, pairs, ones, True, fixed)
    loss = PairLogisticLoss("reciprocal_rank", temperature=0.3).on_pairs(*inputs, pairs)["loss"]
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), torch.autograd.grad(held, inputs))


@pytest.mark.parametrize("distance", ["cosine", "dot", "squared_euclidean"])
def test_without_weights_it_is_the_soft_triplet_loss(distance: str) -> None:
    batch = random_batch(anchors=7, candidates=12)
    ours = PairLogisticLoss(temperature=1.0, distance=distance).on_pairs(*batch)
    triplets = TripletLoss("soft", distance=distance).on_pairs(*batch)
    torch.testing.assert_close(ours["loss"], triplets["loss"])
    assert ours["active"] == triplets["active"]


def test_the_weight_is_what_the_exchange_changes_in_the_reciprocal_rank_hand_computed() -> None:
    # From the top: a negative at 3, the positive at 2, a negative at 1.
    candidates = torch.tensor([[2.0], [3.0], [1.0]], dtype=torch.float64)
    same = torch.tensor([[True, False, False]])
    batch = torch.ones(1, 1, dtype=torch.float64), candidates, DensePairs(same, ~same)
    loss = PairLogisticLoss("reciprocal_rank", temperature=1.0, distance="dot").on_pairs(*batch)["loss"]
    expected = (1 - 1 / 2) * math.log1p(math.e) + (1 / 2 - 1 / 3) * math.log1p(math.exp(-1))
    assert loss.item() == pytest.approx(expected, abs=1e-14)


def test_ranks_are_those_among_an_anchor_s_own_pairs() -> None:
    # An ignored candidate above all others takes no place.
    batch = random_batch()
    loss = PairLogisticLoss("reciprocal_rank")
    before = loss.on_pairs(*batch)["loss"]
    anchors, candidates, pairs = batch
    ignored = torch.zeros(len(anchors), 1, dtype=torch.bool)
    wider = DensePairs(torch.cat([pairs.positive, ignored], 1), torch.cat([pairs.negative, ignored], 1))
    torch.testing.assert_close(
        loss.on_pairs(anchors, torch.cat([candidates, anchors[3:4]]), wider)["loss"], before
    )


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="'ndcg' is none of none, reciprocal_rank"):
        PairLogisticLoss("ndcg")
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, not 0"):
        PairLogisticLoss(temperature=0)


def test_averages_and_cuts_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="'mean' is none of anchors, pairs"):
        PairLogisticLoss("reciprocal_rank", average="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="go with weighting: reciprocal_rank"):
        PairLogisticLoss(average="pairs")
    with pytest.raises(ValueError, match="cut must be at least 1, the first rank, not 0"):
        PairLogisticLoss("reciprocal_rank", cut=0)
