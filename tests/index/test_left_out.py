"""Searches that leave out some pairs, against a search of everything that drops them afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric.index import ExactIndex, FaissIndex, Index, RepresentativeIndex, top_k


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dropped_afterwards(scores: Tensor, ids: Tensor, forbidden: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first ``k`` of full rankings ``[q, n]`` without the pairs ``forbidden [q, id]``, by a loop."""
    kept_scores = torch.full((len(ids), k), -torch.inf)
    kept_ids = torch.full((len(ids), k), -1)
    for row, ranking in enumerate(ids.tolist()):
        kept = [place for place, one in enumerate(ranking) if not forbidden[row, one]][:k]
        kept_scores[row, : len(kept)] = scores[row, kept]
        kept_ids[row, : len(kept)] = ids[row, kept]
    return kept_scores, kept_ids


@pytest.mark.parametrize("blocks", [(1024, 16384), (5, 7)])
@pytest.mark.parametrize("share", [0.1, 0.95, 1.0])
def test_what_is_left_out_takes_no_place(share: float, blocks: tuple[int, int]) -> None:
    lots = torch.Generator().manual_seed(3)
    ids = torch.randperm(900, generator=lots)[:200]
    forbidden = torch.rand(31, 900, generator=lots) < share
    forbidden[4], forbidden[5] = True, False
    # Copies tie, so that the order of ids decides.
    vectors, queries = randn(20, 6).repeat(10, 1), randn(31, 6, seed=1)
    index = ExactIndex(query_block=blocks[0], vector_block=blocks[1])
    index.add(vectors, ids)
    everything = index.search(queries, 200)
    for k in (1, 12, 250):
        found = index.search(queries, k, lambda rows, some, _: forbidden[rows][:, some])
        expected = dropped_afterwards(*everything, forbidden, k)
        for got, right in zip(found, expected, strict=True):
            assert torch.equal(got, right)


def test_scores_are_those_of_numpy() -> None:
    vectors, queries, forbidden = randn(60, 8), randn(9, 8, seed=1), randn(9, 60, seed=2) > 0
    index = ExactIndex(similarity="dot")
    index.add(vectors, torch.arange(60))
    scores, ids = index.search(queries, 5, lambda rows, some, _: forbidden[rows][:, some])
    products = np.where(forbidden, -np.inf, queries.double().numpy() @ vectors.double().numpy().T)
    order = (-products).argsort(axis=1, kind="stable")[:, :5]
    assert ids.tolist() == order.tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(products, order, 1), rtol=1e-5, atol=1e-6)


def test_each_pair_is_asked_about_once() -> None:
    asked = torch.zeros(12, 30, dtype=torch.int64)

    def left_out(rows: slice, ids: Tensor, scores: Tensor) -> Tensor:
        asked[rows.start : rows.stop, ids] += 1
        return torch.zeros(rows.stop - rows.start, len(ids), dtype=torch.bool)

    index = ExactIndex(query_block=5, vector_block=7)
    index.add(randn(30, 4), torch.arange(30))
    found = index.search(randn(12, 4, seed=1), 9, left_out)
    assert asked.unique().tolist() == [1]
    for got, right in zip(found, index.search(randn(12, 4, seed=1), 9), strict=True):
        assert torch.equal(got, right)


@pytest.mark.parametrize("blocks", [(1024, 16384), (5, 7)])
def test_pairs_may_be_left_out_by_their_score(blocks: tuple[int, int]) -> None:
    vectors, queries = randn(20, 6).repeat(3, 1), randn(31, 6, seed=1)
    most = torch.linspace(-0.5, 0.9, 31)
    index = ExactIndex(query_block=blocks[0], vector_block=blocks[1])
    index.add(vectors, torch.arange(60))
    everything = index.search(queries, 60)
    # What the hook is shown is what is found, to the last bit: a score that is met exactly is left out.
    most[7] = everything[0][7, 4]
    found = index.search(queries, 9, lambda rows, ids, scores: scores >= most[rows, None])
    forbidden = torch.zeros(31, 60, dtype=torch.bool).scatter(
        1, everything[1], everything[0] >= most[:, None]
    )
    for got, right in zip(found, dropped_afterwards(*everything, forbidden, 9), strict=True):
        assert torch.equal(got, right)


@pytest.mark.parametrize("index", [FaissIndex(threads=1), RepresentativeIndex()])
def test_an_index_that_cannot_says_so(index: Index) -> None:
    assert not index.excludes
    with pytest.raises(TypeError, match=f"{type(index).__name__} can't exclude pairs .* use ExactIndex"):
        index.search(torch.eye(2), 1, lambda rows, ids, scores: torch.zeros(2, len(ids), dtype=torch.bool))


def test_ties_of_nothing_are_not_decided() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, -torch.inf, 1.0, -torch.inf]])
    values, places = top_k(scores, 4, empty=True)
    assert values.tolist() == [[1.0, 1.0, -torch.inf, -torch.inf]]
    assert places[0, :2].tolist() == [1, 3]
    assert top_k(scores, 4)[1].tolist() == [[1, 3, 0, 2]]
