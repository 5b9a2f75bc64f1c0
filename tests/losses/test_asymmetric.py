from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_metric.losses import AsymmetricLoss, DensePairs
from tests.losses.cases import cosines, random_batch, random_weights, rows_of


def naive(
    scores: Tensor, pairs: DensePairs, weight: Tensor, loss: AsymmetricLoss, temperature: float, bias: float
) -> float:
    """By the formula, pair by pair."""
    total, anchors = 0.0, 0
    for row, positives, negatives in rows_of(pairs):
        anchors += bool(positives or negatives)
        for column in [*positives, *negatives]:
            q = 1 / (1 + math.exp(-(scores[row, column].item() / temperature + bias)))
            shifted = max(q - loss.margin, 0.0)
            if column in positives:
                term = -((1 - q) ** loss.positive_focus) * math.log(q)
            else:
                term = -(shifted**loss.negative_focus) * math.log(1 - shifted)
            total += weight[row, column].item() * term
    return total / anchors


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("focus", [(0.0, 0.0), (0.0, 4.0), (1.5, 2.0)])
def test_against_a_naive_loop(focus: tuple[float, float], margin: float) -> None:
    anchors, candidates, pairs = random_batch()
    weight = random_weights(pairs) + 0.1
    loss = AsymmetricLoss(*focus, margin, temperature=0.5, bias=-0.3).double()
    output = loss.on_pairs(anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight))
    scores = cosines(anchors, candidates)
    assert output["loss"].item() == pytest.approx(naive(scores, pairs, weight, loss, 0.5, -0.3), rel=1e-6)
    assert output["bias"].item() == pytest.approx(-0.3)
    above = torch.sigmoid(scores / 0.5 - 0.3)[pairs.negative] > margin
    assert output["active"].item() == pytest.approx(above.double().mean().item())


def test_hand_computed() -> None:
    # Probabilities 0.9 of the positive, 0.7 and 0.04 of the negatives; the last is below the margin.
    logits = torch.tensor([[0.9, 0.7, 0.04]]).logit()
    candidates, same = logits.T, torch.tensor([[True, False, False]])
    loss = AsymmetricLoss(1.0, 2.0, 0.1, temperature=1.0, bias=0.0, distance="dot")
    output = loss.on_pairs(torch.ones(1, 1), candidates, DensePairs(same, ~same))
    assert output["loss"].item() == pytest.approx(-0.1 * math.log(0.9) - 0.6**2 * math.log(0.4), rel=1e-5)
    assert output["active"].item() == 0.5


def test_the_defaults_are_those_of_the_authors_training_script_and_not_of_their_class() -> None:
    """γ₊ = 0, γ₋ = 4 and m = 0.05, where the class has γ₊ = 1."""
    same = torch.tensor([[True, False]])
    loss = AsymmetricLoss(temperature=1.0, bias=0.0, distance="dot")
    output = loss.on_pairs(torch.ones(1, 1), torch.tensor([[0.3], [0.6]]).logit(), DensePairs(same, ~same))
    expected = -math.log(0.3) - 0.55**4 * math.log(1 - 0.55)
    assert output["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_without_focus_and_margin_it_is_binary_cross_entropy() -> None:
    anchors, candidates, pairs = random_batch()
    pairs = DensePairs(pairs.positive, ~pairs.positive)
    loss = AsymmetricLoss(0.0, 0.0, 0.0, temperature=0.2, bias=-1.0).double()
    found = loss.on_pairs(anchors, candidates, pairs)["loss"]
    logits = cosines(anchors, candidates) / 0.2 - 1.0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, pairs.positive.double(), reduction="sum"
    )
    torch.testing.assert_close(found, expected / len(anchors))


def test_no_gradient_passes_through_the_focal_weights() -> None:
    """Each gradient is the weight times that of the cross-entropy, as the authors train."""
    scores = torch.tensor([[0.4, -0.2]], requires_grad=True, dtype=torch.float64)
    same = torch.tensor([[True, False]])
    loss = AsymmetricLoss(2.0, 3.0, 0.05, temperature=1.0, bias=0.0, distance="dot").double()
    unit = torch.ones(1, 1, dtype=torch.float64)
    loss.on_pairs(unit, scores.T, DensePairs(same, ~same))["loss"].backward()
    q, p = (1 / (1 + math.exp(-each)) for each in (0.4, -0.2))
    # d log q = (1 − q) ds; d log(1 − p + m) = −p (1 − p) / (1 − p + m) ds.
    expected = [-((1 - q) ** 2) * (1 - q), (p - 0.05) ** 3 * p * (1 - p) / (1 - p + 0.05)]
    assert scores.grad[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_a_negative_below_the_margin_moves_nothing() -> None:
    candidates = torch.tensor([[-9.0]], requires_grad=True)
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    loss = AsymmetricLoss(negative_focus=0.0, temperature=1.0, bias=0.0, distance="dot")
    output = loss.on_pairs(torch.ones(1, 1), candidates, DensePairs(nothing, ~nothing))
    output["loss"].backward()
    assert output["loss"] == 0
    assert not candidates.grad.any()
    assert not loss.bias.grad


def test_bias_and_temperature_are_learned_and_the_temperature_may_be_fixed() -> None:
    names = {name for name, _ in AsymmetricLoss().named_parameters()}
    assert names == {"bias", "log_temperature"}
    assert [name for name, _ in AsymmetricLoss(learnable=False).named_parameters()] == ["bias"]


def test_the_bias_finds_the_share_of_positives() -> None:
    """With equal vectors the best probability of all pairs is the share of positives: 1 of 4."""
    positive = torch.tensor([[True, False, False, False]])
    loss = AsymmetricLoss(0.0, 0.0, 0.0, temperature=1.0, bias=3.0, learnable=False)
    optimizer = torch.optim.LBFGS(loss.parameters(), max_iter=50, line_search_fn="strong_wolfe")
    vectors = torch.ones(5, 2)

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss.on_pairs(vectors[:1], vectors[1:], DensePairs(positive, ~positive))["loss"]
        value.backward()
        return value

    optimizer.step(step)
    assert torch.sigmoid(1 + loss.bias).item() == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive_focus": -1.0}, "positive_focus must be at least 0 and finite, not -1.0"),
        ({"negative_focus": math.inf}, "negative_focus must be at least 0 and finite, not inf"),
        ({"margin": 1.0}, "margin must be at least 0 and below 1"),
        ({"bias": math.nan}, "bias must be finite, not nan"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AsymmetricLoss(**arguments)
