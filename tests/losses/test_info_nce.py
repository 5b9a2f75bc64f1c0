from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from torch import Tensor

from lit_metric.losses import DensePairs, InfoNCELoss, NPairLoss
from tests.losses import test_n_pair
from tests.losses.cases import cosines, labelled_batch, random_batch, random_weights, rows_of


def naive_sup_con(logits: Tensor, pairs: DensePairs, weight: Tensor) -> Tensor:
    of_anchors = []
    for row, positives, negatives in rows_of(pairs):
        if positives and negatives:
            total = sum(logits[row, p].exp() for p in positives)
            total = total + sum(weight[row, n] * logits[row, n].exp() for n in negatives)
            terms = [weight[row, p] * -torch.log(logits[row, p].exp() / total) for p in positives]
            of_anchors.append(sum(terms) / len(terms))
    return sum(of_anchors) / len(of_anchors)


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(others: bool, weighted: bool) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = (
        random_weights(pairs) + 0.1 if weighted else torch.ones(pairs.positive.shape, dtype=torch.float64)
    )
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    naive = naive_sup_con if others else test_n_pair.naive
    output = InfoNCELoss(temperature=0.3, positives_in_denominator=others).on_pairs(
        anchors, candidates, given
    )
    torch.testing.assert_close(output["loss"], naive(cosines(anchors, candidates) / 0.3, pairs, weight))


@pytest.mark.parametrize("others", [False, True])
def test_positives_may_be_added_up_against_a_naive_loop(others: bool) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    logits, of_anchors = cosines(anchors, candidates) / 0.3, []
    for row, positives, negatives in rows_of(pairs):
        if positives and negatives:
            total = 0.0
            for p in positives:
                against = [p, *negatives, *([one for one in positives if one != p] if others else [])]
                total = total - torch.log(logits[row, p].exp() / sum(logits[row, c].exp() for c in against))
            of_anchors.append(total)
    loss = InfoNCELoss(0.3, positives_in_denominator=others, positives="sum").on_pairs(
        anchors, candidates, pairs
    )
    torch.testing.assert_close(loss["loss"], sum(of_anchors) / len(of_anchors))


def test_one_positive_each_makes_a_sum_of_the_mean() -> None:
    anchors = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    both = [InfoNCELoss(0.3, positives=how)(anchors, anchors.flip(1)) for how in ("mean", "sum")]
    torch.testing.assert_close(*both)
    with pytest.raises(ValueError, match="positives 'most' is none of mean, sum"):
        InfoNCELoss(positives="most")


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_hardness_against_a_naive_loop(weighted: bool, others: bool) -> None:
    # The weights of Robinson et al.: e^(β l) over its mean among the anchor's negatives.
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = random_weights(pairs) + 0.1 if weighted else torch.ones(7, 12, dtype=torch.float64)
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    logits = cosines(anchors, candidates) / 0.3
    harder = weight.clone()
    for row, _, negatives in rows_of(pairs):
        total = sum(float(weight[row, n]) for n in negatives)
        mean = sum(float(weight[row, n] * torch.exp(0.5 * logits[row, n])) for n in negatives)
        for n in negatives:
            harder[row, n] *= torch.exp(0.5 * logits[row, n]) * total / mean
    naive = naive_sup_con if others else test_n_pair.naive
    output = InfoNCELoss(0.3, positives_in_denominator=others, hardness=0.5).on_pairs(
        anchors, candidates, given
    )
    torch.testing.assert_close(output["loss"], naive(logits, pairs, harder))


def test_hardness_moves_the_push_to_the_harder_negative() -> None:
    anchor = torch.tensor([[1.0, 0.0, 0.0]])
    candidates = torch.eye(3)[[0, 1, 2]] + torch.tensor([[0.0] * 3, [0.5, 0, 0], [0.0] * 3])
    same = torch.tensor([[True, False, False]])

    def push(hardness: float) -> list[float]:
        rows = candidates.clone().requires_grad_()
        loss = InfoNCELoss(1.0, distance="dot", hardness=hardness)
        loss.on_pairs(anchor, rows, DensePairs(same, ~same))["loss"].backward()
        return rows.grad[1:, 0].tolist()

    even, hard = push(0.0), push(2.0)
    assert hard[0] > even[0] > even[1] > hard[1]


