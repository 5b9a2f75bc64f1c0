from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import GeneralizedLiftedStructureLoss
from torch import Tensor

from lit_metric.losses import DensePairs, LiftedStructureLoss, TripletLoss
from tests.losses.cases import labelled_batch, random_batch, random_weights, rows_of


def naive(distances: Tensor, pairs: DensePairs, weight: Tensor, margin: float, tau: float) -> Tensor:
    of_anchors = []
    for row, positives, negatives in rows_of(pairs):
        if positives and negatives:
            of_p = sum(weight[row, p] * torch.exp(distances[row, p] / tau) for p in positives)
            of_n = sum(weight[row, n] * torch.exp((margin - distances[row, n]) / tau) for n in negatives)
            of_anchors.append((tau * torch.log(of_p) + tau * torch.log(of_n)).clamp_min(0))
    return sum(of_anchors) / len(of_anchors)


@pytest.mark.parametrize("tau", [1.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(weighted: bool, tau: float) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = random_weights(pairs) + 0.1 if weighted else torch.ones(7, 12, dtype=torch.float64)
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    distances = (anchors[:, None] - candidates).norm(dim=-1)
    output = LiftedStructureLoss(1.5, tau).on_pairs(anchors, candidates, given)
    torch.testing.assert_close(output["loss"], naive(distances, pairs, weight, 1.5, tau))


def test_pytorch_metric_learning() -> None:
    embeddings, labels, pairs = labelled_batch([0, 0, 0, 1, 1, 2, 2, 2, 2])
    ours = LiftedStructureLoss(1.0, normalize=True).on_pairs(embeddings, embeddings, pairs)["loss"]
    torch.testing.assert_close(ours, GeneralizedLiftedStructureLoss(neg_margin=1)(embeddings, labels))


def test_an_anchor_without_a_positive_does_not_count_unlike_in_the_peer() -> None:
    # There it counts as [0 + log Σ_n e^(m − d)]₊: negatives are pushed away from nothing.
    embeddings, labels, pairs = labelled_batch([0, 0, 1, 1, 2])
    ours = LiftedStructureLoss(normalize=True).on_pairs(embeddings, embeddings, pairs)["loss"]
    without = DensePairs(pairs.positive[:4], pairs.negative[:4])
    rest = LiftedStructureLoss(normalize=True).on_pairs(embeddings[:4], embeddings, without)["loss"]
    torch.testing.assert_close(ours, rest)
    assert not torch.isclose(GeneralizedLiftedStructureLoss()(embeddings, labels), ours)


def test_towards_temperature_0_it_is_batch_hard() -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    hard = TripletLoss(0.5, mining="hard", distance="euclidean").on_pairs(anchors, candidates, pairs)
    lifted = LiftedStructureLoss(0.5, temperature=1e-4).on_pairs(anchors, candidates, pairs)
    torch.testing.assert_close(lifted["loss"], hard["loss"], rtol=1e-3, atol=0)
    assert lifted["active"] == hard["active"]


def test_hand_computed_and_no_gradient_once_the_margin_holds() -> None:
    anchors = torch.tensor([[0.0, 0.0], [20.0, 0.0]], dtype=torch.float64, requires_grad=True)
    candidates = torch.tensor([[1.0, 0.0], [0.0, 2.0], [20.0, 1.0]], dtype=torch.float64)
    positive = torch.tensor([[True, False, False], [False, False, True]])
    negative = torch.tensor([[False, True, False], [True, True, False]])
    output = LiftedStructureLoss(margin=3.0).on_pairs(anchors, candidates, DensePairs(positive, negative))
    # The first anchor: 1 + (3 − 2). The second: its negatives are 19 away.
    assert output["loss"].item() == pytest.approx((1 + 1) / 2, abs=1e-15)
    assert output["active"] == 0.5
    output["loss"].backward()
    assert not anchors.grad[1].any()
    assert anchors.grad[0].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize(
    "arguments", [{"margin": 0.0}, {"margin": math.inf}, {"temperature": 0.0}, {"temperature": math.nan}]
)
def test_settings_that_make_no_sense(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="margin and temperature must be above 0 and finite"):
        LiftedStructureLoss(**arguments)
