"""Resampled means against a loop and scipy, and intervals of a paired change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from lit_metric.metrics import percentile_interval, resampled_means


def test_means_are_those_of_a_loop_over_the_same_draws() -> None:
    draw = np.random.default_rng(3)
    values, weights = draw.normal(size=(7, 3)), draw.integers(1, 4, (7, 3)).astype(float)
    values[2, 1] = values[5, 1] = np.nan
    random = np.random.default_rng(11)
    found = resampled_means(values, weights, resamples=20, seed=11)
    for row in range(20):
        places = random.integers(0, 7, 7).tolist()
        for column in range(3):
            counted = [each for each in places if not np.isnan(values[each, column])]
            total = sum(weights[each, column] for each in counted)
            expected = sum(values[each, column] * weights[each, column] for each in counted) / total
            assert found[row, column] == pytest.approx(expected)


def test_the_interval_of_a_paired_change_is_that_of_scipy() -> None:
    draw = np.random.default_rng(0)
    before = draw.integers(0, 2, 400).astype(float)
    after = np.maximum(before, draw.integers(0, 2, 400))
    means = resampled_means(np.stack([before, after], axis=1), resamples=4000)
    low, high = percentile_interval(means[:, 1] - means[:, 0]) or (0.0, 0.0)
    expected = bootstrap(
        (before, after),
        lambda old, new, axis: (new - old).mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.005)
    # Much narrower than if the two were resampled apart.
    apart = means[:, 1] - resampled_means(before[:, None], resamples=4000, seed=7)[:, 0]
    assert high - low < 0.8 * np.subtract(*np.quantile(apart, [0.975, 0.025]))


def test_where_there_is_nothing_there_is_no_interval() -> None:
    assert percentile_interval(resampled_means(np.full((3, 1), np.nan), resamples=5)[:, 0]) is None
    assert percentile_interval(resampled_means(np.zeros((0, 1)), resamples=5)[:, 0]) is None
    with pytest.raises(ValueError, match="resamples"):
        resampled_means(np.zeros((2, 1)), resamples=0)
    with pytest.raises(ValueError, match=r"\[q, m\]"):
        resampled_means(np.zeros(2))
