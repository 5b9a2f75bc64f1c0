"""Retrieval measures against naive loops, scikit-learn and hand-computed values."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch import Tensor

from lit_metric.metrics import (
    hit_rate_at_k,
    map_at_k,
    map_at_r,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
    reciprocal_rank,
)


@pytest.fixture
def ranked() -> tuple[Tensor, Tensor]:
    """60 whole rankings of 30 items and the number relevant in each."""
    relevant = torch.rand(60, 30, generator=torch.Generator().manual_seed(0)) < 0.2
    relevant[:, 29] |= ~relevant.any(dim=1)
    return relevant, relevant.sum(dim=1)


def naive_map_at_r(row: list[bool], r: int) -> float:
    total = 0.0
    for i in range(1, r + 1):
        if row[i - 1]:
            total += sum(row[:i]) / i
    return total / r


def test_against_naive_loops(ranked: tuple[Tensor, Tensor]) -> None:
    relevant, total = ranked
    rows = relevant.tolist()
    for k in (1, 3, 30, 50):
        assert hit_rate_at_k(relevant, k).tolist() == [float(any(row[:k])) for row in rows]
        torch.testing.assert_close(
            precision_at_k(relevant, k), torch.tensor([sum(row[:k]) / k for row in rows])
        )
    sizes = total.tolist()
    naive = [naive_map_at_r(row, r) for row, r in zip(rows, sizes, strict=True)]
    torch.testing.assert_close(map_at_r(relevant, total), torch.tensor(naive))
    naive = [sum(row[:r]) / r for row, r in zip(rows, sizes, strict=True)]
    torch.testing.assert_close(r_precision(relevant, total), torch.tensor(naive))
    naive = [1 / (row.index(True) + 1) for row in rows]
    torch.testing.assert_close(reciprocal_rank(relevant), torch.tensor(naive))


def test_the_measures_of_musgrave_et_al() -> None:
    """The toy example of "A Metric Learning Reality Check": R = 10, and it matters where the hits are."""
    first = torch.tensor([[True] + [False] * 9])
    first_two, ends, all_ten = first.clone(), first.clone(), torch.ones_like(first)
    first_two[0, 1] = ends[0, 9] = True
    for hits, precision_at_1, precision_at_r, mean_average in (
        (first, 1.0, 0.1, 0.1),
        (ends, 1.0, 0.2, 0.12),
        (first_two, 1.0, 0.2, 0.2),
        (all_ten, 1.0, 1.0, 1.0),
    ):
        total = torch.tensor([10])
        assert hit_rate_at_k(hits, 1).item() == precision_at_1
        assert r_precision(hits, total).item() == pytest.approx(precision_at_r)
        assert map_at_r(hits, total).item() == pytest.approx(mean_average)


def test_map_at_r_is_average_precision_where_all_relevant_come_within_r(
    ranked: tuple[Tensor, Tensor],
) -> None:
    """Both only differ in what lies beyond rank R, so the relevant items are moved before it."""
    relevant, total = ranked
    sizes = total.tolist()
    for row, r in enumerate(sizes):
        relevant[row] = torch.arange(30) < r
    ranks = -torch.arange(30.0)
    expected = [average_precision_score(row.numpy(), ranks.numpy()) for row in relevant]
    torch.testing.assert_close(map_at_r(relevant, total), torch.tensor(expected).float())


def test_recall_is_a_hit_rate_not_the_share_of_relevant_items() -> None:
    relevant = torch.tensor([[True, False, True, True]])
    assert hit_rate_at_k(relevant, 1).item() == 1.0  # the share would be a third
    assert hit_rate_at_k(~relevant, 1).item() == 0.0


def test_lists_longer_than_r_are_cut_at_each_query_s_r() -> None:
    relevant = torch.tensor([[False, True, True, True], [True, True, False, True]])
    total = torch.tensor([1, 4])
    assert r_precision(relevant, total).tolist() == [0.0, 0.75]
    assert map_at_r(relevant, total).tolist() == [0.0, pytest.approx((1 + 1 + 3 / 4) / 4)]


def test_map_at_k_of_the_whole_ranking_is_average_precision(ranked: tuple[Tensor, Tensor]) -> None:
    relevant, total = ranked
    ranks = -torch.arange(30.0)
    expected = [average_precision_score(row.numpy(), ranks.numpy()) for row in relevant]
    torch.testing.assert_close(map_at_k(relevant, total, 30), torch.tensor(expected).float())


def test_map_at_k_and_hit_rate_count_what_is_beyond_the_list(ranked: tuple[Tensor, Tensor]) -> None:
    relevant, total = ranked
    for k in (1, 4, 50):
        average, hit = [], []
        for row, r in zip(relevant.tolist(), total.tolist(), strict=True):
            found = [sum(row[: i + 1]) / (i + 1) for i in range(min(k, 30)) if row[i]]
            average.append(sum(found) / min(k, r))
            hit.append(sum(row[:k]) / r)
        for given in (relevant, relevant[:, :k]):
            torch.testing.assert_close(map_at_k(given, total, k), torch.tensor(average))
            torch.testing.assert_close(recall_at_k(given, total, k), torch.tensor(hit))


@pytest.mark.parametrize("k", [1, 5, 30, 40])
def test_ndcg_is_that_of_scikit_learn(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    grades = (4 * torch.rand(40, 30, generator=generator) - 2).clamp(min=0).round()
    scores = torch.rand(40, 30, generator=generator)
    ranked = grades.gather(1, scores.argsort(descending=True))
    expected = [
        ndcg_score(grades[[row]].numpy(), scores[[row]].numpy(), k=k, ignore_ties=True) for row in range(40)
    ]
    ideal = grades.sort(descending=True).values
    torch.testing.assert_close(ndcg_at_k(ranked, ideal, k), torch.tensor(expected).float())
    torch.testing.assert_close(ndcg_at_k(ranked[:, :k], ideal[:, :k], k), torch.tensor(expected).float())


def test_no_relevant_item_leaves_no_answer() -> None:
    relevant, total = torch.tensor([[False, False], [True, False]]), torch.tensor([0, 1])
    assert r_precision(relevant, total).tolist() == [pytest.approx(torch.nan, nan_ok=True), 1.0]
    assert map_at_r(relevant, total).tolist() == [pytest.approx(torch.nan, nan_ok=True), 1.0]
    assert map_at_k(relevant, total, 1).tolist() == [pytest.approx(torch.nan, nan_ok=True), 1.0]
    assert recall_at_k(relevant, total, 1).tolist() == [pytest.approx(torch.nan, nan_ok=True), 1.0]
    grades = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert ndcg_at_k(grades, grades, 2).tolist() == [pytest.approx(torch.nan, nan_ok=True), 1.0]
    assert reciprocal_rank(relevant).tolist() == [0.0, 1.0]
    assert reciprocal_rank(torch.zeros(2, 0, dtype=torch.bool)).tolist() == [0.0, 0.0]


def test_bad_input_is_refused() -> None:
    relevant = torch.tensor([[True, False]])
    with pytest.raises(ValueError, match="R = 3 relevant items, but the lists end at rank 2"):
        map_at_r(relevant, torch.tensor([3]))
    with pytest.raises(ValueError, match=r"total must be \[1\]"):
        r_precision(relevant, torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        hit_rate_at_k(relevant, 0)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        ndcg_at_k(torch.ones(1, 2), torch.ones(1, 2), 0)
    for function in (map_at_k, recall_at_k):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            function(relevant, torch.tensor([1]), 0)
        with pytest.raises(ValueError, match=r"total must be \[1\]"):
            function(relevant, torch.tensor([1, 1]), 1)
    with pytest.raises(ValueError, match="must be a bool matrix"):
        precision_at_k(relevant.int(), 1)
    with pytest.raises(ValueError, match="must be a bool matrix"):
        reciprocal_rank(relevant[0])
