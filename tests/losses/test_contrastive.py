from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss as PeerContrastiveLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn

from lit_metric.data import PairRelations
from lit_metric.losses import ContrastiveLoss, DensePairs, RelationPairs
from tests.losses.cases import cosines, labelled_batch, random_batch, random_weights, rows_of


def naive(distances: Tensor, pairs: DensePairs, margin: float, weight: Tensor) -> tuple[list, list]:
    positives, negatives = [], []
    for row, its_positives, its_negatives in rows_of(pairs):
        d, w = distances[row], weight[row]
        positives += [w[column] * d[column] ** 2 for column in its_positives]
        negatives += [w[column] * max(margin - d[column], torch.tensor(0)) ** 2 for column in its_negatives]
    return positives, negatives


def few_positives() -> tuple[Tensor, Tensor, DensePairs]:
    """As :func:`random_batch`, with all but a few pairs negatives, some ignored."""
    anchors, candidates, _ = random_batch(6, 80)
    kind = torch.rand(6, 80, generator=torch.Generator().manual_seed(2))
    return anchors, candidates, DensePairs(kind < 0.04, kind > 0.07)


@pytest.mark.parametrize("of", ["many positives", "few positives"])
@pytest.mark.parametrize("average", ["balanced", "pairs"])
@pytest.mark.parametrize("distance", ["euclidean", "unit euclidean", "cosine"])
def test_against_a_naive_loop(distance: str, average: str, of: str) -> None:
    anchors, candidates, pairs = random_batch() if of == "many positives" else few_positives()
    anchors.requires_grad_()
    weight = random_weights(pairs) + 0.1
    if distance == "cosine":
        loss = ContrastiveLoss(0.8, "cosine", average=average)
        distances = 1 - cosines(anchors, candidates)
    else:
        unit = distance == "unit euclidean"
        loss = ContrastiveLoss(1.7, normalize=unit, average=average)
        a, c = (nn.functional.normalize(x) if unit else x for x in (anchors, candidates))
        distances = (a[:, None] - c).norm(dim=-1)
    positives, negatives = naive(distances, pairs, loss.margin, weight)
    output = loss.on_pairs(anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight))
    both = len(positives) + len(negatives)
    counts = (both, both) if average == "pairs" else (len(positives), len(negatives))
    torch.testing.assert_close(output["positive"], sum(positives) / counts[0])
    torch.testing.assert_close(output["negative"], sum(negatives) / counts[1])
    torch.testing.assert_close(output["loss"], output["positive"] + output["negative"])
    assert output["active"].item() == pytest.approx(
        sum(term > 0 for term in negatives).item() / len(negatives)
    )
    value = sum(positives) / counts[0] + 2 * sum(negatives) / counts[1]  # parts get gradients of their own
    expected = torch.autograd.grad(value, anchors, retain_graph=True)[0]
    parts = loss.sum_blocks(anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight))
    mine = parts["positive"].total / counts[0] + 2 * parts["negative"].total / counts[1]
    torch.testing.assert_close(torch.autograd.grad(mine, anchors)[0], expected)
    plain = loss.on_pairs(anchors, candidates, pairs)["loss"]  # without weights
    positives, negatives = naive(distances, pairs, loss.margin, torch.ones_like(weight))
    both = len(positives) + len(negatives)
    counts = (both, both) if average == "pairs" else (len(positives), len(negatives))
    value = sum(positives) / counts[0] + sum(negatives) / counts[1]
    torch.testing.assert_close(plain, value)
    torch.testing.assert_close(torch.autograd.grad(plain, anchors)[0], torch.autograd.grad(value, anchors)[0])


def test_hand_computed() -> None:
    # d = 5 to the positive; 1 and 4 to the negatives, of which a margin of 3 moves only the first, by 2.
    anchor, candidates = torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0], [4.0, 0.0]])
    same = torch.tensor([[True, False, False]])
    output = ContrastiveLoss(margin=3.0, normalize=False).on_pairs(
        anchor, candidates, DensePairs(same, ~same)
    )
    parts = {name: value.item() for name, value in output.items()}
    expected = {"loss": 27, "positive": 25, "negative": 2, "active": 0.5, "anchors_used": 1}
    assert parts == pytest.approx(expected, rel=1e-6)


def test_positive_part_of_pytorch_metric_learning() -> None:
    # Its negative part is [m - d]₊, not squared; so only the positive part compares, with d² as distance.
    embeddings, labels, pairs = labelled_batch([0, 0, 0, 1, 1, 2, 3, 3])
    peer = PeerContrastiveLoss(neg_margin=-1, distance=LpDistance(power=2), reducer=MeanReducer())
    torch.testing.assert_close(
        ContrastiveLoss().on_pairs(embeddings, embeddings, pairs)["positive"], peer(embeddings, labels)
    )


def test_positives_alone_and_negatives_alone_teach() -> None:
    anchors, candidates, pairs = random_batch()
    nothing, loss = torch.zeros_like(pairs.positive), ContrastiveLoss(margin=2.0)
    only_positives = loss.on_pairs(anchors, candidates, DensePairs(pairs.positive, nothing))
    only_negatives = loss.on_pairs(anchors, candidates, DensePairs(nothing, pairs.negative))
    assert only_positives["loss"] == only_positives["positive"] > 0
    assert only_negatives["loss"] == only_negatives["negative"] > 0


def test_given_pairs_of_zero_and_one_and_no_others() -> None:
    """Where only given negatives are true, what else stands in the batch is neither pulled nor pushed."""
    relations = PairRelations(
        torch.tensor([0, 0, 1, 2]),
        torch.tensor([3, 4, 5, 4]),
        torch.tensor([1.0, 0.0, 0.0, 1.0]),
        torch.arange(7),
        unjudged="ignored",
    )
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    pairs = RelationPairs(relations, torch.arange(3), torch.arange(3, 7))
    output = ContrastiveLoss(2.0, "cosine", average="pairs").on_pairs(vectors[:3], vectors[3:], pairs)
    d = 1 - cosines(vectors[:3], vectors[3:])
    terms = [d[0, 0] ** 2, (2 - d[0, 1]) ** 2, (2 - d[1, 2]) ** 2, d[2, 1] ** 2]
    torch.testing.assert_close(output["loss"], torch.stack(terms).mean())
    output["loss"].backward()
    assert not vectors.grad[6].any()  # nobody judged it


def test_no_gradient_beyond_the_margin() -> None:
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    same = torch.eye(2, dtype=torch.bool)
    loss = ContrastiveLoss(margin=1.4).on_pairs(torch.eye(2), candidates, DensePairs(same, ~same))["loss"]
    loss.backward()
    assert loss == 0
    assert not candidates.grad.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, "margin must be above 0 and at most 2 .* not 0.0"),
        ({"margin": 2.1}, "margin must be above 0 and at most 2"),
        ({"margin": 2.1, "distance": "cosine", "normalize": False}, "margin must be above 0 and at most 2"),
        ({"margin": math.nan, "normalize": False}, "margin must be above 0, not nan"),
        ({"distance": "dot"}, "'dot' is none of euclidean, cosine"),
        ({"average": "mean"}, "'mean' is none of balanced, pairs"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss(**arguments)
