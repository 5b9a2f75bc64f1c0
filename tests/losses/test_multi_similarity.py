from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss as PeerLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor

from lit_metric.losses import DensePairs, MultiSimilarityLoss
from tests.losses.cases import cosines, labelled_batch, random_batch, random_weights, rows_of

ALPHA, BETA, BASE, EPSILON = 2.0, 10.0, 0.4, 0.1


def naive(scores: Tensor, pairs: DensePairs, weight: Tensor, epsilon: float | None) -> tuple[Tensor, int]:
    """The paper's algorithm 1 anchor by anchor, and how many pairs the mining step keeps."""
    total, anchors, kept = scores.new_zeros(()), 0, 0
    for row, positives, negatives in rows_of(pairs):
        if not positives or not negatives:
            continue
        anchors += 1
        s = scores[row]
        mined_p, mined_n = positives, negatives
        if epsilon is not None:
            mined_n = [n for n in negatives if s[n] > min(s[p] for p in positives) - epsilon]
            mined_p = [p for p in positives if s[p] < max(s[n] for n in negatives) + epsilon]
        kept += len(mined_p) + len(mined_n)
        of_p = sum(weight[row, p] * torch.exp(-ALPHA * (s[p] - BASE)) for p in mined_p)
        of_n = sum(weight[row, n] * torch.exp(BETA * (s[n] - BASE)) for n in mined_n)
        total = total + torch.log(1 + torch.as_tensor(of_p)) / ALPHA
        total = total + torch.log(1 + torch.as_tensor(of_n)) / BETA
    return total / anchors, kept


@pytest.mark.parametrize("epsilon", [None, 0.0, EPSILON])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(weighted: bool, epsilon: float | None) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = random_weights(pairs) + 0.1 if weighted else torch.ones(7, 12, dtype=torch.float64)
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    output = MultiSimilarityLoss(ALPHA, BETA, BASE, epsilon).on_pairs(anchors, candidates, given)
    expected, kept = naive(cosines(anchors, candidates), pairs, weight, epsilon)
    torch.testing.assert_close(output["loss"], expected)
    of_used = sum(len(p) + len(n) for _, p, n in rows_of(pairs) if p and n)
    assert output["mined"].item() == pytest.approx(kept / of_used)
    assert (kept == of_used) == (epsilon is None)


@pytest.mark.parametrize("epsilon", [None, EPSILON])
def test_pytorch_metric_learning(epsilon: float | None) -> None:
    # Each item has a positive and a negative: to one without, the peer gives its other half.
    embeddings, labels, pairs = labelled_batch([0, 0, 0, 1, 1, 2, 2, 2, 2])
    mined = MultiSimilarityMiner(epsilon)(embeddings, labels) if epsilon else None
    theirs = PeerLoss(ALPHA, BETA, BASE)(embeddings, labels, mined)
    ours = MultiSimilarityLoss(ALPHA, BETA, BASE, epsilon).on_pairs(embeddings, embeddings, pairs)["loss"]
    torch.testing.assert_close(ours, theirs)


def test_an_anchor_without_a_positive_teaches_nothing_unlike_in_the_peer() -> None:
    embeddings, labels, pairs = labelled_batch([0, 0, 1, 1, 2])
    ours = MultiSimilarityLoss(epsilon=None).on_pairs(embeddings, embeddings, pairs)["loss"]
    without = DensePairs(pairs.positive[:4], pairs.negative[:4])
    rest = MultiSimilarityLoss(epsilon=None).on_pairs(embeddings[:4], embeddings, without)["loss"]
    torch.testing.assert_close(ours, rest)
    assert not torch.isclose(PeerLoss()(embeddings, labels), ours)


def test_weights_of_pairs_are_those_of_the_paper() -> None:
    # The source's weights: each pair's derivative, from the similarities alone.
    anchor = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    s = torch.tensor([0.7, 0.3, 0.6, 0.2], dtype=torch.float64)
    candidates = torch.zeros(4, 4, dtype=torch.float64)
    candidates[:, 0] = s
    same = torch.tensor([[True, True, False, False]])
    loss = MultiSimilarityLoss(ALPHA, BETA, BASE, epsilon=None, distance="dot")
    loss.on_pairs(anchor, candidates.requires_grad_(), DensePairs(same, ~same))["loss"].backward()
    e = math.exp
    for place, (others, sign) in enumerate([((0, 1), -ALPHA)] * 2 + [((2, 3), BETA)] * 2):
        own = float(s[place])
        below = e(-sign * (own - BASE)) + sum(e(sign * (float(s[other]) - own)) for other in others)
        expected = math.copysign(1, sign) / below
        assert candidates.grad[place, 0].item() == pytest.approx(expected, rel=1e-12)


def test_settled_pairs_leave_no_gradient_and_the_anchor_still_counts() -> None:
    anchors = torch.eye(2, dtype=torch.float64).requires_grad_()
    candidates = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    positive = torch.tensor([[True, False, False], [False, False, True]])
    negative = torch.tensor([[False, True, False], [True, True, False]])
    pairs = DensePairs(positive, negative)
    output = MultiSimilarityLoss(ALPHA, BETA, BASE, epsilon=0.1).on_pairs(anchors, candidates, pairs)
    assert output["loss"] == 0  # 1 and 0.8 against −1, and against 0 and 0
    assert output["anchors_used"] == 1
    assert output["mined"] == 0
    output["loss"].backward()
    assert not anchors.grad.any()
    # A wider margin finds the second anchor's pairs with the first candidate; the mean is over both anchors.
    wider = MultiSimilarityLoss(ALPHA, BETA, BASE, epsilon=0.9).on_pairs(anchors, candidates, pairs)
    expected = math.log1p(math.exp(-ALPHA * 0.4)) / ALPHA + math.log1p(2 * math.exp(-BETA * 0.4)) / BETA
    assert wider["loss"].item() == pytest.approx(expected / 2, rel=1e-12)
    assert wider["mined"].item() == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    "arguments", [{"alpha": 0.0}, {"beta": -1.0}, {"beta": math.inf}, {"alpha": math.nan}]
)
def test_settings_that_make_no_sense(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="alpha and beta must be above 0 and finite"):
        MultiSimilarityLoss(**arguments)
