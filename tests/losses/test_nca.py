from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import NCALoss as PeerNCALoss
from torch import Tensor

from lit_metric.losses import DensePairs, InfoNCELoss, NCALoss, PairBlock, nca
from tests.losses.cases import cosines, labelled_batch, random_batch, random_weights, rows_of


def naive(logits: Tensor, pairs: DensePairs, weight: Tensor) -> Tensor:
    """The mean over anchors of −log(Σ_p w e^l / Σ_{p, n} w e^l)."""
    of_anchors = []
    for row, positives, negatives in rows_of(pairs):
        if positives and negatives:
            of_positives = sum(weight[row, p] * logits[row, p].exp() for p in positives)
            of_negatives = sum(weight[row, n] * logits[row, n].exp() for n in negatives)
            of_anchors.append(-torch.log(of_positives / (of_positives + of_negatives)))
    return sum(of_anchors) / len(of_anchors)


@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(weighted: bool) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = (
        random_weights(pairs) + 0.1 if weighted else torch.ones(pairs.positive.shape, dtype=torch.float64)
    )
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    output = NCALoss(temperature=0.3).on_pairs(anchors, candidates, given)
    torch.testing.assert_close(output["loss"], naive(cosines(anchors, candidates) / 0.3, pairs, weight))


def test_squared_distances_of_raw_vectors_against_a_naive_loop() -> None:
    anchors, candidates, pairs = random_batch()
    squares = (anchors[:, None] - candidates).square().sum(dim=-1)
    output = NCALoss(temperature=2.0, distance="squared_euclidean").on_pairs(anchors, candidates, pairs)
    torch.testing.assert_close(output["loss"], naive(-squares / 2.0, pairs, torch.ones_like(squares)))


LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_nca_of_pytorch_metric_learning() -> None:
    # Its default is the squared distance of unit vectors, and its softmax_scale is 1 / temperature.
    embeddings, labels, pairs = labelled_batch(LABELS)
    ours = NCALoss(0.5, "squared_euclidean", normalize=True).on_pairs(embeddings, embeddings, pairs)["loss"]
    torch.testing.assert_close(ours, PeerNCALoss(softmax_scale=2)(embeddings, labels))


def test_anchors_without_a_positive_or_a_negative_do_not_count() -> None:
    # Both leave out an anchor without a positive.
    embeddings, labels, pairs = labelled_batch([*LABELS, 3])
    ours = NCALoss(1.0, "squared_euclidean", normalize=True).on_pairs(embeddings, embeddings, pairs)
    torch.testing.assert_close(ours["loss"], PeerNCALoss()(embeddings, labels))
    assert ours["anchors_used"].item() == pytest.approx(0.9)
    # One without a negative is a term of value 0 there, and none here, where pairs may be ignored.
    pairs.negative[0] = False
    without = NCALoss(1.0, "squared_euclidean", normalize=True).on_pairs(embeddings, embeddings, pairs)
    kept = DensePairs(pairs.positive[1:], pairs.negative[1:])
    rest = NCALoss(1.0, "squared_euclidean", normalize=True).on_pairs(embeddings[1:], embeddings, kept)
    torch.testing.assert_close(without["loss"], rest["loss"])


def test_an_anchor_far_from_all_its_positives_is_not_lost() -> None:
    # Here the two part: the peer takes the logarithm of a softmax, and where that has become 0, as it has for
    # all of these anchors in float32, it drops the anchor, though it is the one that is most wrong.
    embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    same, itself = labels[:, None] == labels, torch.eye(4, dtype=torch.bool)
    output = NCALoss(0.01, "squared_euclidean").on_pairs(
        embeddings, embeddings, DensePairs(same & ~itself, ~same)
    )
    # 4 / 0.01 away from the positive, 0 from one negative.
    assert output["loss"] == 400
    assert output["anchors_used"] == 1


def test_one_positive_is_info_nce() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors, candidates = (torch.randn(6, 4, generator=generator) for _ in range(2))
    same = torch.eye(6, dtype=torch.bool)
    pairs = DensePairs(same, ~same)
    torch.testing.assert_close(
        NCALoss(0.1).on_pairs(anchors, candidates, pairs)["loss"],
        InfoNCELoss(0.1).on_pairs(anchors, candidates, pairs)["loss"],
    )


def test_one_near_positive_is_enough_hand_computed() -> None:
    # A positive beside the anchor, one opposite, a negative between: a class in two clusters.
    candidates = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    same = torch.tensor([[True, True, False]])
    batch = torch.tensor([[1.0, 0.0]], dtype=torch.float64), candidates, DensePairs(same, ~same)
    loss = NCALoss(temperature=0.5).on_pairs(*batch)["loss"]
    assert loss.item() == pytest.approx(math.log1p(1 / (math.exp(2) + math.exp(-2))), abs=1e-15)
    # InfoNCE asks for the one opposite as well.
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
    assert InfoNCELoss(temperature=0.5).on_pairs(*batch)["loss"].item() == pytest.approx(expected, abs=1e-15)


