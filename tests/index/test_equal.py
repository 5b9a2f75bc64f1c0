"""FAISS against the exact index: equal where both are exact, bounded from below elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_metric.index import ExactIndex, FaissIndex
from lit_metric.index import exact as exact_module
from lit_metric.index.scores import similarities


def clustered(count: int, clusters: int, dimension: int, seed: int = 0) -> Tensor:
    """``[count, dimension]`` around as many centres, as texts of as many topics would lie."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, dimension, generator=generator)
    members = torch.randint(clusters, (count,), generator=generator)
    return centres[members] + 0.5 * torch.randn(count, dimension, generator=generator)


def recall(found: Tensor, expected: Tensor) -> float:
    """The share of the expected neighbours that was found."""
    return float((found[:, :, None] == expected[:, None, :]).any(1).float().mean())


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize(
    "settings",
    [
        {"factory": "Flat"},
        {"factory": "IVF16,Flat", "nprobe": 16},
        {"factory": "IVF16_HNSW8,Flat", "nprobe": 16, "threads": 1},
        {"factory": "Flat", "threads": 2},
    ],
)
def test_what_is_exact_equals_the_exact_index(settings: dict[str, Any], metric: Any) -> None:
    vectors, ids = clustered(2000, 20, 24), torch.randperm(9000)[:2000]
    queries = clustered(100, 20, 24, seed=1)
    exact, other = ExactIndex(similarity=metric, vector_block=700), FaissIndex(similarity=metric, **settings)
    for index in (exact, other):
        index.add(vectors, ids)
    scores, expected = exact.search(queries, 30)
    found_scores, found = other.search(queries, 30)
    torch.testing.assert_close(found_scores, scores, atol=2e-5, rtol=1e-5)
    # Scores that agree but for rounding may stand in either order.
    differing = found != expected
    assert float(differing.float().mean()) < 0.01
    gaps = (scores[:, 1:] - scores[:, :-1]).abs()
    near = F.pad(gaps, (1, 0), value=1.0).minimum(F.pad(gaps, (0, 1), value=0.0)) < 1e-4
    assert bool(near[differing].all())


# A tenth is what any member of the right cluster would give.
@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"factory": "IVF32,Flat", "nprobe": 8}, 0.99),
        ({"factory": "IVF32,Flat", "nprobe": 1}, 0.9),
        ({"factory": "HNSW32", "ef_search": 64}, 0.99),
        ({"factory": "PQ16x4"}, 0.3),
        ({"factory": "IVF16,PQ16x4", "nprobe": 8}, 0.33),
        ({"factory": "SQ8"}, 0.94),
    ],
)
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_recall_on_clustered_data_is_bounded(settings: dict[str, Any], least: float, metric: Any) -> None:
    vectors, queries = clustered(4000, 40, 32), clustered(200, 40, 32, seed=0)
    exact, index = ExactIndex(similarity=metric), FaissIndex(similarity=metric, threads=1, **settings)
    for each in (exact, index):
        each.add(vectors, torch.arange(4000))
    got = recall(index.search(queries, 10)[1], exact.search(queries, 10)[1])
    assert got >= least, got


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield 1
    torch.set_num_threads(before)


def test_exact_search_keeps_to_its_budget_and_puts_back_what_was(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def watched(queries: Tensor, vectors: Tensor) -> Tensor:
        used.append(torch.get_num_threads())
        return similarities(queries, vectors)

    monkeypatch.setattr(exact_module, "similarities", watched)
    index = ExactIndex(threads=2)
    index.add(torch.eye(4), torch.arange(4))
    before = faiss.omp_get_max_threads()
    assert index.search(torch.eye(4), 1)[1].squeeze(1).tolist() == [0, 1, 2, 3]
    assert used == [2]
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (threads, before)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        ExactIndex(threads=0)
