"""Noise negatives against a loop; that ranks agree is tested with all combinations of losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_metric.losses import (
    CoSENTLoss,
    DensePairs,
    InfoNCELoss,
    NoiseNegatives,
    ProxyAnchorLoss,
    SymmetricLoss,
    shared_generator,
)
from tests.losses.cases import cosines, random_batch


def with_noise(anchors: Tensor, candidates: Tensor, pairs: DensePairs, noise: Tensor) -> Tensor:
    """InfoNCE at a temperature of 0.5, anchor by anchor."""
    scores, terms = cosines(anchors, candidates) / 0.5, []
    of_noise = (cosines(anchors, noise) / 0.5).exp().sum(1)
    for row in range(len(anchors)):
        positives, negatives = pairs.positive[row].nonzero()[:, 0], pairs.negative[row].nonzero()[:, 0]
        if len(positives):
            below = scores[row, negatives].exp().sum() + of_noise[row]
            each = [-(scores[row, p] - torch.log(scores[row, p].exp() + below)) for p in positives]
            terms.append(sum(each) / len(each))
    return sum(terms) / len(terms)  # type: ignore[return-value]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_against_a_loop_with_its_own_ascent(steps: int) -> None:
    anchors, candidates, pairs = random_batch()
    torch.manual_seed(5)
    noise = torch.randn(12, 4, generator=shared_generator()).double()  # two for each of six anchors
    for _ in range(steps):
        noise.requires_grad_()
        [gradient] = torch.autograd.grad(with_noise(anchors, candidates, pairs, noise), noise)
        noise = (noise + 0.3 * gradient / gradient.norm(dim=1, keepdim=True)).detach()
    torch.manual_seed(5)
    loss = NoiseNegatives(InfoNCELoss(0.5), noise=2, steps=steps, step_size=0.3)
    found = loss.on_pairs(anchors.requires_grad_(), candidates, pairs)["loss"]
    expected = with_noise(anchors, candidates, pairs, noise)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, anchors)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_the_ascent_makes_noise_harder_and_gives_no_gradient_to_parameters() -> None:
    anchors, candidates, pairs = random_batch()
    values = []
    for steps in (0, 20):
        torch.manual_seed(1)
        loss = NoiseNegatives(InfoNCELoss(0.5, learnable=True), steps=steps, step_size=0.2)
        values.append(loss.on_pairs(anchors, candidates, pairs)["loss"].item())
        assert next(loss.parameters()).grad is None
    assert values[1] > values[0] + 0.1


def test_row_blocks_and_the_seed() -> None:
    anchors, candidates, pairs = random_batch()
    found = []
    for rows, seed in ((1024, 0), (2, 0), (1024, 1)):
        torch.manual_seed(seed)
        loss = NoiseNegatives(InfoNCELoss(0.5, block_rows=rows), step_size=0.1)
        found.append(loss.on_pairs(anchors, candidates, pairs)["loss"].item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] != found[2]


def test_both_directions_around_it() -> None:
    anchors, positives = torch.randn(2, 5, 4)
    value = SymmetricLoss(NoiseNegatives(InfoNCELoss()))(anchors, positives)
    assert value > SymmetricLoss(InfoNCELoss())(anchors, positives)


def test_losses_and_numbers_that_do_not_fit() -> None:
    for loss in (ProxyAnchorLoss(), CoSENTLoss()):
        with pytest.raises(ValueError, match="learns nothing from vectors without a class"):
            NoiseNegatives(loss)
    with pytest.raises(ValueError, match=r"noise must be above 0 and finite, not 0"):
        NoiseNegatives(InfoNCELoss(), noise=0)
    with pytest.raises(ValueError, match=r"steps=-1 and .* must be at least 0"):
        NoiseNegatives(InfoNCELoss(), steps=-1)