def test_a_positive_is_pulled_by_its_share_of_the_exponentials() -> None:
    # With m the chance to meet a negative, dL/ds is −m times the share among positives, and for a negative
    # +m times the share among negatives.
    anchor = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    scores = torch.tensor([2.0, 0.0, 1.0, -1.0], dtype=torch.float64)
    candidates = torch.zeros(4, 4, dtype=torch.float64)
    candidates[:, 0] = scores
    same = torch.tensor([[True, True, False, False]])
    NCALoss(1.0, "dot").on_pairs(anchor, candidates.requires_grad_(), DensePairs(same, ~same))[
        "loss"
    ].backward()
    e = scores.exp()
    met = (e[2] + e[3]) / e.sum()
    expected = torch.cat([-met * e[:2] / e[:2].sum(), met * e[2:] / e[2:].sum()])
    torch.testing.assert_close(candidates.grad[:, 0], expected)


def test_a_collapsed_batch_sits_at_the_logarithm_of_all_over_positives() -> None:
    same = torch.tensor([[True, True, False, False, False]])
    loss = NCALoss().on_pairs(torch.ones(1, 3), torch.ones(5, 3), DensePairs(same, ~same))["loss"]
    assert loss.item() == pytest.approx(math.log(5 / 2))


@pytest.mark.parametrize(("sign", "expected", "gradient"), [(1, 0, 0), (-1, 1.5e4, 1.5)])
def test_logits_far_beyond_the_exponential_s_range(sign: int, expected: float, gradient: float) -> None:
    # Positives at 1 and 0.5, a negative at −1, and the same turned around; the nearer positive decides.
    anchor = torch.tensor([[1e4, 0.0]], requires_grad=True)
    candidates = sign * torch.tensor([[1.0, 0.0], [0.5, 0.0], [-1.0, 0.0]])
    same = torch.tensor([[True, True, False]])
    loss = NCALoss(1.0, "dot").on_pairs(anchor, candidates, DensePairs(same, ~same))["loss"]
    loss.backward()
    assert loss == expected
    assert anchor.grad.tolist() == [[gradient, 0]]


def test_the_loss_of_unused_anchors_is_0() -> None:
    _, _, pairs = random_batch()
    losses, used = nca(torch.full(pairs.positive.shape, 3.0), pairs.rows(0, 6))
    assert used.tolist() == [False, False, False, True, True, True]
    assert losses[:3].tolist() == [0, 0, 0]


def test_a_small_loss_keeps_its_digits() -> None:
    # In float32, log Σ over all minus log Σ over positives is exactly 0 from a distance of 17 on.
    same = torch.tensor([[True, False]])
    loss = NCALoss(1.0, "dot").on_pairs(
        torch.tensor([[40.0]]), torch.tensor([[1.0], [0.0]]), DensePairs(same, ~same)
    )
    assert loss["loss"].item() == pytest.approx(math.exp(-40), rel=1e-5)


def test_a_learned_temperature_moves_down_its_gradient() -> None:
    loss = NCALoss(temperature=0.5, learnable=True)
    same = torch.tensor([[True, False]])
    output = loss.on_pairs(torch.tensor([[1.0, 0.0]]), torch.eye(2), DensePairs(same, ~same))
    output["loss"].backward()
    assert output["temperature"].item() == pytest.approx(0.5)
    # d/dlog τ of log(1 + e^(−1/τ)) is σ(−1/τ) / τ.
    assert loss.log_temperature.grad.item() == pytest.approx(2 / (1 + math.exp(2)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_settings_that_make_no_sense(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0 and finite"):
        NCALoss(temperature)


@pytest.mark.parametrize("others", [5, 60])  # with few other pairs than negatives, and with many
@pytest.mark.parametrize(("scale", "weighted"), [(1.0, False), (7.0, False), (0.3, True)])
def test_values_and_gradients_are_those_of_plain_sums(scale: float, weighted: bool, others: int) -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(10, 12, generator=generator, dtype=torch.float64).requires_grad_()
    order = torch.randperm(120, generator=generator)
    positive, negative = torch.zeros(120, dtype=torch.bool), torch.ones(120, dtype=torch.bool)
    negative[order[:others]] = False
    positive[order[: others - 2]] = True  # the two that are left are in neither
    positive, negative = positive.view(10, 12), negative.view(10, 12)
    weight = torch.rand(10, 12, generator=generator, dtype=torch.float64) + 0.1 if weighted else None
    found, used = nca(scores, PairBlock(positive, negative, weight), scale)
    assert used.tolist() == (positive.any(1) & negative.any(1)).tolist()
    terms = (scores * scale).exp() * (1.0 if weight is None else weight)
    pulled = torch.where(used, (terms * positive).sum(1), 1.0)
    expected = torch.where(used, (1 + (terms * negative).sum(1) / pulled).log(), 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    slope = torch.randn(10, generator=generator, dtype=torch.float64)
    one, other = (torch.autograd.grad(each @ slope, scores)[0] for each in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)
