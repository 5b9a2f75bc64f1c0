"""Proposals against exact search by others, and fetching until enough is left."""

from __future__ import annotations

import importlib

import pytest
import torch
from pytorch_metric_learning.utils.inference import FaissKNN
from scipy import stats
from torch import Tensor

from lit_metric.data import (
    LabelRelations,
    MultiLabelRelations,
    PairRelations,
    Ragged,
    Relations,
    UnionRelations,
)
from lit_metric.index import Embeddings, ExactIndex, FaissIndex, Index
from lit_metric.mining import NeighbourProposer, Proposer, RandomProposer
from lit_metric.mining.filters import allowed
from lit_metric.mining.run import BEYOND, EMPTY, KEPT, fetch
from tests.mining.cases import blobs

module = importlib.import_module("lit_metric.mining.run")


@pytest.mark.parametrize("index", [ExactIndex(), FaissIndex("Flat", threads=1)])
def test_neighbours_are_those_of_pytorch_metric_learning(index: Index) -> None:
    embeddings, _ = blobs(300, 5)
    ids = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    vectors = Embeddings(ids, embeddings, "cosine")
    proposer = NeighbourProposer(index)
    proposer.fit(
        Embeddings(torch.arange(3), torch.ones(3, 7), "cosine"), seed=0
    )  # An earlier corpus leaves no trace.
    proposer.fit(vectors, seed=0)
    rows = torch.arange(0, 300, 7)
    scores, found = proposer.propose(ids[rows], vectors[rows], 12)
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    squared, neighbours = FaissKNN(reset_before=True, reset_after=True)(unit[rows], 12, unit)
    assert found.tolist() == ids[neighbours].tolist()
    torch.testing.assert_close(scores, 1 - squared.cpu() / 2, rtol=0, atol=1e-5)
    proposer.forget()
    with pytest.raises(RuntimeError, match=r"call fit\(\)"):
        proposer.propose(ids[rows], vectors[rows], 12)