@pytest.mark.parametrize("others", [False, True])
def test_one_positive_is_cross_entropy(others: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    anchors, candidates = (torch.randn(6, 4, generator=generator) for _ in range(2))
    same = torch.eye(6, dtype=torch.bool)
    output = InfoNCELoss(0.1, positives_in_denominator=others).on_pairs(
        anchors, candidates, DensePairs(same, ~same)
    )
    expected = F.cross_entropy(cosines(anchors, candidates) / 0.1, torch.arange(6))
    torch.testing.assert_close(output["loss"], expected)


def test_ntxent_of_pytorch_metric_learning() -> None:
    # Equal class sizes, because it takes one mean over positive pairs, we one per anchor first.
    embeddings, labels, pairs = labelled_batch([0, 0, 0, 1, 1, 1, 2, 2, 2])
    ours = InfoNCELoss(temperature=0.2).on_pairs(embeddings, embeddings, pairs)["loss"]
    torch.testing.assert_close(ours, NTXentLoss(temperature=0.2)(embeddings, labels))


def test_sup_con_of_pytorch_metric_learning() -> None:
    embeddings, labels, pairs = labelled_batch([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    ours = InfoNCELoss(temperature=0.2, positives_in_denominator=True).on_pairs(
        embeddings, embeddings, pairs
    )["loss"]
    torch.testing.assert_close(ours, SupConLoss(temperature=0.2)(embeddings, labels))


def test_positives_do_not_compete_when_out_of_the_denominator() -> None:
    # Two positives with cosines 1 and 0.6, a negative at 0. Left in, the stronger pushes the weaker one down.
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    candidates = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    same = torch.tensor([[True, True, False]])
    pairs = DensePairs(same, ~same)
    out = InfoNCELoss(1.0).on_pairs(anchor, candidates, pairs)["loss"]
    into = InfoNCELoss(1.0, positives_in_denominator=True).on_pairs(anchor, candidates, pairs)["loss"]
    e = math.exp
    assert out.item() == pytest.approx((math.log(1 + e(-1)) + math.log(1 + e(-0.6))) / 2, abs=1e-14)
    assert into.item() == pytest.approx(math.log(e(1) + e(0.6) + 1) - (1 + 0.6) / 2, abs=1e-14)


def test_temperature_one_on_inner_products_is_n_pair_without_its_regulariser() -> None:
    batch = random_batch()
    torch.testing.assert_close(
        InfoNCELoss(temperature=1.0, distance="dot").on_pairs(*batch)["loss"],
        NPairLoss(l2=0).on_pairs(*batch)["loss"],
    )


@pytest.mark.parametrize("others", [False, True])
def test_a_collapsed_batch_sits_at_the_logarithm_of_the_denominator_s_size(others: bool) -> None:
    same = torch.tensor([[True, True, False, False, False]])
    loss = InfoNCELoss(positives_in_denominator=others).on_pairs(
        torch.ones(1, 3), torch.ones(5, 3), DensePairs(same, ~same)
    )["loss"]
    assert loss.item() == pytest.approx(math.log(5 if others else 4))


def test_a_learned_temperature_starts_where_told_and_moves_down_its_gradient() -> None:
    loss = InfoNCELoss(temperature=0.5, learnable=True)
    same = torch.tensor([[True, False]])
    batch = torch.tensor([[1.0, 0.0]]), torch.eye(2), DensePairs(same, ~same)
    output = loss.on_pairs(*batch)
    output["loss"].backward()
    assert output["temperature"].item() == pytest.approx(0.5)
    assert output["loss"].item() == pytest.approx(math.log1p(math.exp(-2)))
    # d/dlog τ of log(1 + e^(−1/τ)) is σ(−1/τ) / τ.
    assert loss.log_temperature.grad.item() == pytest.approx(2 / (1 + math.exp(2)))


@pytest.mark.parametrize(("pushed_to", "held_at"), [(1e-5, 0.01), (1e5, 100.0)])
def test_a_learned_temperature_stays_in_bounds_and_can_come_back(pushed_to: float, held_at: float) -> None:
    loss = InfoNCELoss(learnable=True)
    with torch.no_grad():
        loss.log_temperature.fill_(math.log(pushed_to))
    output = loss.on_pairs(*random_batch(dtype=torch.float32))
    output["loss"].backward()
    assert output["temperature"].item() == pytest.approx(held_at, rel=1e-5)
    assert loss.log_temperature.grad.item() != 0


def test_a_fixed_temperature_is_no_parameter() -> None:
    assert not list(InfoNCELoss().parameters())
    assert not InfoNCELoss().state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and finite, not 0.0"),
        ({"temperature": math.inf}, "temperature must be above 0 and finite"),
        ({"temperature": math.nan}, "temperature must be above 0 and finite"),
        (
            {"temperature": 0.001, "learnable": True},
            "temperature must be between 0.01 and 100.0 to be learned",
        ),
        ({"hardness": -0.5}, "hardness must be at least 0 and finite, not -0.5"),
        ({"hardness": math.nan}, "hardness must be at least 0 and finite, not nan"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfoNCELoss(**arguments)
