"""Segment operations against loops over rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.segments import (
    segment_max,
    segment_mean,
    segment_softmax,
    segment_spread,
    segment_sum,
    take_rows,
)
from tests.encoders.gradients import assert_equal_with_gradients

LENGTHS = torch.tensor([3, 0, 1, 5, 0, 2])


def ragged(columns: int = 4, dtype: torch.dtype = torch.float64) -> Ragged:
    values = torch.randn(int(LENGTHS.sum()), columns, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return Ragged.from_lengths(values, LENGTHS)


def rows(values: Ragged, reduce: object) -> Tensor:
    zero = torch.zeros(values.values.shape[1], dtype=values.values.dtype)
    return torch.stack([reduce(values[r]) if len(values[r]) else zero for r in range(len(values))])  # type: ignore[operator]


def test_reductions_equal_loops() -> None:
    values = ragged()
    torch.testing.assert_close(segment_sum(values), rows(values, lambda row: row.sum(0)))
    torch.testing.assert_close(segment_mean(values), rows(values, lambda row: row.mean(0)))
    torch.testing.assert_close(segment_max(values), rows(values, lambda row: row.amax(0)))


def test_softmax_equals_loops_also_for_huge_scores() -> None:
    values = ragged()
    values = Ragged(values.values * 300, values.offsets)
    expected = torch.cat([values[row].softmax(0) for row in range(len(values))])
    torch.testing.assert_close(segment_softmax(values), expected)


def test_gradients() -> None:
    values = ragged(2)
    given = values.values.clone().requires_grad_()

    def of(reduce: object) -> object:
        return lambda x: reduce(Ragged(x, values.offsets))  # type: ignore[operator]

    for reduce in (segment_sum, segment_mean, segment_max, segment_softmax):
        assert torch.autograd.gradcheck(of(reduce), given)
    for reduce in (segment_sum, segment_softmax):
        assert torch.autograd.gradgradcheck(of(reduce), given)
    per_row = torch.randn(len(values), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: segment_spread(x, values), per_row)


def test_half_precision_accumulates_in_float32() -> None:
    # in bfloat16, 256 + 1 is 256
    values = torch.cat([torch.tensor([256.0]), torch.ones(256)]).bfloat16()
    found = segment_sum(Ragged(values, torch.tensor([0, 257])))
    assert found.dtype == torch.float32
    assert found.item() == 512


def test_empty_input() -> None:
    nothing = Ragged(torch.zeros(0, 3), torch.tensor([0, 0, 0]))
    for reduce in (segment_sum, segment_mean, segment_max):
        assert torch.equal(reduce(nothing), torch.zeros(2, 3))
    assert segment_softmax(nothing).shape == (0, 3)


@pytest.mark.parametrize("index", [[2, 0, 2, 2, 1], [], [0], [3, 3]])
def test_taking_rows_is_indexing(index: list[int]) -> None:
    matrix = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    chosen = torch.tensor(index, dtype=torch.int64)
    assert torch.equal(take_rows(matrix, chosen), matrix[chosen])
    assert_equal_with_gradients(take_rows(matrix, chosen), matrix[chosen], [matrix])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_and_repeats_itself_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 50, (200,), generator=generator)
    values = Ragged.from_lengths(torch.randn(int(lengths.sum()), 64, generator=generator), lengths)
    there = values.to("cuda")
    for reduce in (segment_sum, segment_mean, segment_max, segment_softmax):
        first = reduce(there)
        torch.testing.assert_close(first.cpu(), reduce(values), atol=1e-4, rtol=1e-5)
        assert all(torch.equal(reduce(there), first) for _ in range(5))
    index = torch.randint(0, 100, (20000,), generator=generator)
    matrix = torch.randn(100, 64, requires_grad=True)
    (expected,) = torch.autograd.grad(take_rows(matrix, index).square().sum(), matrix)
    on_device = matrix.detach().cuda().requires_grad_()
    found = [
        torch.autograd.grad(take_rows(on_device, index.cuda()).square().sum(), on_device)[0] for _ in range(5)
    ]
    torch.testing.assert_close(found[0].cpu(), expected, atol=1e-2, rtol=1e-4)
    assert all(torch.equal(found[0], other) for other in found)
