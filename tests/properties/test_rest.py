"""Schedules of learning rates, the report of bad rows, and measures of search, against plain loops."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_metric.data.errors import Problems
from lit_metric.index import ExactIndex
from lit_metric.index.representatives import near_duplicates
from lit_metric.metrics import (
    PairMetrics,
    hit_rate_at_k,
    map_at_k,
    map_at_r,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
    reciprocal_rank,
)
from lit_metric.modules.schedule import multiplier
from tests.peers.cases import count


@given(st.sampled_from(["linear", "cosine", "constant"]), st.integers(1, 500), st.integers(0, 500))
def test_learning_rates(schedule: str, steps: int, warmup: int) -> None:
    count("property", "schedules")
    rate = multiplier(schedule, steps, warmup)  # type: ignore[arg-type]
    values = [rate(step) for step in range(steps + 3)]
    assert all(0 <= value <= 1 for value in values)
    assert all(value > 0 for value in values[:steps]) or warmup >= steps
    rise, fall = values[: warmup + 1], values[warmup:]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    if schedule != "constant" and warmup < steps:
        assert abs(values[steps]) < 1e-12
    if schedule == "constant":
        assert {*fall} <= {1.0}


FILES = st.sampled_from(["a.csv", "b.csv", "c.csv"])
ROWS = st.tuples(
    FILES, st.integers(1, 60), st.sampled_from(["text", "label", ""]), st.sampled_from(["no x", "a y"])
)


@given(st.lists(ROWS, max_size=40))
def test_problems_are_all_told(rows: list[tuple[str, int, str, str]]) -> None:
    count("property", "problems")
    problems = Problems(skip=True)
    for file, row, column, problem in rows:
        problems.add((file, row), column, problem, f"Mend {problem}.")
    assert len(problems) == len({(file, row) for file, row, *_ in rows})
    told = [(each["file"], each["row"], each["column"], each["problem"]) for each in problems.rows()]
    assert sorted(told) == sorted({*rows})
    files = [*dict.fromkeys(file for file, *_ in rows)]
    places = [(files.index(file), row) for file, row, *_ in told]
    assert places == sorted(places)
    if rows:
        report = problems.report()
        assert "\n" not in report
        for file in files:
            number = len({row for name, row, *_ in rows if name == file})
            assert f"{file}: {number} bad row{'s' * (number > 1)}" in report


@given(st.data())
def test_measures_of_a_ranking(data: st.DataObject) -> None:
    count("property", "measures")
    length = data.draw(st.integers(1, 15))
    flags = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    relevant, total, k = torch.tensor([flags]), sum(flags), data.draw(st.integers(1, 20))
    number = torch.tensor([total])
    first = flags[:k]
    assert float(precision_at_k(relevant, k)[0]) == torch.tensor(sum(first) / k).item()
    if not total:
        return
    assert float(hit_rate_at_k(relevant, k)[0]) == float(any(first))
    assert abs(float(recall_at_k(relevant, number, k)[0]) - sum(first) / total) < 1e-6
    assert abs(float(reciprocal_rank(relevant)[0]) - 1 / (flags.index(True) + 1)) < 1e-6
    assert abs(float(r_precision(relevant, number)[0]) - sum(flags[:total]) / total) < 1e-6
    within = [sum(flags[: place + 1]) / (place + 1) for place in range(total) if flags[place]]
    assert abs(float(map_at_r(relevant, number)[0]) - sum(within) / total) < 1e-6
    precisions = [sum(flags[: place + 1]) / (place + 1) for place, hit in enumerate(first) if hit]
    assert abs(float(map_at_k(relevant, number, k)[0]) - sum(precisions) / min(total, k)) < 1e-6
    gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(first))
    best = sum(1 / math.log2(place + 2) for place in range(min(total, k)))
    ideal = relevant.float().sort(dim=1, descending=True).values
    assert abs(float(ndcg_at_k(relevant.float(), ideal, k)[0]) - gain / best) < 1e-6


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_measures_of_pairs(pairs: list[tuple[int, int]]) -> None:
    count("property", "measures")
    scores, targets = torch.tensor(pairs, dtype=torch.float64).unbind(1)

    def ranks(values: list[float]) -> list[float]:
        return [sum(v < one for v in values) + (sum(v == one for v in values) + 1) / 2 for one in values]

    sides = [ranks(side.tolist()) for side in (scores, targets)]
    centred = [[rank - sum(side) / len(side) for rank in side] for side in sides]
    norms = [math.sqrt(sum(rank**2 for rank in side)) for side in centred]
    ids = torch.arange(len(scores) + 1)

    def measured(targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of pairs with item 0, whose products are the scores."""
        metric = PairMetrics(torch.zeros_like(ids[1:]), ids[1:], targets, similarity="dot")
        metric.update(torch.cat([torch.ones(1), scores])[:, None], ids)
        return metric.compute()

    found = float(measured(targets)["spearman"])
    if min(norms) == 0:
        assert math.isnan(found)
    else:
        assert abs(found - sum(a * b for a, b in zip(*centred, strict=True)) / (norms[0] * norms[1])) < 1e-6
    positive = targets > 0
    if len(positive.unique()) == 2:
        expected = 0.0
        for limit in sorted({*scores.tolist()}, reverse=True):  # equal scores are one step
            at = scores == limit
            above = scores >= limit
            expected += float((at & positive).sum() / positive.sum() * (above & positive).sum() / above.sum())
        assert abs(float(measured(positive.float())["pair_ap"]) - expected) < 1e-6


@given(st.lists(st.integers(0, 35), min_size=1, max_size=20))
def test_clusters_of_near_duplicates(angles: list[int]) -> None:
    count("property", "components")
    group = [*range(len(angles))]
    for _ in angles:
        for one, other in itertools.combinations(range(len(angles)), 2):
            if (angles[one] - angles[other]) % 36 in (0, 1, 35):
                group[one] = group[other] = min(group[one], group[other])
    radians = torch.tensor(angles) * math.tau / 36
    vectors = torch.stack([radians.cos(), radians.sin()], dim=1)
    blocks = [(torch.arange(len(angles)), vectors)]
    clusters = near_duplicates(ExactIndex(), lambda: blocks, math.cos(1.5 * math.tau / 36), len(angles))
    assert clusters.tolist() == group
