"""Pooling by pairs against a loop over pairs, and what it can tell apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import AttentionPooling, ConjunctionPooling, MeanPooling
from tests.encoders.gradients import assert_equal_with_gradients

LENGTHS = [3, 1, 0, 6, 2]
SIZE = 8


def states(lengths: list[int] = LENGTHS, size: int = SIZE) -> Ragged:
    values = torch.randn(sum(lengths), size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Ragged.from_lengths(values, torch.tensor(lengths))


def trained(heads: int = 1, hidden: int | None = None) -> ConjunctionPooling:
    pooling = ConjunctionPooling(heads, hidden, dimension=SIZE).double()
    generator = torch.Generator().manual_seed(2)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return pooling


def naive(pooling: ConjunctionPooling, row: Tensor) -> Tensor:
    """Pair by pair, head by head."""
    width, parts = SIZE // pooling.heads, []
    for head in range(pooling.heads):
        scores, products = [], []
        for x in row:
            for y in row:
                keys = (pooling.first_key.weight @ x) * (pooling.second_key.weight @ y)
                scores.append(pooling.query[head] @ keys)
                partner = pooling.second_value.weight @ y + pooling.second_value.bias
                products.append((x * partner)[head * width : (head + 1) * width])
        weights = torch.softmax(torch.stack(scores), 0)
        parts.append((weights[:, None] * torch.stack(products)).sum(0))
    return torch.cat(parts)


@pytest.mark.parametrize(("heads", "hidden"), [(1, None), (2, 5), (8, 3)])
def test_it_equals_a_loop_over_pairs(heads: int, hidden: int | None) -> None:
    pooling, given = trained(heads, hidden), states()
    values = given.values.clone().requires_grad_()
    found = pooling(Ragged(values, given.offsets))
    rows = [values[given.offsets[row] : given.offsets[row + 1]] for row in range(len(given))]
    expected = torch.stack([naive(pooling, row) if len(row) else torch.zeros(SIZE) for row in rows])
    assert_equal_with_gradients(found, expected, [values, *pooling.parameters()])


def test_it_starts_as_the_mean_and_can_leave_it() -> None:
    pooling, given = ConjunctionPooling(heads=2, dimension=SIZE).double(), states()
    torch.testing.assert_close(pooling(given), MeanPooling()(given))
    weights = torch.rand(12, generator=torch.Generator().manual_seed(4)).double() + 0.1
    torch.testing.assert_close(pooling(given, weights), MeanPooling()(given, weights))
    pooling(given).sin().sum().backward()
    for name in ("query", "second_value.weight", "second_value.bias"):
        assert pooling.get_parameter(name).grad.abs().max() > 1e-6


def test_weights_sum_to_one_over_the_pairs_of_a_row() -> None:
    weights = trained(heads=2).weights(states())
    assert weights.shape == (5, 2, 6, 6)
    sums = weights.sum((2, 3))
    torch.testing.assert_close(sums[[0, 1, 3, 4]], torch.ones(4, 2).double())
    assert not weights[2].any()
    assert not weights[0, :, 3:].any()
    assert not weights[0, :, :, 3:].any()


def test_order_neighbours_and_repeats_of_rows() -> None:
    pooling, given = trained(heads=2), states()
    order = torch.cat([given.offsets[row] + torch.randperm(length) for row, length in enumerate(LENGTHS)])
    torch.testing.assert_close(pooling(Ragged(given.values[order], given.offsets)), pooling(given))
    alone = torch.cat([pooling(given.select(torch.tensor([row]))) for row in range(len(given))])
    torch.testing.assert_close(pooling(given), alone)
    weights = torch.tensor([1, 3, 2, 1, 1, 2, 4, 1, 1, 3, 5, 2])
    lengths = torch.tensor([int(row.sum()) for row in weights.split(LENGTHS)])
    repeated = Ragged.from_lengths(given.values.repeat_interleave(weights, 0), lengths)
    torch.testing.assert_close(pooling(given, weights.double()), pooling(repeated))


def test_rows_of_nothing() -> None:
    pooling = trained()
    for offsets in ([0, 0], [0, 0, 0], [0]):
        nothing = Ragged(torch.zeros(0, SIZE).double(), torch.tensor(offsets))
        assert torch.equal(pooling(nothing), torch.zeros(len(offsets) - 1, SIZE).double())


def test_it_tells_a_conjunction_from_its_parts() -> None:
    """{a, b} and {c, d} against {a, d} and {c, b}: all four values are on both sides. So no linear layer on
    means whose weights ignore the company separates them. A product does."""
    a, b, c, d = torch.eye(4).double()
    rows = Ragged.from_lengths(torch.stack([a, b, c, d, a, d, c, b]), torch.tensor([2, 2, 2, 2]))
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0]).double()
    pooling = ConjunctionPooling(dimension=4).double()
    with torch.no_grad():  # x_j * V x_k is not 0 where a meets b, or c meets d
        pooling.second_value.bias.zero_()
        pooling.second_value.weight.copy_(torch.tensor([[0, 1, 0, 0], [0] * 4, [0, 0, 0, 1], [0] * 4]))
    assert (pooling(rows).sum(1) > 0).tolist() == (sign > 0).tolist()
    for other in (MeanPooling(), AttentionPooling(dimension=4).double()):
        vectors = other(rows)
        assert (sign @ vectors).abs().max() < 1e-12  # of any linear score the sum over signs is 0


def test_more_than_32_values_are_refused_and_32_are_not() -> None:
    pooling = ConjunctionPooling(dimension=SIZE)
    assert pooling(states([32, 1])).shape == (2, SIZE)
    with pytest.raises(ValueError, match=r"at most 32 values of an item; item 1 of this batch has 33"):
        pooling(states([1, 33]))
    with pytest.raises(ValueError, match="Set most_values=33 or more"):
        pooling(states([1, 33]))
    given = states([1, 33])
    torch.testing.assert_close(
        ConjunctionPooling(dimension=SIZE, most_values=33)(given), MeanPooling()(given)
    )
    with pytest.raises(ValueError, match="most_values is 0"):
        ConjunctionPooling(most_values=0)


def test_half_precision_is_pooled_in_single() -> None:
    pooling, given = ConjunctionPooling(dimension=SIZE), states()
    half = Ragged(given.values.bfloat16(), given.offsets)
    found = pooling(half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, MeanPooling()(half))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="3 heads don't divide 8"):
        ConjunctionPooling(heads=3, dimension=SIZE)
    with pytest.raises(ValueError, match="heads is 0"):
        ConjunctionPooling(heads=0)
    with pytest.raises(ValueError, match="hidden is 0"):
        ConjunctionPooling(hidden=0)
    with pytest.raises(RuntimeError, match="dimension"):
        ConjunctionPooling()(states())
    with pytest.raises(ValueError, match="for 8 components, the states have 4"):
        ConjunctionPooling(dimension=8).build(4)
