from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import AngularLoss as PeerLoss
from torch import Tensor

from lit_metric.losses import AngularLoss, DensePairs
from tests.losses.cases import labelled_batch, random_batch, random_weights, rows_of


def naive(anchors: Tensor, candidates: Tensor, pairs: DensePairs, weight: Tensor, angle: float) -> Tensor:
    square = math.tan(math.radians(angle)) ** 2
    total, number = anchors.new_zeros(()), 0
    for row, positives, negatives in rows_of(pairs):
        for p in positives if negatives else []:
            a, x = anchors[row], candidates[p]
            exponentials = sum(
                weight[row, n] * torch.exp(4 * square * (a + x) @ candidates[n] - 2 * (1 + square) * a @ x)
                for n in negatives
            )
            total = total + weight[row, p] * torch.log(1 + exponentials)
            number += 1
    return total / number


@pytest.mark.parametrize("distance", ["cosine", "dot"])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(weighted: bool, distance: str) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = random_weights(pairs) + 0.1 if weighted else torch.ones(7, 12, dtype=torch.float64)
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    loss = AngularLoss(36.0, distance).on_pairs(anchors, candidates, given)["loss"]
    if distance == "cosine":
        anchors, candidates = (torch.nn.functional.normalize(side) for side in (anchors, candidates))
    torch.testing.assert_close(loss, naive(anchors, candidates, pairs, weight, 36.0))


def test_pytorch_metric_learning() -> None:
    # It scales anchors and positives to unit length and forgets the negatives, so it gets unit vectors.
    embeddings, labels, pairs = labelled_batch([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    embeddings = torch.nn.functional.normalize(embeddings)
    ours = AngularLoss(40.0).on_pairs(embeddings, embeddings, pairs)["loss"]
    assert not torch.isclose(PeerLoss(40)(3 * embeddings, labels), ours, rtol=1e-2)
    # It keeps its angle in the default precision.
    torch.testing.assert_close(ours, PeerLoss(40)(embeddings, labels), rtol=1e-6, atol=0)


def test_the_exponent_is_the_angle_s_condition() -> None:
    # The source's bound on unit vectors, ‖a − p‖² − 4 tan²α ‖n − (a + p)/2‖², without what doesn't contain n.
    generator = torch.Generator().manual_seed(0)
    a, p, n = torch.nn.functional.normalize(torch.randn(3, 5, generator=generator, dtype=torch.float64))
    same = torch.tensor([[True, False]])
    square = math.tan(math.radians(30)) ** 2
    condition = (a - p).square().sum() - 4 * square * (n - (a + p) / 2).square().sum()
    constant = 2 - 6 * square  # of 2 − 2 a·p − 4 tan²α (1 + (1 + a·p)/2 − n·(a + p))
    loss = AngularLoss(30.0).on_pairs(a[None], torch.stack([p, n]), DensePairs(same, ~same))["loss"]
    torch.testing.assert_close(loss, torch.log1p(torch.exp(condition - constant)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"angle": 0.0}, "angle must be above 0 and below 90 degrees, not 0.0"),
        ({"angle": 90.0}, "angle must be above 0 and below 90 degrees, not 90.0"),
        ({"distance": "euclidean"}, "'euclidean' is none of cosine, dot"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AngularLoss(**arguments)
