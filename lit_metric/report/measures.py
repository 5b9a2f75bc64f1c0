"""The metrics before and after with their intervals, the shape of the space, and a test of two runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest, skew
from torch import Tensor
from torch.nn import functional as F

from lit_metric.evaluation import Intervals, Measured, intervals
from lit_metric.metrics import mean_pairwise_cosine
from lit_metric.report.structure import Comparison, Flip, Floats, Health, Interval, Ints, MetricRow

LOWER = ("alignment", "uniformity", "hubness")
NEITHER = ("effective_rank", "queries_without_positive", "queries_without_voter")
RESAMPLES = 1000
TOLERANCE, HALF_TOLERANCE = 1e-3, 2e-2
"""How far a metric that is measured again, in float32 or in half precision, may be from that of the run
before the report says so."""
HUB = 10
"""Neighbours among which an item is looked for, to see how often it is found."""


def metric_rows(
    before: Measured | None,
    after: Measured | None,
    first: Sequence[str] = (),
    written: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[MetricRow]:
    """A row for each metric, those that matter most first.

    Args:
        before, after: measured; None: unknown.
        first: names of the metrics that matter most.
        written: the content of ``metrics.json``, whose values and intervals count where they are. None: those
            measured now.
        seed: of the bootstrap.
    """
    values = [
        {
            **({} if found is None else found.values),
            **{name: value for name, value in ((written or {}).get(when) or {}).items() if value is not None},
        }
        for when, found in (("before", before), ("after", after))
    ]
    names = [*dict.fromkeys([*first, *sorted(values[1]), *sorted(values[0])])]
    paired = {
        name: Intervals(
            before=tuple(each["before"]),
            after=tuple(each["after"]),
            change=tuple(each["change"]),
            queries=each["queries"],
        )
        for name, each in ((written or {}).get("intervals") or {}).items()
    }
    if not paired and before is not None and after is not None:
        paired = intervals(before, after, RESAMPLES, seed)
    alone = intervals(after, after, RESAMPLES, seed) if after is not None and not paired else {}
    rows = []
    for name in names:
        old, new = (_finite(each.get(name)) for each in values)
        if old is None and new is None:
            continue
        change = None if old is None or new is None else new - old
        base = name.rpartition("/")[2]
        bounds, own = paired.get(name), paired.get(name) or alone.get(name)
        rows.append(
            MetricRow(
                name=name,
                before=Interval(old, *(bounds.before if bounds and old is not None else (None, None))),
                after=Interval(new, *(own.after if own and new is not None else (None, None))),
                change=Interval(change, *(bounds.change if bounds and change is not None else (None, None))),
                queries=own.queries if own else 0,
                better="lower" if base in LOWER else "" if base in NEITHER else "higher",
            )
        )
    return rows


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def difference(
    measured: Measured | None, written: Mapping[str, Any] | None, tolerance: float = TOLERANCE
) -> tuple[str, float, float] | None:
    """The metric that is farthest from what ``metrics.json`` says, if any is beyond the tolerance.

    Metrics that count dimensions or queries aren't compared.

    Returns:
        Its name, the value written and the value measured; None where all agree or nothing can be compared.
    """
    if measured is None or not written:
        return None
    pairs = [
        (name, float(value), measured.values[name])
        for name, value in written.items()
        if value is not None and name in measured.values and name.rpartition("/")[2] not in NEITHER
    ]
    far = [each for each in pairs if not abs(each[1] - each[2]) <= tolerance]
    return max(far, key=lambda each: abs(each[1] - each[2]), default=None)


def effective_dimensions(vectors: Tensor) -> float | None:
    """``exp(−Σ p log p)`` of the shares ``p`` that the eigenvalues of the covariance of unit vectors
    ``[n, d]`` have of their sum: 1 on a line, d where all directions vary alike. None of fewer than two.

    Example:
        >>> round(effective_dimensions(torch.cat([torch.eye(3), -torch.eye(3)])), 3)
        3.0
    """
    if len(vectors) < 2:
        return None
    unit = F.normalize(vectors.double(), dim=1)
    shares = torch.linalg.eigvalsh(torch.cov(unit.T)).clamp(min=0) if unit.shape[1] > 1 else torch.ones(1)
    shares = shares[shares > shares.sum() * 1e-12]
    if not len(shares):
        return 1.0
    shares = shares / shares.sum()
    return float((-shares * shares.log()).sum().exp())


def hubs(neighbours: Ints, found: np.ndarray) -> tuple[float | None, float | None]:
    """Skewness of how often an item is among the nearest of others, and the share that never is.

    Args:
        neighbours: ``[N, K]`` places, -1 for none; the first ``HUB`` columns count.
        found: ``[N]`` bool, which items are searched by any.
    """
    places = neighbours[:, :HUB]
    counts = np.bincount(places[places >= 0], minlength=len(neighbours))[found]
    if not len(counts) or not counts.sum():
        return None, None
    return (0.0 if (counts == counts[0]).all() else float(skew(counts))), float((counts == 0).mean())


def health_of(
    vectors: Sequence[Tensor | None], neighbours: Sequence[Ints | None], found: np.ndarray
) -> Health:
    """The shape of the space before and after.

    Args:
        vectors: before and after, ``[N, d]``; None: unknown.
        neighbours: before and after; see :func:`hubs`.
        found: ``[N]`` bool, which items are searched by any.
    """
    cosines = [
        None if each is None or len(each) < 2 else float(mean_pairwise_cosine(each)) for each in vectors
    ]
    dimensions = [None if each is None else effective_dimensions(each) for each in vectors]
    skews = [(None, None) if each is None else hubs(each, found) for each in neighbours]
    return Health(
        mean_cosine=(cosines[0], cosines[1]),
        effective_dimensions=(dimensions[0], dimensions[1]),
        hubness=(skews[0][0], skews[1][0]),
        never_found=(skews[0][1], skews[1][1]),
    )


def compare(
    names: tuple[str, str],
    first_right: Ints,
    second_right: Ints,
    shown: Ints,
    scores: tuple[Floats, Floats],
) -> Comparison:
    """Which queries' nearest item is right in one run only, and whether that may be chance.

    Args:
        names: of the runs.
        first_right, second_right: ``[q]`` 1, 0, or -1 for a query that isn't asked.
        shown: ``[q]`` place of each query among the items of the report, -1 for none.
        scores: ``[q]`` cosines of the nearest items in each run. The surer a run was of its mistake, the
            earlier the flip comes.

    Example:
        >>> right = np.array([1, 0, 0]), np.array([0, 1, 1])
        >>> found = compare(("a", "b"), *right, np.arange(3), (np.array([0.9, 0.8, 0.7]),) * 2)
        >>> found.gained, found.lost, found.p_value, [flip.item for flip in found.flips]
        (2, 1, 1.0, [0, 1, 2])
    """
    asked = (first_right >= 0) & (second_right >= 0)
    changed = np.flatnonzero(asked & (first_right != second_right))
    gained = int((second_right[changed] == 1).sum())
    lost = len(changed) - gained
    mistaken = np.where(second_right[changed] == 1, scores[0][changed], scores[1][changed])
    order = changed[np.argsort(-mistaken, kind="stable")]
    flips = [
        Flip(int(shown[each]), bool(first_right[each]), bool(second_right[each]))
        for each in order.tolist()
        if shown[each] >= 0
    ]
    p_value = float(binomtest(gained, len(changed), 0.5).pvalue) if len(changed) else 1.0
    return Comparison(*names, flips, gained, lost, p_value)
