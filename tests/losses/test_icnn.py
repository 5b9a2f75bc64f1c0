"""The ICNN loss against a loop over neighbours, and what it can't see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_metric.losses import DensePairs, ICNNLoss
from tests.losses.cases import random_batch, random_weights, rows_of


def naive(anchors: Tensor, candidates: Tensor, pairs: DensePairs, k: int) -> tuple[float, float]:
    """The loss, and γ."""
    near, away, shares, largest = [], [], [], 0.0
    for row, positives, negatives in rows_of(pairs):
        if not positives or not negatives:
            continue
        distances = {
            other: math.dist(anchors[row].tolist(), candidates[other].tolist())
            for other in [*positives, *negatives]
        }
        order = sorted(distances, key=lambda other: distances[other])[:k]
        nearest = min(distances[other] for other in negatives)
        relative = {other: distances[other] / nearest for other in order}
        scale = max(1.0, *relative.values())
        same = [relative[other] / scale for other in order if other in positives]
        others = [distances[other] for other in order if other in negatives]
        if same:
            near.append(sum(same) / len(same))
        if others:
            away.append(sum(others) / len(others))
            largest = max(largest, *others)
        shares.append(len(same) / len(order))
    close = 1 - (sum(near) / len(near) if near else 0)
    far = sum(away) / len(away) / largest if away else 1
    gamma = sum(shares) / len(shares)
    return -math.log(((close + far) / 2 + gamma) / 2), gamma


@pytest.mark.parametrize("k", [1, 2, 4, 50])
@pytest.mark.parametrize("normalize", [False, True])
def test_value_is_that_of_a_loop(k: int, normalize: bool) -> None:
    anchors, candidates, pairs = random_batch(anchors=9, candidates=14)
    found = ICNNLoss(k, normalize).on_pairs(anchors, candidates, pairs)["icnn"].item()
    if normalize:
        anchors, candidates = (torch.nn.functional.normalize(each, dim=1) for each in (anchors, candidates))
    assert found == pytest.approx(naive(anchors, candidates, pairs, k)[0], rel=1e-9)


def test_pairs_of_weight_zero_are_none() -> None:
    anchors, candidates, pairs = random_batch(anchors=9, candidates=14)
    weights = random_weights(pairs)
    fewer = DensePairs(pairs.positive & (weights > 0), pairs.negative & (weights > 0))
    found = ICNNLoss().on_pairs(anchors, candidates, DensePairs(pairs.positive, pairs.negative, weights))
    assert found["loss"].item() == pytest.approx(naive(anchors, candidates, fewer, 4)[0], rel=1e-9)


def test_perfect_neighbours_have_a_loss_near_zero_and_mixed_ones_have_not() -> None:
    labels = torch.arange(4).repeat_interleave(6)
    centres = 100 * torch.eye(4)
    points = centres[labels] + 0.01 * torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    assert ICNNLoss()(points, labels=labels).item() < 1e-3
    assert ICNNLoss()(points, labels=labels.roll(3)).item() > 0.1


@pytest.mark.parametrize("block_rows", [1, 3, 1024])
def test_gradients_and_row_blocks(block_rows: int) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    inputs = anchors.requires_grad_(), candidates.requires_grad_()
    whole = torch.autograd.grad(ICNNLoss().on_pairs(*inputs, pairs)["loss"], inputs)
    loss = ICNNLoss(block_rows=block_rows)
    found = torch.autograd.grad(loss.on_pairs(*inputs, pairs)["loss"], inputs)
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-13)
    # The share of positives doesn't change in a small step, so finite differences see no gradient of it.
    assert torch.autograd.gradcheck(lambda *each: loss.on_pairs(*each, pairs)["loss"], inputs)


def test_a_positive_beyond_the_neighbours_has_no_gradient() -> None:
    """Two items of a class lie apart, among four of another: nothing pulls them together."""
    points = torch.tensor([[0.0], [100.0], [1.0], [2.0], [3.0], [4.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    masks = labels[:1, None] == labels
    masks[0, 0] = False
    pairs = DensePairs(masks, labels[:1, None] != labels)
    loss = ICNNLoss(4).on_pairs(points[:1], points, pairs)["loss"]
    [gradient] = torch.autograd.grad(loss, points)
    assert gradient[1].item() == 0
    assert gradient[2:].abs().max() > 0


def test_nothing_to_learn_from_and_bad_arguments() -> None:
    anchors, candidates, pairs = random_batch()
    nothing = torch.zeros_like(pairs.positive)
    for masks in (DensePairs(nothing, nothing), DensePairs(~nothing, nothing), DensePairs(nothing, ~nothing)):
        inputs = anchors.requires_grad_(), candidates.requires_grad_()
        loss = ICNNLoss().on_pairs(*inputs, masks)["loss"]
        assert loss.item() == 0
        assert not any(each.any() for each in torch.autograd.grad(loss, inputs))
    same = torch.ones(6, 3, requires_grad=True)
    loss = ICNNLoss()(same, labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, same)[0].isfinite().all()
    with pytest.raises(ValueError, match="neighbours must be at least 1, not 0"):
        ICNNLoss(0)
