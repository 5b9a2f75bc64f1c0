from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import CoSENTLoss as PeerCoSENTLoss
from torch import Tensor

from lit_metric.losses import (
    CoSENTLoss,
    DensePairs,
    DistillationKLLoss,
    MarginMSELoss,
    MetricLoss,
    PairBlock,
    Parts,
    RelationPairs,
    cosent,
)
from tests.losses.cases import Labels, cosines, random_batch, random_weights
from tests.losses.test_base import value_and_gradients


def naive(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for low in range(len(logits)):
        for high in range(len(logits)):
            if targets[low] < targets[high]:
                total = total + weights[low] * weights[high] * (logits[low] - logits[high]).exp()
    return (1 + total).log()


def judged_pairs(count: int = 20, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets with ties, and weights."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 6, (count,), generator=generator).double()
    return logits, targets, 0.1 + torch.rand(count, generator=generator, dtype=torch.float64)


def test_value_and_gradient_of_a_naive_loop() -> None:
    logits, targets, weights = judged_pairs()
    for given in (weights, None):
        ways = []
        for way in (cosent, naive):
            mine = logits.clone().requires_grad_()
            value = way(mine, targets, torch.ones_like(logits) if way is naive and given is None else given)
            value.backward()
            ways.append((value.detach(), mine.grad))
        torch.testing.assert_close(*ways, rtol=1e-12, atol=1e-14)


def test_sentence_transformers_agrees() -> None:
    generator = torch.Generator().manual_seed(3)
    anchors, candidates = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    targets = torch.rand(12, generator=generator, dtype=torch.float64).round(decimals=1)
    expected = PeerCoSENTLoss(None, scale=20.0).compute_loss_from_embeddings([anchors, candidates], targets)
    neither = torch.zeros(12, 12, dtype=torch.bool)
    matrix = torch.full((12, 12), torch.nan, dtype=torch.float64)
    matrix.diagonal().copy_(targets)
    output = CoSENTLoss().on_pairs(anchors, candidates, DensePairs(neither, neither, target=matrix))
    torch.testing.assert_close(output["loss"], expected)
    assert output["anchors_used"] == 1


@pytest.mark.parametrize("block_rows", [2, 100])
def test_pairs_of_all_anchors_are_compared(block_rows: int) -> None:
    anchors, candidates, _ = random_batch(anchors=6, candidates=9)
    relations = Labels(torch.arange(15) % 3)
    ids, others = torch.arange(6), torch.arange(6, 15)
    targets = relations.targets(ids, others).double()
    known = ~targets.isnan()
    logits = cosines(anchors, candidates)[known] / 0.2
    loss = CoSENTLoss(0.2, block_rows=block_rows)
    output = loss.on_pairs(anchors, candidates, RelationPairs(relations, ids, others))
    torch.testing.assert_close(output["loss"], naive(logits, targets[known], torch.ones_like(logits)))
    assert output["anchors_used"].item() == pytest.approx(known.any(dim=1).double().mean().item())


def test_masks_alone_count_as_one_and_zero() -> None:
    anchors, candidates, pairs = random_batch()
    weight = random_weights(pairs)
    known = (pairs.positive | pairs.negative) & (weight > 0)
    logits = cosines(anchors, candidates)[known] / 0.05
    expected = naive(logits, pairs.positive[known].double(), weight[known])
    output = CoSENTLoss().on_pairs(anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight))
    torch.testing.assert_close(output["loss"], expected)


def test_hundred_thousand_pairs_in_linear_memory() -> None:
    """A matrix of all comparisons would have 10^10 entries."""
    order = torch.arange(100_000, dtype=torch.float64)
    # All logits are equal, so each of n(n - 1)/2 comparisons is e^0.
    assert cosent(torch.zeros_like(order), order).item() == pytest.approx(math.log(1 + 100_000 * 99_999 / 2))


def test_gradients_are_finite_where_exponentials_are_not() -> None:
    logits = torch.tensor([1e17, -1e17, 3e16, 0.0], requires_grad=True)
    loss = cosent(logits, torch.tensor([0.0, 1.0, 1.0, 0.5]))
    loss.backward()
    assert loss.item() == pytest.approx(2e17)
    torch.testing.assert_close(logits.grad, torch.tensor([1.0, -1.0, 0.0, 0.0]))


def test_a_loss_that_does_not_ask_gets_no_targets() -> None:
    anchors, candidates, pairs = random_batch()
    seen = []

    class Looking(MetricLoss):
        def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
            seen.append(pairs.target)
            return CoSENTLoss().parts(scores, pairs)

    with pytest.raises(ValueError, match="no targets; set requires_scores = True in the class"):
        Looking("dot").on_pairs(anchors, candidates, pairs)
    assert seen == [None]


def test_nothing_is_learned_from_equal_targets() -> None:
    anchors, candidates, _ = random_batch()
    neither = torch.zeros(6, 9, dtype=torch.bool)
    equal = DensePairs(neither, neither, target=torch.full((6, 9), 2.5))
    output, gradients = value_and_gradients(CoSENTLoss().double(), anchors, candidates, equal)
    assert output["loss"] == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_settings_that_make_no_sense(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0 and finite"):
        CoSENTLoss(temperature)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("loss", [CoSENTLoss, MarginMSELoss, DistillationKLLoss])
@pytest.mark.parametrize("block_rows", [2, 100])
def test_a_gpu_learns_what_the_cpu_learns(loss: Any, block_rows: int) -> None:
    labels = torch.arange(15) % 3
    ways = []
    for device in ("cpu", "cuda"):
        anchors, candidates, _ = random_batch(anchors=6, candidates=9)
        ids = torch.arange(15, device=device)
        pairs = RelationPairs(Labels(labels.to(device)), ids[:6], ids[6:])
        given = anchors.to(device), candidates.to(device)
        output, gradients = value_and_gradients(loss(block_rows=block_rows), *given, pairs)
        ways.append([each.cpu() for each in (*output.values(), *gradients)])
    # Targets are of single precision, and computed on either.
    torch.testing.assert_close(*ways, rtol=1e-6, atol=1e-7)


def test_a_score_of_minus_infinity_is_the_lowest() -> None:
    logits, targets, weights = judged_pairs()
    targets[targets == 0] = -torch.inf
    expected = naive(logits, targets, weights)
    torch.testing.assert_close(cosent(logits, targets, weights), expected)
    assert bool(expected.isfinite())
