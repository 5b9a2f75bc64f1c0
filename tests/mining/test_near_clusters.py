"""Candidates of the nearest clusters."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from lit_metric.data import PairRelations
from lit_metric.index import Embeddings
from lit_metric.mining import ClusterProposer, Miner
from tests.mining.cases import blobs


def test_candidates_are_drawn_uniformly_from_the_nearest_clusters() -> None:
    embeddings, labels = blobs(60, 5, spread=0.05)
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    ids = torch.arange(60) * 3
    vectors = Embeddings(ids, embeddings, "cosine")
    proposer = ClusterProposer(clusters=5, nearest=2)
    proposer.fit(vectors, seed=1)
    centres = torch.stack([unit[labels == one].mean(dim=0) for one in range(5)])
    near = (unit @ torch.nn.functional.normalize(centres, dim=1).T).argsort(dim=1, descending=True)[:, :2]
    scores, found = proposer.propose(ids, vectors[torch.arange(60)], 60)
    for row in range(60):
        pool = {3 * one for one in range(60) if labels[one] in near[row]}
        drawn = [one for one in found[row].tolist() if one >= 0]
        assert len(drawn) == len(pool)
        assert {*drawn} == pool
        expected = unit[[one // 3 for one in drawn]] @ unit[row]
        torch.testing.assert_close(scores[row, : len(drawn)], expected, rtol=0, atol=1e-6)
        assert scores[row, len(drawn) :].isneginf().all()
    # Many anchors at one place have one pool, and the first of each is any of it.
    anchors = torch.arange(4000)
    _, first = proposer.propose(anchors, vectors[torch.zeros(4000, dtype=torch.int64)], 1)
    counts = torch.bincount(first[:, 0] // 3, minlength=60)[torch.isin(labels, near[0])]
    assert int(counts.sum()) == 4000
    assert stats.chisquare(counts).pvalue > 0.01


def test_proposals_depend_on_the_seed_and_longer_ones_begin_with_shorter_ones() -> None:
    embeddings, _ = blobs(200, 5)
    ids = torch.arange(200)
    vectors = Embeddings(ids, embeddings, "cosine")
    proposals = []
    for seed in (1, 1, 2):
        proposer = ClusterProposer(clusters=10, nearest=3)
        proposer.fit(vectors, seed)
        proposals.append(proposer.propose(ids, vectors[ids], 12)[1])
        assert torch.equal(proposer.propose(ids, vectors[ids], 4)[1], proposals[-1][:, :4])
    assert torch.equal(proposals[0], proposals[1])
    assert not torch.equal(proposals[0], proposals[2])


def test_known_facts_of_the_nearest_clusters_are_not_mined() -> None:
    """LEMON draws corrupted tails from the clusters nearest to the head, where most true tails are, too."""
    embeddings, labels = blobs(90, 4, spread=0.3)
    heads, tails = torch.arange(30), torch.arange(30, 90)
    generator = torch.Generator().manual_seed(2)
    same = labels[heads][:, None] == labels[tails]
    true = same & (torch.rand(30, 60, generator=generator) < 0.6)
    asked = true & (torch.rand(30, 60, generator=generator) < 0.3)
    known = true & ~asked  # such as facts of the test split
    pairs = [rows.nonzero(as_tuple=True) for rows in (asked, known)]
    relations = PairRelations(
        pairs[0][0], pairs[0][1] + 30, None, torch.arange(90), ignored=(pairs[1][0], pairs[1][1] + 30)
    )
    proposer = ClusterProposer(clusters=4, nearest=1)
    table = Miner(top_k=20, filters=[], proposer=proposer).mine(
        Embeddings(torch.arange(90), embeddings), relations, anchors=heads, corpus=tails
    )
    mined = torch.zeros(30, 90, dtype=torch.bool)
    for anchor, row in zip(table.anchors.tolist(), table.ids.tolist(), strict=True):
        mined[anchor, [one for one in row if one >= 0]] = True
    proposer.fit(Embeddings(tails, embeddings[tails], "cosine"), seed=0)
    _, proposed = proposer.propose(heads, Embeddings(torch.arange(90), embeddings, "cosine")[heads], 60)
    stood_in_the_way = 0
    for head in range(30):
        pool = {one for one in proposed[head].tolist() if one >= 0}
        left = {one for one in pool if not true[head, one - 30]}
        found = {*mined[head].nonzero().flatten().tolist()}
        if not asked[head].any():  # nothing that it should be nearer to
            assert not found
        elif len(left) <= 20:
            assert found == left
        else:
            assert len(found) == 20
            assert found <= left
        stood_in_the_way += len(pool) - len(left)
    assert mined.sum() > 100
    assert stood_in_the_way > 100


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="nearest=4 must be at least 1 and at most clusters=3"):
        ClusterProposer(clusters=3, nearest=4)
    with pytest.raises(RuntimeError, match=r"call fit\(\)"):
        ClusterProposer().propose(torch.arange(2), torch.eye(2), 1)
