"""A search among an index's own vectors, against the search that is given them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_metric.index import ExactIndex, Similarity, exact, load_index, similarities


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(metric: Similarity = "cosine", copies: int = 1) -> tuple[ExactIndex, Tensor, Tensor]:
    """An index of 300 vectors of which ``copies`` are equal at a time, its ids, rising, and their
    vectors."""
    vectors = randn(300 // copies, 24).repeat(copies, 1)
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(2))[:300]
    index = ExactIndex(metric)
    index.add(vectors, ids)
    return index, ids.sort().values, vectors[ids.argsort()]


@pytest.fixture(params=[16, 48, 2048])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(exact, "_TILE", request.param)
    monkeypatch.setattr(exact, "_WIDE", 1)
    return int(request.param)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("copies", [1, 10])
def test_it_finds_what_a_search_for_the_vectors_finds(copies: int, metric: Similarity) -> None:
    index, ids, vectors = filled(metric, copies)
    for k in (1, 9, 15):
        for rows in (torch.arange(300), torch.arange(0, 300, 7), (torch.arange(300) % 4).nonzero()[:, 0]):
            expected = index.search(vectors[rows], k)
            for got, right in zip(index.search_by_id(ids[rows], k), expected, strict=True):
                assert torch.equal(got, right)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("share", [0.1, 0.97, 1.0])
def test_what_is_left_out_takes_no_place(share: float) -> None:
    index, ids, vectors = filled(copies=10)
    # One way only: that the first must not find the second says nothing of the reverse.
    forbidden = torch.rand(1000, 1000, generator=torch.Generator().manual_seed(3)) < share
    rows = (torch.arange(300) % 5).nonzero()[:, 0]
    asked = torch.zeros(len(rows), 1000, dtype=torch.int64)
    most = torch.linspace(0, 1.2, len(rows))

    def left_out(part: slice, others: Tensor, scores: Tensor) -> Tensor:
        asked[part.start : part.stop, others] += 1
        return forbidden[ids[rows][part]][:, others] | (scores >= most[part, None])

    got = index.search_by_id(ids[rows], 12, left_out)
    assert asked[:, ids].unique().tolist() == [1]
    expected = index.search(vectors[rows], 12, left_out)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("part", [300, 200, 170])
def test_each_product_is_computed_once(part: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def counted(queries: Tensor, vectors: Tensor) -> Tensor:
        computed.append(len(queries) * len(vectors))
        return similarities(queries, vectors)

    monkeypatch.setattr(exact, "similarities", counted)
    index, ids, _ = filled()
    index.search_by_id(ids[:part], 3)
    once = sum(min(tile, 300 - start) * (300 - start) for start in range(0, 300, tile))
    assert sum(computed) == (once if part >= 180 else part * 300)


def test_a_stored_index_does_it_too(tmp_path: Path) -> None:
    index, ids, _ = filled()
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    assert isinstance(again, ExactIndex)
    assert torch.equal(again.search_by_id(ids, 4)[1], index.search_by_id(ids, 4)[1])


def test_what_it_refuses() -> None:
    index, ids, _ = filled()
    assert index.holds(ids.flip(0))
    assert not index.holds(torch.tensor([int(ids[0]), 1000]))
    assert not ExactIndex().holds(ids)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.search_by_id(ids, 0)
    with pytest.raises(ValueError, match="id 1000 is not in the index"):
        index.search_by_id(torch.tensor([int(ids[0]), 1000]), 2)
    with pytest.raises(ValueError, match="ids must rise"):
        index.search_by_id(ids.flip(0), 2)
    with pytest.raises(ValueError, match="id 3 is not in the index"):
        ExactIndex().search_by_id(torch.tensor([3]), 2)
    assert ExactIndex().search_by_id(ids[:0], 2)[0].shape == (0, 2)
    assert index.search_by_id(ids[:0], 2)[1].shape == (0, 2)
