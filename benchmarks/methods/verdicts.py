"""Whether a method helps, by a rule that was fixed before anything was measured.

Two arms are compared by paired differences: of the same seed, and of the same test query. The difference has
two intervals of 95%: over seeds, by Student's t with one degree of freedom fewer than seeds; and over
queries, by a bootstrap of each query's mean over seeds. A method *helps* if every interval that exists lies
above 0, it *hurts* if every one lies below 0, and otherwise there is *no difference seen*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.results import BenchmarkError
from lit_metric.metrics.bootstrap import LEVEL, percentile_interval, resampled_means

Bounds = tuple[float, float]
Expected = Literal["up", "down", "same", "not lower"]
WORDS = {1: "helps", 0: "no difference seen", -1: "hurts"}
SAME = 0.01
"""Within this, two scores count as equal, where a claim says that they are."""


class Difference(NamedTuple):
    """How an arm differs from another.

    Args:
        mean: over seeds and queries.
        over_seeds: 95% bounds, None of fewer than two seeds.
        over_queries: 95% bounds, None where the measure has no value of its own for each query.
        seeds: the difference of each seed.
    """

    mean: float
    over_seeds: Bounds | None
    over_queries: Bounds | None
    seeds: list[float]

    @property
    def intervals(self) -> list[Bounds]:
        """Those that exist."""
        return [each for each in (self.over_seeds, self.over_queries) if each is not None]

    @property
    def sign(self) -> int:
        """1 if all intervals lie above 0, −1 if all lie below, else 0; 0 where there is none."""
        if not self.intervals:
            return 0
        if all(low > 0 for low, _ in self.intervals):
            return 1
        return -1 if all(high < 0 for _, high in self.intervals) else 0

    @property
    def verdict(self) -> str:
        """The sign in words."""
        return WORDS[self.sign]

    def claim(self, expected: Expected) -> str:
        """What became of a claim: ``confirmed``, ``not seen`` or ``the opposite seen``.

        That two scores are the ``same`` is confirmed if all intervals lie within ``SAME`` of 0; that one is
        ``not lower`` if they lie above ``-SAME``.

        Example:
            >>> better = Difference(0.2, (0.1, 0.3), (0.15, 0.25), [0.2, 0.2])
            >>> better.claim("up"), better.claim("down"), better.claim("same")
            ('confirmed', 'the opposite seen', 'the opposite seen')
            >>> Difference(0.0, (-0.005, 0.005), None, [0.0, 0.0]).claim("same")
            'confirmed'
        """
        if expected == "not lower":
            above = bool(self.intervals) and all(low > -SAME for low, _ in self.intervals)
            return "confirmed" if above else "the opposite seen" if self.sign < 0 else "not seen"
        if expected == "same":
            within = bool(self.intervals) and all(low > -SAME and high < SAME for low, high in self.intervals)
            return "confirmed" if within else "the opposite seen" if self.sign else "not seen"
        wanted = 1 if expected == "up" else -1
        return {wanted: "confirmed", 0: "not seen", -wanted: "the opposite seen"}[self.sign]


def t_interval(values: Sequence[float]) -> Bounds | None:
    """The 95% interval of a mean by Student's t; None of fewer than two values.

    Example:
        >>> low, high = t_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)  # 2 ± 4.303 · 1 / √3
        (-0.484, 4.484)
    """
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean - reach, mean + reach


def compare(
    runs: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, Any]], measure: str
) -> Difference | None:
    """An arm's runs by seed minus another arm's.

    Args:
        runs, others: results by seed, with ``test`` (figures by name) and ``queries`` (lists of values by
            name, None where a query has none).
        measure: the name.

    Returns:
        None if no seed has both.

    Raises:
        BenchmarkError: the queries of two runs differ in number.
    """
    seeds = [
        seed
        for seed in runs
        if seed in others and all(_known(each[seed], measure) for each in (runs, others))
    ]
    if not seeds:
        return None
    each = [runs[seed]["test"][measure] - others[seed]["test"][measure] for seed in seeds]
    lists = [(runs[seed]["queries"].get(measure), others[seed]["queries"].get(measure)) for seed in seeds]
    over_queries = None
    if all(one is not None and other is not None for one, other in lists):
        if len({len(values) for pair in lists for values in pair}) > 1:
            raise BenchmarkError(f"{measure}: the runs have different numbers of queries")
        pairs = [[np.asarray(values, np.float64) for values in pair] for pair in lists]
        columns = np.mean([one - other for one, other in pairs], axis=0)
        over_queries = percentile_interval(resampled_means(columns[:, None])[:, 0])
    return Difference(float(np.mean(each)), t_interval(each), over_queries, each)


def _known(run: Mapping[str, Any], measure: str) -> bool:
    value = run.get("test", {}).get(measure)
    return value is not None and math.isfinite(value)
