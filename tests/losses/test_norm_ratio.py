from __future__ import annotations

import math

import pytest
import torch

from lit_metric.losses import DensePairs, InfoNCELoss, NormRatioLoss, SumLoss
from tests.losses.cases import random_batch, random_weights, rows_of


def test_against_a_naive_loop() -> None:
    anchors, candidates, pairs = random_batch()
    weight = random_weights(pairs) + 0.1
    output = NormRatioLoss().on_pairs(anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight))
    terms, wrong = [], []
    for row, positives, _ in rows_of(pairs):
        for column in positives:
            own, other = math.hypot(*anchors[row].tolist()), math.hypot(*candidates[column].tolist())
            terms.append(weight[row, column].item() * math.exp(1 - other / own))
            wrong.append(own > other)
    assert output["loss"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    assert output["wrong_way"].item() == pytest.approx(sum(wrong) / len(wrong))


def test_the_anchor_is_the_part_and_the_candidate_the_whole() -> None:
    """exp(1 − whole / part), and not the other way round."""
    part, whole = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    loss = NormRatioLoss()
    assert loss(part, whole).item() == pytest.approx(math.exp(-2))
    assert loss(whole, part).item() == pytest.approx(math.exp(1 - 1 / 3))
    part, whole = part.requires_grad_(), whole.requires_grad_()
    loss(part, whole).backward()
    assert part.grad[0, 0] > 0  # a step against the gradient shortens it
    assert whole.grad[0, 1] < 0


def test_only_the_lengths_matter_and_they_are_the_raw_ones() -> None:
    """A cosine beside it is free to turn the vectors; a vector scaled to length 1 would have no ratio to
    learn."""
    anchors, candidates, pairs = random_batch()
    turned = anchors.flip(1), candidates.roll(1, 1)
    loss = NormRatioLoss()
    plain = loss.on_pairs(anchors, candidates, pairs)["loss"]
    torch.testing.assert_close(loss.on_pairs(*turned, pairs)["loss"], plain)
    torch.testing.assert_close(loss.on_pairs(5 * anchors, 5 * candidates, pairs)["loss"], plain)
    assert loss.on_pairs(anchors, 2 * candidates, pairs)["loss"] < plain
    both = SumLoss({"match": InfoNCELoss(), "direction": loss}).on_pairs(anchors, candidates, pairs)
    torch.testing.assert_close(both["direction"], plain)


def test_a_gradient_along_the_vector_alone() -> None:
    part = torch.tensor([[3.0, 4.0]], requires_grad=True)
    NormRatioLoss()(part, torch.tensor([[0.0, 10.0]])).backward()
    # d/dr e^(1 − 10 / r) = 10 / r² · e^(1 − 10 / r) at r = 5, along (0.6, 0.8).
    expected = 0.4 * math.exp(-1)
    assert part.grad[0].tolist() == pytest.approx([0.6 * expected, 0.8 * expected], rel=1e-5)


def test_zero_vectors_have_finite_gradients() -> None:
    for own, other in (([[0.0, 0.0]], [[1.0, 0.0]]), ([[1.0, 0.0]], [[0.0, 0.0]]), ([[0.0, 0.0]],) * 2):
        anchors, candidates = (torch.tensor(each, requires_grad=True) for each in (own, other))
        value = NormRatioLoss()(anchors, candidates)
        value.backward()
        assert value.isfinite()
        assert anchors.grad.isfinite().all()
        assert candidates.grad.isfinite().all()


def test_negatives_do_not_matter_and_a_positive_alone_counts() -> None:
    anchors, candidates, pairs = random_batch()
    nothing = torch.zeros_like(pairs.positive)
    alone = NormRatioLoss().on_pairs(anchors, candidates, DensePairs(pairs.positive, nothing))["loss"]
    assert alone == NormRatioLoss().on_pairs(anchors, candidates, pairs)["loss"] > 0


def test_training_turns_the_direction_round() -> None:
    torch.manual_seed(0)
    encoder = torch.nn.Linear(6, 4)
    parts, wholes = torch.randn(2, 40, 6)
    optimizer = torch.optim.Adam(encoder.parameters(), 0.02)
    loss, pairs = NormRatioLoss(), torch.eye(40, dtype=torch.bool)
    pairs = DensePairs(pairs, ~pairs)
    for step in range(150):
        output = loss.on_pairs(encoder(parts), encoder(wholes), pairs)
        if step == 0:
            before = output["wrong_way"].item()
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
    assert output["wrong_way"].item() < 0.5 * before
