"""Differences beside scipy's paired test, and the rule that makes words of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.methods.verdicts import Difference, compare
from benchmarks.results import BenchmarkError


def runs(values: dict[int, list[float | None]]) -> dict[int, Any]:
    """Runs by seed with these values of queries."""
    return {
        seed: {
            "test": {"a": float(np.mean([one for one in each if one is not None]))},
            "queries": {"a": each},
        }
        for seed, each in values.items()
    }


def test_both_intervals_beside_scipy() -> None:
    random = np.random.default_rng(0)
    ours, others = random.normal(0.1, 1, (3, 200)), random.normal(0, 1, (3, 200))
    found = compare(*(runs(dict(enumerate(each.tolist()))) for each in (ours, others)), "a")
    test = stats.ttest_rel(ours.mean(axis=1), others.mean(axis=1))
    assert found.mean == pytest.approx(ours.mean() - others.mean())
    assert found.over_seeds == pytest.approx(tuple(test.confidence_interval(0.95)))
    of_queries = (ours - others).mean(axis=0)
    error = of_queries.std(ddof=1) / 200**0.5
    expected = [found.mean - 1.96 * error, found.mean + 1.96 * error]
    assert found.over_queries == pytest.approx(expected, abs=0.15 * error * 2)


def test_queries_without_a_value_are_left_out() -> None:
    ours, others = runs({0: [1.0, None, 3.0]}), runs({0: [0.0, None, 2.0]})
    found = compare(ours, others, "a")
    assert (found.mean, found.over_seeds, found.over_queries) == (1.0, None, (1.0, 1.0))


def test_only_seeds_that_both_have_are_compared() -> None:
    ours, others = runs({0: [1.0], 1: [2.0], 2: [9.0]}), runs({0: [0.0], 1: [1.0]})
    others[2] = {"status": "diverged"}
    assert compare(ours, others, "a").seeds == [1.0, 1.0]
    assert compare(ours, {2: others[2]}, "a") is None


def test_other_queries_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="different numbers of queries"):
        compare(runs({0: [1.0, 2.0]}), runs({0: [1.0]}), "a")


@pytest.mark.parametrize(
    ("seeds", "queries", "verdict"),
    [
        ((0.01, 0.03), (0.01, 0.02), "helps"),
        ((-0.03, -0.01), (-0.02, -0.01), "hurts"),
        ((-0.01, 0.03), (0.01, 0.02), "no difference seen"),  # the seeds disagree
        ((0.01, 0.03), (-0.01, 0.02), "no difference seen"),  # so may other queries
        ((0.01, 0.03), None, "helps"),
        (None, None, "no difference seen"),  # a single seed, and nothing by query
    ],
)
def test_every_interval_must_exclude_zero(seeds: Any, queries: Any, verdict: str) -> None:
    assert Difference(0.02, seeds, queries, [0.02]).verdict == verdict


@pytest.mark.parametrize(
    ("seeds", "outcome"),
    [
        ((-0.005, 0.3), "confirmed"),
        ((-0.02, 0.01), "not seen"),
        ((-0.03, -0.02), "the opposite seen"),
        ((-0.009, -0.001), "confirmed"),  # lower, but by less than counts
    ],
)
def test_not_lower_leaves_room_for_a_hundredth(seeds: Any, outcome: str) -> None:
    assert Difference(0.0, seeds, None, [0.0]).claim("not lower") == outcome
    assert Difference(0.0, None, None, [0.0]).claim("not lower") == "not seen"
