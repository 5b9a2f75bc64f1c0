"""Joined rankings against loops over them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_metric.configurable import rebuilt, spec
from lit_metric.index import Embeddings, ExactIndex
from lit_metric.mining import ClusterProposer, JoinedProposer, NeighbourProposer, Proposer, RandomProposer
from lit_metric.mining.propose import join
from tests.mining.cases import blobs


def joined_by_loop(sources: list[list[int]], depth: int, count: int) -> list[int]:
    """Of the distinct ids, those of the greatest sum of reciprocal ranks, ties in turn."""
    worth: dict[int, list[float]] = {}
    turns = [one for rank in zip(*sources, strict=True) for one in rank if one >= 0]
    for source in sources:
        for rank, one in enumerate(source[:depth]):
            worth.setdefault(one, []).append(1 / (61 + rank))
    distinct = list(dict.fromkeys(turns))
    ranked = sorted(distinct, key=lambda one: -round(math.fsum(worth.get(one, [])), 12))
    return [*ranked, *[-1] * count][:count]


@pytest.mark.parametrize("depth", [0, 3, 20])
@pytest.mark.parametrize("count", [1, 7, 60])
def test_joining_is_that_of_a_loop(depth: int, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sources = []
    for lengths in torch.randint(0, 13, (3, 50), generator=generator):
        rows = torch.rand(50, 30, generator=generator).argsort(dim=1)[:, :12]
        sources.append(rows.masked_fill(torch.arange(12) >= lengths[:, None], -1))
    found, places = join(sources, depth, count)
    for row in range(50):
        expected = joined_by_loop([source[row].tolist() for source in sources], depth, count)
        assert found[row].tolist() == expected
    flat = torch.stack(sources, dim=2).flatten(1).gather(1, places)
    assert torch.equal(flat[found >= 0], found[found >= 0])


def fitted(proposer: Proposer) -> tuple[Proposer, Embeddings, Tensor]:
    embeddings, _ = blobs(60, 4)
    ids = torch.arange(60) * 2
    vectors = Embeddings(ids, embeddings, "cosine")
    proposer.fit(vectors, seed=3)
    return proposer, vectors, ids


@pytest.mark.parametrize("order", ["round_robin", "reciprocal_rank"])
def test_a_longer_proposal_begins_with_the_shorter_one_and_has_every_source(order: str) -> None:
    joined = JoinedProposer([NeighbourProposer(), RandomProposer(), ClusterProposer(6, 2)], order, depth=10)  # type: ignore[arg-type]
    proposer, vectors, ids = fitted(rebuilt(spec(joined)))
    rows = torch.arange(0, 60, 7)
    scores, found = proposer.propose(ids[rows], vectors[rows], 70)
    assert torch.equal(found[:, :60].sort(dim=1).values, ids.expand(len(rows), -1))
    assert found[:, 60:].unique().tolist() == [-1]
    assert scores[:, 60:].isneginf().all()
    everything = vectors[torch.arange(60)] @ vectors[torch.arange(60)].T
    torch.testing.assert_close(
        scores[:, :60], everything[rows[:, None], found[:, :60] // 2], rtol=0, atol=1e-6
    )
    for count in (1, 5, 20):
        shorter = proposer.propose(ids[rows], vectors[rows], count)
        assert torch.equal(shorter[1], found[:, :count])
        assert torch.equal(shorter[0], scores[:, :count])
    neighbours, random = NeighbourProposer(), RandomProposer()
    sources = [
        each.propose(ids[rows], vectors[rows], 70)[1] for each in (fitted(neighbours)[0], fitted(random)[0])
    ]
    assert torch.equal(sources[0][:, 0], ids[rows])
    if order == "round_robin":
        assert torch.equal(found[:, 0], sources[0][:, 0])
        assert all(one in row[:3] for one, row in zip(sources[1][:, 0].tolist(), found.tolist(), strict=True))
    proposer.forget()
    with pytest.raises(RuntimeError, match=r"call fit\(\)"):
        proposer.propose(ids[rows], vectors[rows], 5)


def test_sources_of_different_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="NeighbourProposer: dot"):
        JoinedProposer([NeighbourProposer(ExactIndex("dot")), RandomProposer()])
    with pytest.raises(ValueError, match="two or more"):
        JoinedProposer([RandomProposer()])
    with pytest.raises(ValueError, match="order='best'; use 'round_robin' or 'reciprocal_rank'"):
        JoinedProposer([RandomProposer(), NeighbourProposer()], "best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth=0"):
        JoinedProposer([RandomProposer(), NeighbourProposer()], depth=0)
