from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_metric.losses import DensePairs, LabelPairs, PrototypeTripletLoss, PrototypicalLoss
from tests.losses.cases import cosines

CLASSES = torch.tensor([0, 2, 2, -1, 3, 0, 5])
"""Of the anchors: one has none, one has a class without a candidate."""
SUPPORT = torch.tensor([2, 0, 3, 2, 0, -1, 2])


def batch() -> tuple[Tensor, Tensor, LabelPairs]:
    generator = torch.Generator().manual_seed(0)
    anchors, candidates = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64)
    return anchors, candidates, LabelPairs(CLASSES, SUPPORT)


def naive(loss: PrototypicalLoss | PrototypeTripletLoss, score: str) -> tuple[Tensor, float]:
    """Anchor by anchor, and the share of anchors that break the rule."""
    anchors, candidates, _ = batch()
    centres = {label: candidates[label == SUPPORT].mean(0) for label in (0, 2, 3)}
    terms, active = [], []
    for anchor, label in zip(anchors, CLASSES.tolist(), strict=True):
        if label not in centres:
            continue
        if score == "cosine":
            scores = {k: cosines(anchor[None], c[None])[0, 0] for k, c in centres.items()}
        else:
            scores = {k: -(anchor - c).norm() for k, c in centres.items()}
        best = max(value for k, value in scores.items() if k != label)
        if isinstance(loss, PrototypicalLoss):
            powers = {k: (value / 0.3).exp() for k, value in scores.items()}
            terms.append(-(powers[label] / sum(powers.values())).log())
            active.append(bool(best > scores[label]))
        else:
            terms.append((loss.margin + best - scores[label]).clamp_min(0))
            active.append(bool(terms[-1] > 0))
    return torch.stack(terms).mean(), sum(active) / len(active)


@pytest.mark.parametrize("score", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", [PrototypicalLoss, PrototypeTripletLoss])
@pytest.mark.parametrize("rows", [1024, 2])
def test_against_a_naive_loop(kind: type, score: str, rows: int) -> None:
    first = 0.3 if kind is PrototypicalLoss else 0.7
    loss = kind(first, distance=score, block_rows=rows)
    output = loss.on_pairs(*batch())
    expected, active = naive(loss, score)
    torch.testing.assert_close(output["loss"], expected)
    assert output["active"].item() == pytest.approx(active)


def test_the_plateau_is_the_loss_of_one_point() -> None:
    loss = PrototypeTripletLoss(0.7)
    assert loss(torch.ones(6, 3), labels=torch.tensor([0, 0, 1, 1, 2, 2])).item() == pytest.approx(0.7)
    assert loss.plateau == 0.7


@pytest.mark.parametrize("make", [PrototypicalLoss, PrototypeTripletLoss])
def test_gradients_reach_the_examples(make: type) -> None:
    loss = make(0.5, distance="euclidean").double()
    anchors, candidates, pairs = batch()
    inputs = anchors.requires_grad_(), candidates.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: loss.on_pairs(*given, pairs)["loss"], inputs)
    loss.on_pairs(*inputs, pairs)["loss"].backward()
    assert candidates.grad[:5].any(dim=1).all()
    assert not candidates.grad[5].any()  # it has no class


def test_a_class_may_lie_in_two_places_and_only_its_mean_counts() -> None:
    anchors, support = torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 1.0], [-3.0, 1.0], [0.0, -1.0]])
    loss = PrototypeTripletLoss(margin=0.5)
    pairs = LabelPairs(torch.tensor([0]), torch.tensor([0, 0, 1]))
    assert loss.on_pairs(anchors, support, pairs)["loss"] == 0


def test_nothing_to_learn_from_reaches_all_tensors() -> None:
    for labels in (torch.full((2,), -1), torch.tensor([0, 0])):
        anchors, candidates = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
        value = PrototypicalLoss().on_pairs(anchors, candidates, LabelPairs(labels, labels))["loss"]
        value.backward()
        assert value == 0
        assert not anchors.grad.any()
        assert not candidates.grad.any()


def test_it_needs_classes() -> None:
    same = torch.eye(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="PrototypicalLoss needs the classes of 2 anchors and 2 candidates"):
        PrototypicalLoss().on_pairs(torch.eye(2), torch.eye(2), DensePairs(same, ~same))
    with pytest.raises(ValueError, match="margin must be above 0"):
        PrototypeTripletLoss(0.0)
