from __future__ import annotations

import math

import pytest
import torch

from lit_metric.metrics import propensities, psp_at_k


def test_propensities_by_hand() -> None:
    found = propensities(torch.tensor([0, 1, 50, 900]), items=1000).tolist()
    constant = (math.log(1000) - 1) * 2.5**0.55
    expected = [1 / (1 + constant * math.exp(-0.55 * math.log(n + 1.5))) for n in (0, 1, 50, 900)]
    assert found == pytest.approx(expected)
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] < 1


def naive(scores: list, relevant: list, propensity: list, k: int) -> float:
    above = below = 0.0
    for row, wanted in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda label: (-row[label], label))
        above += sum(1 / propensity[label] for label in order[:k] if wanted[label])
        gains = sorted((1 / p for p, true in zip(propensity, wanted, strict=True) if true), reverse=True)
        below += sum(gains[:k])
    return above / below


@pytest.mark.parametrize("k", [1, 3, 5, 100])
def test_against_a_naive_loop(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 12, generator=generator).round(decimals=1)  # some are equal
    relevant = torch.rand(20, 12, generator=generator) < 0.3
    propensity = torch.rand(12, generator=generator) * 0.9 + 0.1
    found = psp_at_k(scores, relevant, propensity, k)
    assert found == pytest.approx(naive(scores.tolist(), relevant.tolist(), propensity.tolist(), k))


def test_a_quotient_of_sums_and_no_mean_of_quotients() -> None:
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    relevant = torch.tensor([[True, False], [False, True]])
    # A common label is found, a rare one is not: 1 of 1 + 10, and not the mean of 1 and 0.
    assert psp_at_k(scores, relevant, torch.tensor([1.0, 0.1]), k=1) == pytest.approx(1 / 11)


def test_equal_propensities_are_plain_precision_relative_to_the_best() -> None:
    scores, relevant = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[True, False, True]])
    assert psp_at_k(scores, relevant, torch.full((3,), 0.4), k=2) == 0.5
    assert math.isnan(psp_at_k(scores, torch.zeros_like(relevant), torch.ones(3), k=2))


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="at least 3 training items, not 2"):
        propensities(torch.tensor([1]), 2)
    with pytest.raises(ValueError, match="counts must be between 0 and items=5"):
        propensities(torch.tensor([6]), 5)
    with pytest.raises(ValueError, match=r"got \[1, 2\], \[1, 2\], \[3\]"):
        psp_at_k(torch.ones(1, 2), torch.ones(1, 2) > 0, torch.ones(3), 1)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        psp_at_k(torch.ones(1, 2), torch.ones(1, 2) > 0, torch.ones(2), 0)
