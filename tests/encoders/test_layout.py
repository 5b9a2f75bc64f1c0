"""Buckets against a search over all cuts, and the two maps against plain indexing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.layout import MAX_DISTINCT, Layout, choose_buckets


def cost(buckets: list[tuple[int, int]], power: int) -> int:
    return sum(rows * length**power for rows, length in buckets)


def cheapest(lengths: np.ndarray, max_buckets: int, power: int) -> int:
    """By trying every way of cutting the sorted lengths."""
    best = cost([(len(lengths), int(lengths[-1]))], power)
    for count in range(1, max_buckets):
        for cuts in itertools.combinations(range(1, len(lengths)), count):
            parts = np.split(lengths, cuts)
            best = min(best, cost([(len(part), int(part[-1])) for part in parts], power))
    return best


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("max_buckets", [1, 2, 3, 6])
def test_buckets_cost_least(max_buckets: int, power: int) -> None:
    random = np.random.default_rng(max_buckets)
    for _ in range(5):
        lengths = np.sort(random.integers(1, 30, 10))
        buckets = choose_buckets(lengths, max_buckets, power)
        assert len(buckets) <= max_buckets
        assert sum(rows for rows, _ in buckets) == len(lengths)
        assert cost(buckets, power) == cheapest(lengths, max_buckets, power)
        ends = np.cumsum([rows for rows, _ in buckets])
        assert [int(lengths[end - 1]) for end in ends] == [length for _, length in buckets]


def test_many_distinct_lengths_still_fit_their_bucket() -> None:
    lengths = np.arange(1, 4 * MAX_DISTINCT)
    buckets = choose_buckets(lengths, 6, 2)
    assert len(buckets) == 6
    assert sum(rows for rows, _ in buckets) == len(lengths)
    for end, (_, length) in zip(np.cumsum([rows for rows, _ in buckets]), buckets, strict=True):
        assert lengths[end - 1] == length


def test_equal_lengths_need_no_padding() -> None:
    layout = Layout.of(Ragged.from_lengths(torch.zeros(16), torch.tensor([3, 5, 3, 5])))
    assert [(bucket.rows, bucket.length, bucket.valid) for bucket in layout.buckets] == [
        (2, 3, None),
        (2, 5, None),
    ]
    assert layout.longest == 5


@pytest.mark.parametrize("lengths", [[4, 0, 2, 7, 1, 7, 0], [3], [0, 0], [], [2, 2, 2]])
@pytest.mark.parametrize("max_buckets", [1, 2, 6])
def test_spread_and_collect_are_plain_indexing(lengths: list[int], max_buckets: int) -> None:
    texts = Ragged.from_lengths(torch.randn(sum(lengths), 3), torch.tensor(lengths, dtype=torch.int64))
    layout = Layout.of(texts, max_buckets)
    tokens = texts.values.double().requires_grad_()
    slots = layout.spread(tokens)
    start = 0
    order = sorted((row for row in range(len(lengths)) if lengths[row]), key=lambda row: lengths[row])
    for bucket in layout.buckets:
        padded = slots[start : start + bucket.slots].view(bucket.rows, bucket.length, 3)
        for place in range(bucket.rows):
            row = order.pop(0)
            assert torch.equal(padded[place, : lengths[row]], texts[row].double())
            if bucket.valid is not None:
                assert bucket.valid[place].tolist() == [slot < lengths[row] for slot in range(bucket.length)]
        start += bucket.slots
    assert not order
    assert torch.equal(layout.collect(slots), tokens)
    # as long as padding has no gradient, both backward passes are those of indexing
    weights = torch.randn(len(tokens), 3, dtype=torch.float64)
    (layout.collect(slots * 2) * weights).sum().backward()
    assert tokens.grad is not None
    torch.testing.assert_close(tokens.grad, 2 * weights)
    if len(tokens):
        torch.autograd.gradcheck(layout.collect, torch.randn(len(slots), 3).double().requires_grad_())
