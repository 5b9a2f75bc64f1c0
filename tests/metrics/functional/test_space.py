"""Alignment, uniformity, hubness and NMI against loops, SciPy and scikit-learn."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from scipy.stats import skew
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from lit_metric.metrics.functional import (
    alignment,
    normalized_mutual_information,
    occurrence_skewness,
    uniformity,
)

module = importlib.import_module("lit_metric.metrics.functional.space")


def unit(n: int, d: int = 5, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1
    )


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alignment_is_the_code_of_the_paper(alpha: float) -> None:
    x, y = unit(30), unit(30, seed=1)
    expected = (x - y).norm(p=2, dim=1).pow(alpha).mean()  # align_loss of Wang and Isola, appendix A
    assert alignment(x, y, alpha).item() == pytest.approx(float(expected), rel=1e-6)
    assert math.isnan(alignment(x[:0], y[:0]).item())


@pytest.mark.parametrize("elements", [2**24, 70])
def test_uniformity_is_the_code_of_the_paper(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    x = unit(33)
    expected = torch.pdist(x, p=2).pow(2).mul(-2.0).exp().mean().log()  # uniform_loss, likewise
    assert uniformity(x).item() == pytest.approx(float(expected), rel=1e-5)
    assert uniformity(unit(1).expand(9, -1)).item() == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(uniformity(x[:1]).item())


def test_hubness_is_the_skewness_of_scipy() -> None:
    neighbours = torch.rand(60, 40, generator=torch.Generator().manual_seed(0)).pow(3).argsort(dim=1)[:, :5]
    neighbours[:45, 0] = 7
    counts = [sum(row.count(item) for row in neighbours.tolist()) for item in range(40)]
    assert occurrence_skewness(neighbours, 40).item() == pytest.approx(skew(counts))
    assert occurrence_skewness(torch.tensor([[1], [0]]), 2).item() == 0.0


@pytest.mark.parametrize("noise", [0.0, 0.2, 1.0])
def test_nmi_is_that_of_scikit_learn(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (200,), generator=generator) * 3
    clusters = torch.where(torch.rand(200, generator=generator) < noise, labels.roll(1), labels) % 11
    expected = normalized_mutual_info_score(labels.numpy(), clusters.numpy())
    assert normalized_mutual_information(labels, clusters).item() == pytest.approx(expected, abs=1e-12)


def test_nmi_of_a_single_group_and_of_nothing() -> None:
    same, different = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    for labels, clusters in ((same, same), (same, different), (different, different)):
        expected = normalized_mutual_info_score(labels.numpy(), clusters.numpy())
        assert normalized_mutual_information(labels, clusters).item() == pytest.approx(expected)
    assert math.isnan(normalized_mutual_information(same[:0], same[:0]).item())
    with pytest.raises(ValueError, match="differ in length"):
        normalized_mutual_information(same, same[:2])
