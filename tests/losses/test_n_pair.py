"""The N-pair loss, and the (N+1)-tuplet loss beneath it."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import NPairsLoss
from torch import Tensor

from lit_metric.losses import DensePairs, NPairLoss, TupletLoss
from tests.losses.cases import cosines, random_batch, random_weights, rows_of

N = 5


def one_pair_per_class() -> tuple[Tensor, Tensor, DensePairs]:
    generator = torch.Generator().manual_seed(0)
    anchors, positives = (torch.randn(N, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    same = torch.eye(N, dtype=torch.bool)
    return anchors, positives, DensePairs(same, ~same)


def test_the_papers_formula_on_one_pair_per_class() -> None:
    z, z_pos, pairs = one_pair_per_class()
    terms = [
        torch.log(1 + sum(torch.exp(z[i] @ z_pos[j] - z[i] @ z_pos[i]) for j in range(N) if j != i))
        for i in range(N)
    ]
    norms = [z[i] @ z[i] + z_pos[i] @ z_pos[i] for i in range(N)]
    output = NPairLoss(l2=0.03).on_pairs(z, z_pos, pairs)
    torch.testing.assert_close(output["n_pair"], sum(terms) / N)
    torch.testing.assert_close(output["squared_norm"], sum(norms) / N)
    torch.testing.assert_close(output["l2"], 0.03 * sum(norms) / N)
    torch.testing.assert_close(output["loss"], (sum(terms) + 0.03 * sum(norms)) / N)


def test_pytorch_metric_learning_on_two_items_per_class() -> None:
    # With more than two items per class it differs: it keeps one positive pair per class only, and
    # has no negatives besides the other classes' positives.
    z, z_pos, pairs = one_pair_per_class()
    labels = torch.arange(N).repeat(2)
    first, second = torch.arange(N), torch.arange(N, 2 * N)
    nothing = torch.empty(0, dtype=torch.int64)
    theirs = NPairsLoss()
    theirs.distance.normalize_embeddings = False
    expected = theirs(torch.cat([z, z_pos]), labels, (first, second, nothing, nothing))
    torch.testing.assert_close(NPairLoss(l2=0).on_pairs(z, z_pos, pairs)["loss"], expected)


def test_several_positives_and_ignored_pairs_against_naive_loops() -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    norms = [
        anchors[row].square().sum() + candidates[positives].square().sum(dim=1).mean()
        for row, positives, negatives in rows_of(pairs)
        if positives and negatives
    ]
    output = NPairLoss(l2=0.1).on_pairs(anchors, candidates, pairs)
    ones = torch.ones(pairs.positive.shape, dtype=torch.float64)
    torch.testing.assert_close(output["n_pair"], naive(anchors @ candidates.T, pairs, ones))
    torch.testing.assert_close(output["l2"], 0.1 * sum(norms) / len(norms))


def test_embeddings_are_never_normalised() -> None:
    # Longer vectors satisfy the same angles better, and cost more norm.
    z, _, pairs = one_pair_per_class()
    short, long = (NPairLoss(l2=0.1).on_pairs(scale * z, scale * z, pairs) for scale in (1.0, 2.0))
    assert long["n_pair"] < short["n_pair"]
    torch.testing.assert_close(long["l2"], 4 * short["l2"])


def test_the_regulariser_shrinks_embeddings() -> None:
    z, z_pos, pairs = one_pair_per_class()
    z.requires_grad_()
    plain, regularised = (
        torch.autograd.grad(NPairLoss(l2=l2).on_pairs(z, z_pos, pairs)["loss"], z)[0] for l2 in (0.0, 0.1)
    )
    torch.testing.assert_close(regularised - plain, 2 * 0.1 * z.detach() / N)


def test_the_default_coefficient_is_a_quarter_of_tensorflow_s() -> None:
    """TensorFlow multiplies its 0.002 by 0.25. Here both norms are 1, so their squares add up to 2."""
    output = NPairLoss()(torch.eye(2), torch.eye(2)), NPairLoss(l2=0)(torch.eye(2), torch.eye(2))
    assert (output[0] - output[1]).item() == pytest.approx(0.002 * 0.25 * 2, abs=1e-6)


@pytest.mark.parametrize("l2", [-0.1, float("inf"), float("nan")])
def test_settings_that_make_no_sense(l2: float) -> None:
    with pytest.raises(ValueError, match="l2 must be at least 0, not"):
        NPairLoss(l2)


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
def test_tuplets_against_a_naive_loop(distance: str, weighted: bool) -> None:
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