def test_random_proposals_are_uniform_and_scored_by_the_vectors() -> None:
    embeddings, _ = blobs(12, 2)
    ids = torch.arange(12) * 3
    vectors = Embeddings(ids, embeddings, "cosine")
    proposer = RandomProposer()
    proposer.fit(vectors, seed=5)
    anchors = torch.arange(6000)
    scores, found = proposer.propose(anchors, vectors[anchors % 12], 20)
    assert found[:, 12:].unique().tolist() == [-1]
    assert scores[:, 12:].isneginf().all()
    assert torch.equal(found[:, :12].sort(dim=1).values, ids.expand(6000, 12))
    assert stats.chisquare(torch.bincount(found[:, 0] // 3, minlength=12)).pvalue > 0.01
    everything = vectors[torch.arange(12)] @ vectors[torch.arange(12)].T
    expected = everything[(anchors % 12)[:, None], found[:, :12] // 3]
    torch.testing.assert_close(scores[:, :12], expected, rtol=0, atol=1e-6)
    # A longer proposal begins with the shorter one, and another seed proposes other items.
    assert torch.equal(proposer.propose(anchors, vectors[anchors % 12], 4)[1], found[:, :4])
    proposer.fit(vectors, seed=6)
    assert not torch.equal(proposer.propose(anchors, vectors[anchors % 12], 4)[1], found[:, :4])


def embedded(values: Tensor) -> Embeddings:
    """Items 0, 1, ... with these vectors, scaled to unit length."""
    return Embeddings(torch.arange(len(values)), values, "cosine")


def run_fetch(
    vectors: Embeddings, forbidden: Tensor, wanted: int, limit: int
) -> tuple[dict[int, list[int]], dict[int, list[int]], list[tuple[int, int]]]:
    """Kept ids and verdicts per anchor, and the shapes in which proposals came.

    ``forbidden [M, M]`` is what a filter drops.
    """
    proposer, widths = NeighbourProposer(), []
    proposer.fit(vectors, seed=0)

    def judge(rows: Tensor, found: Tensor, scores: Tensor) -> Tensor:
        widths.append((len(rows), found.shape[1]))
        verdicts = torch.full(found.shape, KEPT, dtype=torch.int8)
        verdicts[forbidden[rows[:, None], found.clamp(min=0)]] = 1
        return verdicts.masked_fill(found < 0, EMPTY)

    kept, verdicts = {}, {}
    for rows, judged in fetch(proposer, vectors, torch.arange(len(vectors)), judge, wanted, limit):
        for row, found, verdict in zip(
            rows.tolist(), judged.kept(wanted)[0].tolist(), judged.verdicts.tolist(), strict=True
        ):
            assert row not in kept
            kept[row], verdicts[row] = found, verdict
    assert len(kept) == len(vectors)
    return kept, verdicts, widths


def ranked(vectors: Embeddings) -> list[list[int]]:
    everything = vectors[torch.arange(len(vectors))].double()
    return (everything @ everything.T).sort(dim=1, descending=True, stable=True).indices.tolist()


def test_fetching_goes_on_until_large_classes_are_passed() -> None:
    # One class of 150 items lies together: the first 149 neighbours of each are of no use.
    embeddings = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    embeddings[:150, 0] += 20
    vectors = embedded(embeddings)
    forbidden = torch.eye(200, dtype=torch.bool)
    forbidden[:150, :150] = True
    kept, verdicts, shapes = run_fetch(vectors, forbidden, wanted=6, limit=200)
    # Only those that still lack some are asked for again, four times as many each time.
    assert shapes == [(200, 12), (150, 48), (150, 192)]
    order = ranked(vectors)
    for row in range(200):
        assert kept[row] == [one for one in order[row] if not forbidden[row, one]][:6]
        assert verdicts[row].count(KEPT) == 6
    # What lies behind the last one needed was not dropped by anything.
    assert verdicts[199][-1] == BEYOND
    assert verdicts[0].count(1) == 150


def test_the_corpus_may_be_exhausted_and_the_bound_reached() -> None:
    vectors = embedded(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)))
    forbidden = torch.eye(40, dtype=torch.bool)
    forbidden[:20, :37] = True
    kept, _, _ = run_fetch(vectors, forbidden, wanted=5, limit=1000)
    assert sorted(kept[3]) == [-1, -1, 37, 38, 39]
    kept, _, _ = run_fetch(vectors, forbidden, wanted=5, limit=10)
    order = ranked(vectors)
    for row in range(20):
        expected = [one for one in order[row][:10] if one >= 37]
        assert kept[row] == expected + [-1] * (5 - len(expected))


def test_proposals_held_at_once_do_not_grow_with_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELD", 500)
    embeddings, labels = blobs(300, 3)
    forbidden = labels[:, None] == labels[None]
    kept, _, shapes = run_fetch(embedded(embeddings), forbidden, wanted=10, limit=300)
    assert max(rows * width for rows, width in shapes) <= 500
    order = ranked(embedded(embeddings))
    assert all(kept[row] == [one for one in order[row] if not forbidden[row, one]][:10] for row in range(300))


def known_of_300(kind: str) -> Relations:
    """Relations of 300 items: unequal classes, copies under two labels, items without a label."""
    lots = torch.Generator().manual_seed(7)
    prints = torch.arange(300)
    prints[100:140] = prints[:40]
    shares = torch.tensor([0.75, 0.15, 0.1])
    labels = shares.multinomial(300, replacement=True, generator=lots)
    labels[torch.rand(300, generator=lots) < 0.1] = -1
    several = [
        [label, *([3] if one % 3 else [])] if label >= 0 else [] for one, label in enumerate(labels.tolist())
    ]
    names = [str(number) for number in range(4)]
    if kind in ("ignored", "negative"):
        return LabelRelations(labels, names, prints, kind)  # type: ignore[arg-type]
    if kind in ("any", "overlap"):
        overlap = 0.0 if kind == "any" else 0.6
        return MultiLabelRelations(Ragged.from_lists(several), names, prints, overlap)
    if kind == "pairs":
        anchors, candidates = torch.randint(300, (2, 2000), generator=lots)
        return PairRelations(anchors, candidates, None, prints)
    parts = [
        LabelRelations(part, names, own)
        for part, own in zip(labels.split(150), prints.split(150), strict=True)
    ]
    return UnionRelations(parts)


def fetched(proposer: Proposer, vectors: Embeddings, relations: Relations) -> tuple[list[Tensor], int]:
    """Ids and scores ``[M, 9]`` that may be negatives, and how many proposals were looked at."""
    ids = vectors.ids
    found, looked = [torch.empty(len(ids), 9, dtype=torch.int64), torch.empty(len(ids), 9)], 0

    def judge(rows: Tensor, found: Tensor, scores: Tensor) -> Tensor:
        verdicts = torch.ones(found.shape, dtype=torch.int8)
        verdicts[allowed(relations, ids[rows], found)] = KEPT
        return verdicts.masked_fill(found < 0, EMPTY)

    for rows, judged in fetch(proposer, vectors, torch.arange(len(ids)), judge, 9, len(ids)):
        looked += int((judged.verdicts >= 0).sum())
        for whole, part in zip(found, judged.kept(9), strict=True):
            whole[rows] = part
    return found, looked


@pytest.mark.parametrize("kind", ["ignored", "negative", "any", "overlap", "pairs", "union"])
def test_what_relations_exclude_is_left_out_of_the_search(kind: str) -> None:
    relations = known_of_300(kind)
    ids = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    # Copies and few distinct vectors: ties, and whole neighbourhoods of one class.
    embeddings = torch.randn(60, 8, generator=torch.Generator().manual_seed(1)).repeat(5, 1)
    vectors = Embeddings(ids, embeddings, "cosine")
    proposer = NeighbourProposer(ExactIndex(query_block=64, vector_block=100))
    proposer.fit(vectors, seed=0)
    searching = proposer.excluding(relations)
    assert searching is not proposer
    (right_ids, right_scores), looked = fetched(proposer, vectors, relations)
    (found_ids, found_scores), fewer = fetched(searching, vectors, relations)
    assert torch.equal(found_ids, right_ids)
    assert torch.equal(found_scores, right_scores)
    # Only those that may be negatives were looked at.
    assert fewer == int((found_ids >= 0).sum()) < looked
    # What remains is missing in the same places: no label, or too few others.
    per_row = (found_ids >= 0).sum(1)
    every = torch.arange(300)
    possible = relations.negative(ids, every).sum(1)
    assert torch.equal(per_row, possible.clamp(max=9))


def test_only_cheap_questions_are_asked_of_a_block() -> None:
    classes = [str(number) for number in range(2000)]
    many = MultiLabelRelations(Ragged.from_lists([[0], [1999]]), classes, torch.arange(2))
    labels = LabelRelations(torch.tensor([0, 1]), classes, torch.arange(2))
    exact = NeighbourProposer()
    assert exact.excluding(many) is exact
    assert exact.excluding(UnionRelations([labels, many])) is exact
    assert exact.excluding(UnionRelations([labels, labels])) is not exact

    class Others(NeighbourProposer):
        """May propose anything."""

    for proposer in (NeighbourProposer(FaissIndex(threads=1)), RandomProposer(), Others()):
        assert proposer.excluding(labels) is proposer


def test_a_search_without_a_corpus_is_refused_there_too() -> None:
    searching = NeighbourProposer().excluding(known_of_300("ignored"))
    with pytest.raises(RuntimeError, match=r"call fit\(\)"):
        searching.propose(torch.arange(2), torch.ones(2, 8), 3)
