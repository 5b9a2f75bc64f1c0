"""The shape of a space, and the test of two runs, against numbers computed by hand."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch
from scipy.stats import skew

from lit_metric.evaluation import Measured
from lit_metric.metrics import QueryValues
from lit_metric.report.measures import (
    compare,
    difference,
    effective_dimensions,
    health_of,
    hubs,
    metric_rows,
)


def test_mcnemar_s_test_is_the_binomial_tail_of_the_flips() -> None:
    # 9 queries became right and 2 wrong; 5 + 4 didn't change, and one isn't asked.
    first = np.array([0] * 9 + [1] * 2 + [1] * 5 + [0] * 4 + [-1], np.int32)
    second = np.array([1] * 9 + [0] * 2 + [1] * 5 + [0] * 4 + [1], np.int32)
    scores = np.linspace(0.2, 0.9, len(first)).astype(np.float32)
    found = compare(("a", "b"), first, second, np.arange(len(first), dtype=np.int32), (scores, 1 - scores))
    assert (found.gained, found.lost) == (9, 2)
    # Twice the probability of 2 or fewer of 11 by a fair coin: 2 (1 + 11 + 55) / 2048.
    assert found.p_value == pytest.approx(134 / 2048)
    assert found.p_value == pytest.approx(2 * sum(comb(11, k) for k in range(3)) / 2**11)
    # The surest mistake comes first: 0.2 .. 0.48 in the first run, 0.485 and 0.45 in the second.
    mistaken = [scores[flip.item] if flip.second_right else 1 - scores[flip.item] for flip in found.flips]
    assert mistaken == sorted(mistaken, reverse=True)
    assert len(found.flips) == 11
    same = compare(("a", "b"), first, first, np.arange(len(first), dtype=np.int32), (scores, scores))
    assert (same.gained, same.lost, same.p_value, same.flips) == (0, 0, 1.0, [])


def test_effective_dimensions_are_those_of_the_covariance() -> None:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(50, 6)) * [3, 2, 1, 0.5, 0.2, 0.1] + 1
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(np.cov(unit.T))
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_dimensions(torch.from_numpy(points)) == pytest.approx(expected)
    assert effective_dimensions(torch.ones(5, 3)) == 1.0
    assert effective_dimensions(torch.ones(1, 3)) is None


def test_hubs_are_counted_among_what_is_searched() -> None:
    neighbours = np.array([[1, 2], [2, -1], [1, 3], [1, 2], [-1, -1]], np.int32)
    searched = np.array([False, True, True, True, True])
    found, never = hubs(neighbours, searched)
    assert (found, never) == (pytest.approx(skew([3, 3, 1, 0])), 0.25)
    assert hubs(np.full((3, 2), -1, np.int32), np.ones(3, bool)) == (None, None)
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    health = health_of([None, vectors], [None, np.array([[2], [0], [0]])], np.ones(3, bool))
    assert health.never_found == (None, pytest.approx(1 / 3))
    assert health.mean_cosine == (None, pytest.approx(1 / 3))


def test_rows_have_the_written_values_and_the_intervals_of_those_measured() -> None:
    ids = torch.arange(4)

    def measured(values: list[float]) -> Measured:
        column = torch.tensor(values)
        queries = QueryValues(ids, {"mrr": column}, {}, ids)
        return Measured(
            {"mrr": float(column.mean()), "uniformity": -1.0, "effective_rank": 3.0}, {"": queries}
        )

    old, new = measured([0.0, 0.5, 1.0, 0.5]), measured([0.5, 1.0, 1.0, 1.0])
    written = {"before": {"mrr": 0.5, "nmi": None}, "after": {"mrr": 0.875}}
    rows = {row.name: row for row in metric_rows(old, new, ["mrr"], written)}
    assert [*rows] == ["mrr", "effective_rank", "uniformity"]
    assert [rows[name].better for name in rows] == ["higher", "", "lower"]
    mrr = rows["mrr"]
    assert (mrr.before.value, mrr.after.value, mrr.change.value, mrr.queries) == (0.5, 0.875, 0.375, 4)
    assert (mrr.change.low, mrr.change.high) == (0.125, 0.5)  # of 0.5, 0.5, 0, 0.5, four drawn
    assert rows["uniformity"].change.low is None
    assert difference(new, {"mrr": 0.8755, "effective_rank": 9.0}) is None
    # What the run has written comes before what the same queries would give now.
    own = {"before": [0.25, 0.75], "after": [0.625, 1.0], "change": [0.125, 0.625], "queries": 7}
    [row] = [
        each for each in metric_rows(old, new, (), written | {"intervals": {"mrr": own}}) if each.queries
    ]
    assert [row.before.low, row.after.high, row.change.low, row.change.high] == [0.25, 1.0, 0.125, 0.625]
    assert row.queries == 7
    assert difference(new, {"mrr": 0.88}, tolerance=0.01) is None
    assert difference(new, {"mrr": 0.88, "other": 1.0}) == ("mrr", 0.88, 0.875)
