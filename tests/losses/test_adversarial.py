from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from lit_metric.losses import AdversarialLoss, DensePairs, InfoNCELoss, ProxyAnchorLoss, TripletLoss
from tests.losses.cases import random_batch


def one_row(anchor: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE of one anchor, the mean over its positives."""
    score = [cosine_similarity(anchor[None], each) / temperature for each in (positives, negatives)]
    below = score[1].exp().sum()
    return -(score[0] - (score[0].exp() + below).log()).mean()


def test_against_a_loop_over_anchors() -> None:
    anchors, candidates, pairs = random_batch()
    loss = AdversarialLoss(InfoNCELoss(0.5), epsilon=0.8, eta=1.5, temperature=0.3)
    output, terms = loss.on_pairs(anchors, candidates, pairs), {"imposters": [], "distant": []}
    for row in range(6):
        positives, negatives = (candidates[mask[row]] for mask in (pairs.positive, pairs.negative))
        if not (len(positives) and len(negatives)):
            continue
        anchor = anchors[row].clone().requires_grad_()
        [gradient] = torch.autograd.grad(one_row(anchor, positives, negatives, 0.5), anchor)
        anchor = anchor.detach()
        direction = anchor.norm() * normalize(gradient, dim=0)
        imposter = anchor + 0.8 * direction
        far = (anchor + 1.5 * direction).requires_grad_()
        known = torch.cat([positives, negatives])
        p, q = (torch.softmax(cosine_similarity(each[None], known) / 0.3, 0) for each in (anchor, far))
        [back] = torch.autograd.grad((p * (p / q).log()).sum(), far)
        distant = far.detach() - 1.5 * anchor.norm() * normalize(back, dim=0)
        made = loss.made(anchors, candidates, pairs)
        torch.testing.assert_close(made[0][row], imposter)
        torch.testing.assert_close(made[1][row], distant)
        terms["imposters"].append(one_row(anchor, positives, torch.stack([*negatives, imposter]), 0.5))
        terms["distant"].append(one_row(anchor, torch.stack([*positives, distant]), negatives, 0.5))
    means = {name: torch.stack(each).mean() for name, each in terms.items()}
    for name, mean in means.items():
        torch.testing.assert_close(output[name], mean)
    torch.testing.assert_close(output["loss"], (means["imposters"] + means["distant"]) / 2)


def test_both_terms_have_the_temperature() -> None:
    """At a temperature of 1 in the second term, as the authors' code has it, this would be another value."""
    anchors, positives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.8, 0.6]])
    negatives = torch.tensor([[0.6, -0.8]])
    for temperature in (0.1, 1.0):
        loss = AdversarialLoss(InfoNCELoss(temperature))
        pairs = DensePairs(torch.tensor([[True, False]]), torch.tensor([[False, True]]))
        candidates = torch.cat([positives, negatives])
        _, distant, _ = loss.made(anchors, candidates, pairs)
        score = cosine_similarity(anchors, distant).item()
        below = math.exp(0.6 / temperature)
        each = [math.log1p(below / math.exp(s / temperature)) for s in (0.8, score)]
        found = loss.on_pairs(anchors, candidates, pairs)["distant"].item()
        assert found == pytest.approx(sum(each) / 2, rel=1e-4)


def test_imposters_are_near_and_of_their_own_anchor_only() -> None:
    anchors, candidates, pairs = random_batch()
    loss = AdversarialLoss(InfoNCELoss(0.5))
    imposters, _, moved = loss.made(anchors, candidates, pairs)
    assert moved.tolist() == [False, False, False, True, True, True]  # the others have no loss to grow
    near = cosine_similarity(anchors, imposters)
    torch.testing.assert_close(near[3:], torch.full((3,), 1 / math.sqrt(2)).double())  # of ε = 1
    alone = [
        loss.on_pairs(
            anchors[r : r + 1], candidates, DensePairs(pairs.positive[r : r + 1], pairs.negative[r : r + 1])
        )
        for r in (3, 4, 5)
    ]
    together = loss.on_pairs(anchors, candidates, pairs)["loss"]
    torch.testing.assert_close(together, torch.stack([each["loss"] for each in alone]).mean())


def test_a_loss_that_is_satisfied_makes_no_imposters() -> None:
    anchors, positives, negatives = torch.eye(3)[:1], torch.eye(3)[:1], torch.eye(3)[1:]
    assert AdversarialLoss(TripletLoss(0.5))(anchors, positives, negatives) == 0


def test_row_blocks_change_nothing_and_made_vectors_have_no_gradient() -> None:
    anchors, candidates, pairs = random_batch()
    found = []
    for rows in (1024, 2):
        given = anchors.clone().requires_grad_(), candidates.clone().requires_grad_()
        loss = AdversarialLoss(InfoNCELoss(0.5, block_rows=rows))
        value = loss.on_pairs(*given, pairs)["loss"]
        assert not any(each.requires_grad for each in loss.made(*given, pairs))
        found.append((value.detach(), *torch.autograd.grad(value, given)))
    torch.testing.assert_close(found[0], found[1])


def test_losses_and_numbers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="give AdversarialLoss a loss between pairs"):
        AdversarialLoss(ProxyAnchorLoss())
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        AdversarialLoss(InfoNCELoss(), epsilon=0)
