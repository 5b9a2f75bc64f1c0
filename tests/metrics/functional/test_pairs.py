"""Correlations, average precision and the order of triplets, against scipy and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score
from torch import Tensor

from lit_metric.metrics.functional import (
    average_precision,
    mean_ranks,
    pearson,
    spearman,
    triplet_order,
)


def scores_and_targets(ties: bool, count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(count, generator=generator)
    targets = 2 * scores + 3 * torch.randn(count, generator=generator)
    return (scores.round(decimals=1), targets.round()) if ties else (scores, targets)


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy(ties: bool) -> None:
    scores, targets = scores_and_targets(ties)
    assert (len(scores.unique()) < 100) == ties
    expected = stats.spearmanr(scores.numpy(), targets.numpy()).statistic
    assert spearman(scores, targets).item() == pytest.approx(expected, rel=1e-12)
    expected = stats.pearsonr(scores.double().numpy(), targets.double().numpy()).statistic
    assert pearson(scores, targets).item() == pytest.approx(expected, rel=1e-12)
    assert mean_ranks(targets).tolist() == stats.rankdata(targets.numpy()).tolist()
    assert pearson(1000 + 1e-3 * targets.double(), -targets).item() == pytest.approx(-1)


def test_where_correlations_are_not_defined() -> None:
    for scores, targets in (([1.0], [2.0]), ([], []), ([1.0, 1.0], [0.0, 3.0]), ([0.1, 0.2], [5.0, 5.0])):
        given = torch.tensor(scores), torch.tensor(targets)
        assert math.isnan(pearson(*given))
        assert math.isnan(spearman(*given))


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_scikit_learn(ties: bool) -> None:
    scores, targets = scores_and_targets(ties)
    positive = targets > 1
    expected = average_precision_score(positive.numpy(), scores.numpy())
    assert average_precision(scores, positive).item() == pytest.approx(expected, rel=1e-12)
    assert math.isnan(average_precision(scores, torch.zeros_like(positive)))


def test_both_must_be_nearer_to_each_other() -> None:
    together = torch.full((5,), 0.5)
    first, second = torch.tensor([0.4, 0.6, 0.4, 0.5, 0.4]), torch.tensor([0.4, 0.4, 0.6, 0.4, 0.5])
    assert triplet_order(together, first, second).tolist() == [True, False, False, False, False]


def test_lists_of_unlike_length_are_refused() -> None:
    for function in (pearson, spearman, average_precision):
        with pytest.raises(ValueError, match=r"must be \[P\] alike, got \[3\] and \[2\]"):
            function(torch.ones(3), torch.ones(2))
