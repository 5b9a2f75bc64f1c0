from __future__ import annotations

import math

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
from torch import Tensor

from lit_metric.losses import DensePairs, DistillationKLLoss
from tests.losses.cases import random_batch, random_weights
from tests.losses.test_margin_mse import layout, random_targets


def naive(scores: Tensor, targets: Tensor, weight: Tensor, student: float, teacher: float) -> list[Tensor]:
    terms = []
    for row in range(len(scores)):
        columns = [c for c in range(scores.shape[1]) if weight[row, c] > 0 and not targets[row, c].isnan()]
        if len(columns) < 2:
            continue
        p = weight[row, columns] * (targets[row, columns] / teacher).exp()
        q = weight[row, columns] * (scores[row, columns] / student).exp()
        p, q = p / p.sum(), q / q.sum()
        terms.append(student**2 * (p * (p / q).log()).sum())
    return terms


@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(weighted: bool) -> None:
    anchors, candidates, pairs = random_batch()
    targets = random_targets(pairs)
    targets[0], targets[1, 1:] = torch.nan, torch.nan  # none, and one, to divide between
    weight = random_weights(pairs) if weighted else None
    terms = naive(
        anchors @ candidates.T,
        targets,
        torch.ones(6, 9) if weight is None else weight,
        student=0.8,
        teacher=2.0,
    )
    assert len(terms) == 4
    output = DistillationKLLoss(0.8, 2.0).on_pairs(
        anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight, targets)
    )
    torch.testing.assert_close(output["loss"], torch.stack(terms).mean())
    assert output["anchors_used"].item() == pytest.approx(4 / 6)


@pytest.mark.parametrize("temperatures", [(1.0, None), (2.0, None), (0.5, 3.0)])
def test_sentence_transformers_agrees(temperatures: tuple[float, float | None]) -> None:
    pairs, columns, scores = layout(negatives=3)
    peer = DistillKLDivLoss(None, temperature=temperatures[0], teacher_temperature=temperatures[1])
    expected = peer.compute_loss_from_embeddings(columns, scores)
    output = DistillationKLLoss(*temperatures).on_pairs(columns[0], torch.cat(columns[1:]), pairs)
    torch.testing.assert_close(output["loss"], expected)


def test_a_share_that_underflows_adds_nothing() -> None:
    neither = torch.zeros(1, 2, dtype=torch.bool)
    pairs = DensePairs(neither, neither, target=torch.tensor([[1000.0, -1000.0]]))
    candidates = torch.tensor([[2.0], [1.0]], requires_grad=True)
    loss = DistillationKLLoss().on_pairs(torch.ones(1, 1), candidates, pairs)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert candidates.grad.flatten().tolist() == pytest.approx([-1 / (1 + math.e), 1 / (1 + math.e)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "^temperature must be above 0 and finite, not 0.0"),
        ({"teacher_temperature": math.inf}, "teacher_temperature must be above 0 and finite, not inf"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationKLLoss(**arguments)


def test_a_score_of_minus_infinity_is_no_share() -> None:
    teacher = torch.tensor([[5.0, 1.0, -torch.inf], [-torch.inf, -torch.inf, torch.nan]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    anchors, candidates = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (2, 3))
    neither = torch.zeros(2, 3, dtype=torch.bool)
    anchors.requires_grad_()
    output = DistillationKLLoss().on_pairs(anchors, candidates, DensePairs(neither, neither, target=teacher))
    logits = (anchors[:1] @ candidates.T).log_softmax(dim=1)
    expected = torch.nn.functional.kl_div(logits, teacher[:1].softmax(dim=1), reduction="sum")
    torch.testing.assert_close(output["loss"], expected)
    assert output["anchors_used"] == 0.5  # a teacher who gives nobody a share says nothing
    [gradient] = torch.autograd.grad(output["loss"], anchors)
    [right] = torch.autograd.grad(expected, anchors)
    torch.testing.assert_close(gradient, right)
