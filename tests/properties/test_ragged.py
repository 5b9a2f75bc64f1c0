"""Ragged arrays and sums over their rows, against lists of lists."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_metric.data import Ragged
from lit_metric.data.ragged import offsets_of
from lit_metric.data.relations.lookup import PairSet, Sorted, spread
from lit_metric.encoders.pooling import drop_leading, drop_values
from lit_metric.encoders.segments import (
    segment_max,
    segment_mean,
    segment_softmax,
    segment_spread,
    segment_sum,
    take_rows,
)
from tests.peers.cases import count

NUMBERS = st.integers(-1000, 1000)
ROWS = st.lists(st.lists(NUMBERS, max_size=6), max_size=8)
REALS = st.floats(-100, 100, width=32)
REAL_ROWS = st.lists(st.lists(REALS, max_size=6), max_size=8)


def reals(rows: list[list[float]]) -> Ragged:
    return Ragged.from_lists(rows, dtype=torch.float64)  # type: ignore[arg-type]


@given(ROWS)
def test_it_is_a_list_of_lists(rows: list[list[int]]) -> None:
    count("property", "ragged arrays")
    ragged = Ragged.from_lists(rows)
    assert ragged.tolist() == rows
    assert len(ragged) == len(rows)
    assert [ragged[place].tolist() for place in range(-len(rows), len(rows))] == rows + rows
    assert ragged.lengths.tolist() == [*map(len, rows)]
    assert ragged.segment_ids.tolist() == [place for place, row in enumerate(rows) for _ in row]
    assert ragged.positions.tolist() == [place for row in rows for place in range(len(row))]
    assert Ragged.from_lengths(ragged.values, ragged.lengths).tolist() == rows
    assert offsets_of(ragged.lengths).tolist() == ragged.offsets.tolist()


@given(st.data())
def test_select(data: st.DataObject) -> None:
    count("property", "ragged arrays")
    rows = data.draw(ROWS)
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12)) if rows else []
    chosen = Ragged.from_lists(rows).select(torch.tensor(places, dtype=torch.int64))
    assert chosen.tolist() == [rows[place] for place in places]
    again = data.draw(st.permutations(range(len(places))))
    twice = chosen.select(torch.tensor(again, dtype=torch.int64))
    assert twice.tolist() == [rows[places[place]] for place in again]


@given(REAL_ROWS)
def test_sums_over_rows(rows: list[list[float]]) -> None:
    count("property", "ragged arrays")
    ragged = reals(rows)
    torch.testing.assert_close(segment_sum(ragged).tolist(), [math.fsum(row) for row in rows])
    means = [math.fsum(row) / len(row) if row else 0.0 for row in rows]
    torch.testing.assert_close(segment_mean(ragged).tolist(), means)
    if any(rows):
        assert segment_max(ragged).tolist() == [max(row, default=0.0) for row in rows]
    each = torch.arange(len(rows)).double()
    assert segment_spread(each, ragged).tolist() == ragged.segment_ids.tolist()
    softmax = [value for row in rows for value in torch.tensor(row, dtype=torch.float64).softmax(0).tolist()]
    torch.testing.assert_close(segment_softmax(ragged).tolist(), softmax)


@given(REAL_ROWS, st.data())
def test_weighted_means_and_gradients(rows: list[list[float]], data: st.DataObject) -> None:
    count("property", "ragged arrays")
    ragged = reals(rows)
    size = len(ragged.values)
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=size, max_size=size))
    given_weights = torch.tensor(weights, dtype=torch.float64)
    parts = given_weights.split(ragged.lengths.tolist())
    expected = [
        float((own / own.sum() * torch.tensor(row, dtype=torch.float64)).sum()) if row else 0.0
        for row, own in zip(rows, parts, strict=True)
    ]
    torch.testing.assert_close(segment_mean(ragged, given_weights).tolist(), expected)
    values = ragged.values.clone().requires_grad_()
    factors = torch.arange(1.0, len(rows) + 1).double()
    (segment_sum(Ragged(values, ragged.offsets)) * factors).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [place + 1.0 for place in ragged.segment_ids.tolist()]


@given(st.data())
def test_rows_taken_many_times_add_their_gradients(data: st.DataObject) -> None:
    count("property", "ragged arrays")
    size = data.draw(st.integers(1, 8))
    places = data.draw(st.lists(st.integers(0, size - 1), max_size=12))
    rows = torch.arange(2.0 * size).view(size, 2).requires_grad_()
    index = torch.tensor(places, dtype=torch.int64)
    taken = take_rows(rows, index)
    assert taken.tolist() == rows[index].tolist()
    taken.sum().backward()
    assert rows.grad is not None
    assert rows.grad[:, 0].tolist() == [float(places.count(place)) for place in range(size)]


@given(st.data())
def test_values_left_out(data: st.DataObject) -> None:
    count("property", "ragged arrays")
    rows = data.draw(ROWS)
    ragged = Ragged.from_lists(rows)
    numbers = data.draw(st.lists(st.integers(0, 8), min_size=len(rows), max_size=len(rows)))
    left = drop_leading(ragged, torch.tensor(numbers, dtype=torch.int64))
    assert left.tolist() == [row[number:] for row, number in zip(rows, numbers, strict=True)]
    torch.manual_seed(data.draw(st.integers(0, 100)))
    kept = drop_values(ragged, data.draw(st.floats(0, 1))).tolist()
    for before, after in zip(rows, kept, strict=True):
        places = iter(before)
        assert all(value in places for value in after)  # a part of it, in order
        assert bool(after) == bool(before)


PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


@given(PAIRS, st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(0, 9), max_size=8))
def test_sets_of_pairs(pairs: list[tuple[int, int]], rows: list[int], columns: list[int]) -> None:
    count("property", "ragged arrays")
    first, second = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    known = PairSet.of(first, second, 10)
    assert [*zip(*(side.tolist() for side in known.pairs()), strict=True)] == sorted({*pairs})
    one, other = torch.tensor(rows, dtype=torch.int64), torch.tensor(columns, dtype=torch.int64)
    expected = [[(row, column) in pairs for column in columns] for row in rows]
    assert known.contains(one[:, None], other).tolist() == expected
    assert known.rows(one).tolist() == [sorted({c for r, c in pairs if r == row}) for row in rows]
    found = {
        (int(row), int(column)) for row, column, _ in zip(*known.join(one, Sorted.of(other)), strict=True)
    }
    assert found == {(r, c) for r in range(len(rows)) for c in range(len(columns)) if expected[r][c]}
    turned = known.turned(second)
    assert turned.contains(second, first).all()
    assert len(turned) == len(known)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_ranges_laid_end_to_end(ranges: list[tuple[int, int]]) -> None:
    count("property", "ragged arrays")
    starts, lengths = torch.tensor(ranges, dtype=torch.int64).reshape(-1, 2).unbind(1)
    owners, members = spread(starts, lengths)
    assert [*zip(owners.tolist(), members.tolist(), strict=True)] == [
        (place, start + step) for place, (start, length) in enumerate(ranges) for step in range(length)
    ]
