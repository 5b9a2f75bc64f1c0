from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_metric.losses import DensePairs, HardestHingeLoss, TripletLoss
from tests.losses.cases import cosines, random_batch, random_weights, rows_of


def naive(scores: Tensor, pairs: DensePairs, loss: HardestHingeLoss, weight: Tensor) -> float:
    terms = []
    for row, positives, negatives in rows_of(pairs):
        hardest = sorted(negatives, key=lambda column: -scores[row, column].item())[: loss.hardest]
        for positive in positives if negatives else []:
            beyond = {n: loss.margin + (scores[row, n] - scores[row, positive]).item() for n in hardest}
            beyond = {n: value for n, value in beyond.items() if value > 0}
            powers = {
                n: weight[row, n].item() * math.exp(scores[row, n].item() / loss.temperature) for n in beyond
            }
            total = sum(powers[n] / sum(powers.values()) * beyond[n] for n in beyond)
            terms.append(weight[row, positive].item() * total)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("hardest", [1, 2, 50])
@pytest.mark.parametrize("margin", [0.1, 0.8])
def test_against_a_naive_loop(margin: float, hardest: int) -> None:
    anchors, candidates, pairs = random_batch()
    loss, weight = HardestHingeLoss(margin, hardest, temperature=0.3), random_weights(pairs) + 0.1
    found = loss.on_pairs(anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight))["loss"]
    assert found.item() == pytest.approx(naive(cosines(anchors, candidates), pairs, loss, weight), rel=1e-9)


def of_scores(loss: HardestHingeLoss, scores: list[float]) -> tuple[dict, Tensor]:
    """The loss of one anchor, whose positive comes first."""
    candidates = torch.tensor(scores, dtype=torch.float64)[:, None].requires_grad_()
    same = torch.zeros(1, len(scores), dtype=torch.bool)
    same[0, 0] = True
    output = loss.on_pairs(torch.ones(1, 1).double(), candidates, DensePairs(same, ~same))
    output["loss"].backward()
    return output, candidates.grad[:, 0]


def test_satisfied_negatives_are_out_of_the_softmax() -> None:
    """With e⁰ each in the denominator, as the authors' code has it, it would be 0.2 / (1 + 9 e^{−1})."""
    loss = HardestHingeLoss(margin=0.1, temperature=0.1, distance="dot")
    output, gradient = of_scores(loss, [0.0, 0.1, *[-0.5] * 9])
    assert output["loss"].item() == pytest.approx(0.2)
    assert gradient.tolist() == pytest.approx([-1, 1, *[0] * 9])
    assert output["active"].item() == pytest.approx(1 / 10)


def test_only_the_hardest_count_and_their_weights_have_no_gradient() -> None:
    loss = HardestHingeLoss(margin=1.0, hardest=2, temperature=0.5, distance="dot")
    output, gradient = of_scores(loss, [0.5, 0.4, 0.1, 0.3])
    first = 1 / (1 + math.exp(-0.1 / 0.5))
    assert output["loss"].item() == pytest.approx(first * 0.9 + (1 - first) * 0.8)
    assert gradient.tolist() == pytest.approx([-1, first, 0, 1 - first])


def test_one_hardest_negative_is_the_triplet_loss_with_it() -> None:
    anchors, candidates, pairs = random_batch()
    one_positive = torch.zeros_like(pairs.positive).scatter(1, pairs.positive.int().argmax(1)[:, None], True)
    pairs = DensePairs(one_positive & pairs.positive, pairs.negative)
    found = HardestHingeLoss(0.4, hardest=1).on_pairs(anchors, candidates, pairs)["loss"]
    hard = TripletLoss(0.4, mining="hard").on_pairs(anchors, candidates, pairs)["loss"]
    torch.testing.assert_close(found, hard)


def test_the_plateau_is_the_loss_of_one_point() -> None:
    loss = HardestHingeLoss(0.4)
    assert loss(torch.ones(6, 3), labels=torch.tensor([0, 0, 1, 1, 2, 2])).item() == pytest.approx(0.4)
    assert loss.plateau == 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, "margin must be above 0"),
        ({"hardest": 0}, "hardest must be at least 1 negative, not 0"),
        ({"temperature": math.inf}, "temperature must be above 0 and finite"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HardestHingeLoss(**arguments)
