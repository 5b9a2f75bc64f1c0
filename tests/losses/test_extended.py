from __future__ import annotations

import pytest
import torch

from lit_metric.losses import DensePairs, ExtendedPairs, GuidedLoss, InfoNCELoss, LossContext
from tests.losses.cases import random_batch, random_weights


def test_masks_weights_and_bias_of_the_added_candidates() -> None:
    _, _, given = random_batch()
    weight, bias = random_weights(given), torch.rand(6, 9).double()
    pairs = DensePairs(given.positive, given.negative, weight, bias=bias)
    extra = torch.eye(6, dtype=torch.bool)
    block = ExtendedPairs(pairs, positive=extra).rows(1, 5)
    assert torch.equal(block.positive[:, :9], given.positive[1:5])
    assert torch.equal(block.negative, torch.cat([given.negative[1:5], torch.zeros(4, 6) > 0], 1))
    some = (given.positive | given.negative).any(1)[1:5, None]
    assert torch.equal(block.positive[:, 9:], extra[1:5] & some)
    assert torch.equal(block.weight, torch.cat([weight[1:5], torch.ones(4, 6)], 1))
    assert torch.equal(block.bias, torch.cat([bias[1:5], torch.zeros(4, 6)], 1))
    every = ExtendedPairs(pairs, negative=2).rows(0, 6)
    assert torch.equal(every.negative[:, 9:], (given.positive | given.negative).any(1)[:, None].expand(6, 2))
    assert not every.positive[:, 9:].any()


def test_a_loss_sees_them_as_any_candidate() -> None:
    anchors, candidates, pairs = random_batch()
    more = torch.randn(3, 4).double()
    masks = [
        torch.cat([mask, added.expand(6, 3)], 1)
        for mask, added in ((pairs.positive, torch.tensor(False)), (pairs.negative, torch.tensor(True)))
    ]
    some = (pairs.positive | pairs.negative).any(1)[:, None]
    masks[1][:, 9:] &= some
    together = torch.cat([candidates, more])
    found = InfoNCELoss().on_pairs(anchors, together, ExtendedPairs(pairs, negative=3))
    torch.testing.assert_close(found, InfoNCELoss().on_pairs(anchors, together, DensePairs(*masks)))


def test_they_have_no_ids_so_a_guide_must_be_outside_and_both_directions_too() -> None:
    anchors, candidates, pairs = random_batch()
    extended = ExtendedPairs(pairs, negative=1)
    assert extended.candidate_ids is None
    with pytest.raises(ValueError, match="put SymmetricLoss around the loss that adds them"):
        extended.turned()
    guided = GuidedLoss(InfoNCELoss(), "a guide")
    guided.setup(LossContext(4, encode=lambda _: torch.ones(20, 2)))
    with pytest.raises(ValueError, match="must know the ids of the items, and ExtendedPairs has none"):
        guided.on_pairs(anchors, torch.cat([candidates, candidates[:1]]), extended)
    with pytest.raises(ValueError, match="needs positive or negative candidates"):
        ExtendedPairs(pairs)
