"""Effective rank and spread against singular values and loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from lit_metric.metrics import (
    collapse_reason,
    effective_rank,
    mean_pairwise_cosine,
    pairwise_spread,
)


def randn(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "d"), [(40, 12), (12, 40), (30, 30)])
def test_effective_rank_is_the_entropy_of_the_singular_values(n: int, d: int) -> None:
    x = randn(n, d) * torch.logspace(0, -4, d)
    expected = np.exp(entropy(np.linalg.svd(x.double().numpy(), compute_uv=False)))
    assert effective_rank(x).item() == pytest.approx(expected, rel=1e-6)


def test_effective_rank_by_hand() -> None:
    """Singular values 3 and 1: p = 3/4, 1/4, and exp(entropy) = 4 / 3^(3/4). Squares would give another."""
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))).item() == pytest.approx(4 / 3**0.75)


def test_effective_rank_of_what_has_collapsed() -> None:
    direction = randn(1, 384)
    assert effective_rank(direction.repeat(1000, 1)).item() == pytest.approx(1.0, abs=1e-9)
    assert effective_rank(randn(1000, 1) * direction).item() == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(torch.zeros(5, 3)).item() == 0.0
    assert effective_rank(torch.empty(0, 3)).item() == 0.0
    assert effective_rank(randn(200, 2) @ randn(2, 64)).item() == pytest.approx(2.0, abs=0.1)


def test_effective_rank_ignores_scale_and_rotation() -> None:
    x = randn(50, 10)
    rotation = torch.linalg.qr(randn(10, 10, seed=1).double()).Q
    expected = effective_rank(x).item()
    assert effective_rank(x * 1e-4).item() == pytest.approx(expected, rel=1e-6)
    assert effective_rank(x.double() @ rotation).item() == pytest.approx(expected, rel=1e-6)


def test_pairs_by_loops() -> None:
    x = (randn(15, 6) + 0.5).double()
    x[3] = 0.0  # cosine 0 with all others
    cosines, squares = [], []
    for i in range(15):
        for j in range(15):
            if i != j:
                norms = x[i].norm() * x[j].norm()
                cosines.append(float(x[i] @ x[j] / norms) if norms else 0.0)
                squares.append(float((x[i] - x[j]).square().sum()))
    assert mean_pairwise_cosine(x).item() == pytest.approx(np.mean(cosines))
    scale = x.square().sum(1).mean().item()
    assert pairwise_spread(x).item() == pytest.approx(np.sqrt(np.mean(squares) / (2 * scale)))
    unit = torch.nn.functional.normalize(randn(20, 6))
    assert pairwise_spread(unit).item() == pytest.approx(np.sqrt(1 - mean_pairwise_cosine(unit).item()))
    assert pairwise_spread(unit * 1e-3).item() == pytest.approx(pairwise_spread(unit).item())


def test_pairwise_spread_near_a_point_is_not_lost_in_rounding() -> None:
    offsets = randn(100, 8) * 1e-8
    x = offsets.double() + 1.0
    expected = np.sqrt(torch.pdist(offsets.double()).square().mean().item() / 2 / 8)
    assert pairwise_spread(x).item() == pytest.approx(expected, rel=1e-4)
    assert pairwise_spread(torch.zeros(4, 2)).item() == 0.0
    assert pairwise_spread(torch.ones(1, 2)).isnan()
    assert mean_pairwise_cosine(torch.ones(1, 2)).isnan()


@pytest.mark.parametrize(
    ("rank", "spread", "dimension", "part"),
    [
        (200.0, 0.8, 384, None),
        (7.69, 0.8, 384, None),
        (7.67, 0.8, 384, "few directions"),
        (200.0, 0.049, 384, "nearly one point"),
        (1.6, 0.8, 8, None),
        (1.4, 0.8, 8, "few directions"),
        (1.0, 0.8, 1, None),
        (200.0, float("nan"), 384, "not a number"),
        (float("nan"), 0.5, 384, "not a number"),
    ],
)
def test_alarm(rank: float, spread: float, dimension: int, part: str | None) -> None:
    reason = collapse_reason(rank, spread, dimension)
    assert reason is None if part is None else part in str(reason)


def test_alarm_thresholds_can_be_set() -> None:
    assert collapse_reason(30.0, 0.8, 100, min_rank_share=0.4) is not None
    assert collapse_reason(30.0, 0.3, 100, min_spread=0.4) is not None


def test_only_a_matrix_is_taken() -> None:
    with pytest.raises(ValueError, match=r"embeddings must be \[n, d\], got \[3\]"):
        effective_rank(torch.ones(3))
