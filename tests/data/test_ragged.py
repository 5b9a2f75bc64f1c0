"""Ragged arrays against plain lists of lists."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_metric.data import Ragged
from lit_metric.data.ragged import offsets_of

ROWS = [[5, 6, 7], [], [1], [], [], [2, 3]]


def test_rows_lengths_and_places():
    ragged = Ragged.from_lists(ROWS)
    assert ragged.tolist() == ROWS
    assert len(ragged) == 6
    assert [ragged[row].tolist() for row in range(6)] == ROWS
    assert ragged[-1].tolist() == [2, 3]
    assert ragged.offsets.tolist() == [0, 3, 3, 4, 4, 4, 6]
    assert ragged.lengths.tolist() == [len(row) for row in ROWS]
    assert ragged.segment_ids.tolist() == [row for row, values in enumerate(ROWS) for _ in values]
    assert ragged.positions.tolist() == [place for values in ROWS for place in range(len(values))]


@pytest.mark.parametrize("row", [6, -7])
def test_a_row_that_is_not_there(row):
    with pytest.raises(IndexError, match=f"row {row} of 6"):
        Ragged.from_lists(ROWS)[row]


@pytest.mark.parametrize("rows", [[5, 0, 1, 0, 2, 2], [1, 3], []])
def test_select_repeats_and_reorders(rows):
    selected = Ragged.from_lists(ROWS).select(torch.tensor(rows, dtype=torch.int64))
    assert selected.tolist() == [ROWS[row] for row in rows]


def test_select_of_vectors_keeps_gradients():
    values = torch.arange(12.0).reshape(6, 2).requires_grad_()
    selected = Ragged.from_lengths(values, torch.tensor([2, 0, 4])).select(torch.tensor([2, 0, 2]))
    assert selected.offsets.tolist() == [0, 4, 6, 10]
    selected.values.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1, 1]] * 2 + [[2, 2]] * 4


def test_nothing_at_all():
    empty = Ragged.from_lists([])
    assert (len(empty), empty.tolist(), empty.segment_ids.tolist(), empty.positions.tolist()) == (
        0,
        [],
        [],
        [],
    )
    assert Ragged.from_lists([[], []]).tolist() == [[], []]


def test_copies_are_equal():
    ragged = Ragged.from_lists(ROWS)
    for other in (ragged.to("cpu", non_blocking=True), copy.deepcopy(ragged)):
        assert other.tolist() == ROWS


def test_offsets_of_narrow_lengths_do_not_overflow():
    assert offsets_of(torch.tensor([200, 200], dtype=torch.uint8)).tolist() == [0, 200, 400]
