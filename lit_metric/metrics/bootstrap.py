"""How far a mean over queries may be from that over all queries that there could be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Columns = NDArray[np.float64]

LEVEL = 0.95
"""Share of the resampled means that an interval holds."""
_BLOCK = 2**22


def resampled_means(
    values: Columns, weights: Columns | None = None, resamples: int = 1000, seed: int = 0
) -> Columns:
    """Means of columns over queries that are drawn with replacement (Efron, "Bootstrap Methods: Another Look
    at the Jackknife", 1979).

    All columns see the same draws. So the difference of two columns of the result is that of a paired test.

    Args:
        values: ``[q, m]``; NaN where a query has no value.
        weights: ``[q, m]`` at least 0, how much each value counts; equally if None.
        resamples: how many draws of ``q`` queries, at least 1.
        seed: of the draws.

    Returns:
        ``[resamples, m]``; NaN where no drawn query has a value.

    Raises:
        ValueError: when shapes differ, or ``resamples`` is below 1.

    Example:
        >>> means = resampled_means(np.array([[0.0, 1.0], [1.0, 2.0]]), resamples=100)
        >>> sorted({*means[:, 0].tolist()}), bool((means[:, 1] - means[:, 0] == 1).all())
        ([0.0, 0.5, 1.0], True)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or (weights is not None and np.shape(weights) != values.shape):
        raise ValueError(f"values must be [q, m] and weights of that shape, got {values.shape}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    known = ~np.isnan(values)
    mass = known.astype(np.float64) if weights is None else np.where(known, weights, 0.0)
    sums = np.where(known, values, 0.0) * mass
    queries, random = len(values), np.random.default_rng(seed)
    means = np.full((resamples, values.shape[1]), np.nan)
    rows = max(1, _BLOCK // max(queries, 1))
    for start in range(0, resamples if queries else 0, rows):
        # How often each query is drawn is all that the mean depends on.
        counts = np.stack(
            [
                np.bincount(random.integers(0, queries, queries), minlength=queries)
                for _ in range(min(rows, resamples - start))
            ]
        ).astype(np.float64)
        drawn = counts @ mass
        means[start : start + rows] = np.divide(
            counts @ sums, drawn, out=np.full_like(drawn, np.nan), where=drawn > 0
        )
    return means


def percentile_interval(means: NDArray[np.float64]) -> tuple[float, float] | None:
    """The bounds between which ``LEVEL`` of the resampled means ``[r]`` lie; None if there are none.

    Example:
        >>> percentile_interval(np.array([0.5, np.nan, 0.5]))
        (0.5, 0.5)
    """
    known = means[~np.isnan(means)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
