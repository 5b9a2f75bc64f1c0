"""The monitor's running sums against the functions over all embeddings at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from lit_metric.metrics import CollapseMonitor, effective_rank, mean_pairwise_cosine, pairwise_spread
from tests.metrics.items import clustered


def test_running_sums_give_what_all_embeddings_give() -> None:
    embeddings, _ = clustered(100)
    monitor = CollapseMonitor(8)
    for part in embeddings.split(7):
        monitor.update(part)
    expected = {
        "effective_rank": effective_rank(normalize(embeddings)).item(),
        "mean_pairwise_cosine": mean_pairwise_cosine(embeddings).item(),
        "pairwise_spread": pairwise_spread(normalize(embeddings)).item(),
        "mean_norm": embeddings.norm(dim=1).mean().item(),
    }
    assert {name: value.item() for name, value in monitor.compute().items()} == pytest.approx(expected)
    monitor.reset()
    monitor.update(embeddings[:2])
    assert monitor.compute()["mean_pairwise_cosine"].item() == pytest.approx(
        torch.cosine_similarity(embeddings[0], embeddings[1], dim=0).item()
    )


def test_reason_follows_the_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(200, 64, generator=generator)
    direction = torch.randn(1, 64, generator=generator)
    cases = {
        None: spread,
        "nearly one point": direction + 1e-3 * spread,
        "few directions": torch.randn(200, 1, generator=generator) * direction,
        "not a number": torch.full((3, 64), torch.nan),
    }
    for part, embeddings in cases.items():
        monitor = CollapseMonitor(64)
        monitor.update(embeddings)
        reason = monitor.reason()
        assert reason is None if part is None else part in str(reason)


def test_few_embeddings_are_judged_by_their_number() -> None:
    """Three orthogonal vectors have rank 3, below 2% of 200 dimensions, and nothing is wrong with them."""
    monitor = CollapseMonitor(200)
    monitor.update(torch.eye(200)[:3])
    assert monitor.compute()["effective_rank"].item() == pytest.approx(3.0)
    assert monitor.reason() is None
    assert monitor.reason(min_spread=1.5) is not None


def test_bfloat16_under_autocast_is_summed_in_float64() -> None:
    embeddings = clustered(50)[0].bfloat16()
    plain, under = CollapseMonitor(8), CollapseMonitor(8)
    plain.update(embeddings.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under.update(embeddings)
    assert {n: v.item() for n, v in under.compute().items()} == {
        n: v.item() for n, v in plain.compute().items()
    }


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="dimension must be at least 1"):
        CollapseMonitor(0)
    with pytest.raises(ValueError, match=r"embeddings must be \[n, 8\], got \[2, 3\]"):
        CollapseMonitor(8).update(torch.ones(2, 3))
