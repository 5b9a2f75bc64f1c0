from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import CircleLoss as PeerLoss
from torch import Tensor

from lit_metric.losses import CircleLoss, DensePairs
from tests.losses.cases import cosines, labelled_batch, random_batch, random_weights, rows_of

MARGIN, SCALE = 0.3, 16.0


def naive(scores: Tensor, pairs: DensePairs, weight: Tensor, fixed: Tensor | None = None) -> Tensor:
    """The formula anchor by anchor; the weights α are those of the scores ``fixed``."""
    fixed = scores if fixed is None else fixed
    of_anchors = []
    for row, positives, negatives in rows_of(pairs):
        if positives and negatives:
            of_p = of_n = 0.0
            for p in positives:
                alpha = max(1 + MARGIN - float(fixed[row, p]), 0)
                of_p += weight[row, p] * torch.exp(-SCALE * alpha * (scores[row, p] - (1 - MARGIN)))
            for n in negatives:
                alpha = max(float(fixed[row, n]) + MARGIN, 0)
                of_n += weight[row, n] * torch.exp(SCALE * alpha * (scores[row, n] - MARGIN))
            of_anchors.append(torch.log(1 + of_n * of_p))
    return sum(of_anchors) / len(of_anchors)


@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(weighted: bool) -> None:
    anchors, candidates, pairs = random_batch(anchors=7, candidates=12)
    weight = random_weights(pairs) + 0.1 if weighted else torch.ones(7, 12, dtype=torch.float64)
    given = DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    output = CircleLoss(MARGIN, SCALE).on_pairs(anchors, candidates, given)
    torch.testing.assert_close(output["loss"], naive(cosines(anchors, candidates), pairs, weight))


def test_the_gradient_is_that_of_the_naive_loop_with_weights_held() -> None:
    anchors, candidates, pairs = random_batch()
    ones = torch.ones(pairs.positive.shape, dtype=torch.float64)
    fixed = cosines(anchors, candidates)

    def held(anchors: Tensor, candidates: Tensor) -> Tensor:
        return naive(cosines(anchors, candidates), pairs, ones, fixed)

    inputs = anchors.requires_grad_(), candidates.requires_grad_()
    expected = torch.autograd.grad(held(*inputs), inputs)
    assert torch.autograd.gradcheck(held, inputs)
    torch.testing.assert_close(
        torch.autograd.grad(CircleLoss(MARGIN, SCALE).on_pairs(*inputs, pairs)["loss"], inputs), expected
    )


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 1, 1, 2]])
def test_pytorch_metric_learning(labels: list[int]) -> None:
    # It takes the mean over losses that are not 0, which none is but that of an anchor without a positive.
    embeddings, classes, pairs = labelled_batch(labels)
    ours = CircleLoss(MARGIN, SCALE).on_pairs(embeddings, embeddings, pairs)["loss"]
    torch.testing.assert_close(ours, PeerLoss(MARGIN, SCALE)(embeddings, classes))


def test_a_pair_beyond_its_optimum_is_left_alone() -> None:
    # At s_n = −m and below a negative has no gradient, however the positive stands.
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    candidates = torch.tensor([[0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64).requires_grad_()
    same = torch.tensor([[True, False]])
    output = CircleLoss(0.4, 8.0).on_pairs(anchor, candidates, DensePairs(same, ~same))
    # α_p = 1.4, s_p − 0.6 = −0.6; the negative's exponential is 1.
    assert output["loss"].item() == pytest.approx(math.log1p(math.exp(8 * 1.4 * 0.6)), rel=1e-12)
    output["loss"].backward()
    assert not candidates.grad[1].any()
    assert candidates.grad[0].any()


def test_the_source_s_scale_stays_finite_where_everything_is_wrong() -> None:
    anchor = torch.tensor([[1.0, 0.0]], requires_grad=True)
    candidates = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    same = torch.tensor([[True, False]])
    loss = CircleLoss(0.25, 256.0).on_pairs(anchor, candidates, DensePairs(same, ~same))["loss"]
    loss.backward()
    # 256 · 2.25 · 1.75 of the positive and 256 · 1.25 · 0.75 of the negative, far beyond e^x in float32.
    assert loss.item() == pytest.approx(256 * (2.25 * 1.75 + 1.25 * 0.75), rel=1e-6)
    assert anchor.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, "margin must be between 0 and 1, not 0.0"),
        ({"margin": 1.0}, "margin must be between 0 and 1, not 1.0"),
        ({"scale": 0.0}, "scale must be above 0 and finite, not 0.0"),
        ({"scale": math.nan}, "scale must be above 0 and finite, not nan"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CircleLoss(**arguments)
