"""Random triplets, which hard ones are compared with."""

from __future__ import annotations

import math
from collections import Counter

import torch

from benchmarks.methods.parts import RandomTripletLoss
from lit_metric.losses import DensePairs


def test_each_triplet_of_an_anchor_is_drawn_equally_often() -> None:
    candidates = torch.tensor([[1.0], [2.0], [4.0], [6.0], [9.0], [32.0]])  # the last is ignored
    positive = torch.tensor([[True, True, False, False, False, False]])
    negative = torch.tensor([[False, False, True, True, True, False]])
    loss, pairs = RandomTripletLoss(), DensePairs(positive, negative)
    torch.manual_seed(0)
    drawn: Counter[float] = Counter()
    for _ in range(600):
        drawn[round(loss.on_pairs(torch.zeros(1, 1), candidates, pairs)["loss"].item(), 5)] += 1
    expected = {(p, n): round(math.log1p(math.exp(p - n)), 5) for p in (1, 2) for n in (4, 6, 9)}
    assert {*drawn} == {*expected.values()}
    assert len(drawn) == 6
    # A sixth of all draws each, within 5 standard deviations.
    assert all(abs(count - 100) < 5 * (600 * 5 / 36) ** 0.5 for count in drawn.values())
