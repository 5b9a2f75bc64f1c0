from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_metric.losses import DensePairs, TupletLoss
from tests.losses.cases import cosines, random_batch, random_weights, rows_of


def naive(scores: Tensor, pairs: DensePairs, weight: Tensor) -> Tensor:
    """The mean over anchors of the mean over positives of w_p log(1 + Σ_n w_n exp(s_n − s_p))."""
    of_anchors = []
    for row, positives, negatives in rows_of(pairs):
        if positives and negatives:
            terms = []
            for p in positives:
                total = sum(weight[row, n] * torch.exp(scores[row, n] - scores[row, p]) for n in negatives)
                terms.append(weight[row, p] * torch.log(1 + total))
            of_anchors.append(sum(terms) / len(terms))
    return sum(of_anchors) / len(of_anchors)


@pytest.mark.parametrize("distance", ["dot", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(distance: str, weighted: bool) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = (
        random_weights(pairs) + 0.1 if weighted else torch.ones(pairs.positive.shape, dtype=torch.float64)
    )
    scores = anchors @ candidates.T if distance == "dot" else cosines(anchors, candidates)
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    output = TupletLoss(distance).on_pairs(anchors, candidates, given)
    torch.testing.assert_close(output["loss"], naive(scores, pairs, weight))


def test_the_misprinted_denominator_is_not_used_hand_computed() -> None:
    # s⁺ = 1, negatives 0 and −1. A well-known write-up leaves z·z_i − z·z⁺ inside the denominator's sum,
    # −log e / (e + e^−1 + e^−2) = 0.1698460; the right value is log(1 + e^−1 + e^−2) = 0.4076060.
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    same = torch.tensor([[True, False, False]])
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss = TupletLoss().on_pairs(anchor, candidates, DensePairs(same, ~same))["loss"]
    assert loss.item() == pytest.approx(0.4076059644443803, abs=1e-15)


def test_one_negative_is_the_soft_triplet() -> None:
    anchor, candidates = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.5, -1.0]])
    same = torch.tensor([[True, False]])
    loss = TupletLoss().on_pairs(anchor, candidates, DensePairs(same, ~same))["loss"]
    assert loss.item() == pytest.approx(math.log1p(math.exp(0.0 - 2.5)))


def test_a_collapsed_batch_sits_at_the_logarithm_of_the_number_of_negatives_and_one() -> None:
    same = torch.tensor([[True, False, False, False]])
    loss = TupletLoss().on_pairs(torch.ones(1, 3), torch.ones(4, 3), DensePairs(same, ~same))["loss"]
    assert loss.item() == pytest.approx(math.log(4))


def test_logits_far_beyond_the_exponential_s_range() -> None:
    anchor = torch.tensor([[1e4, 0.0]], requires_grad=True)
    candidates = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    same = torch.tensor([[True, False]])
    loss = TupletLoss().on_pairs(anchor, candidates, DensePairs(same, ~same))["loss"]
    loss.backward()
    assert loss == 2e4
    assert anchor.grad.tolist() == [[2, 0]]
