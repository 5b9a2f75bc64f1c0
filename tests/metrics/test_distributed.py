"""Two processes with unequal shares compute what one process computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lit_metric.data import PairRelations
from lit_metric.data.ragged import Ragged
from lit_metric.metrics import (
    CollapseMonitor,
    MAPAtR,
    NDCGAtK,
    NeighbourMetrics,
    PairMetrics,
    SpaceMetrics,
    TripletMetrics,
)
from tests.distributed import RankPool
from tests.metrics.items import SameClass, clustered

N = 60


def neighbours(shares: list[list[int]], corpus: list[list[int]]) -> list[dict[str, float]]:
    """The metric on this process's share, twice, since a sync must not outlive its `compute`."""
    embeddings, labels = clustered(N)
    metric = NeighbourMetrics(SameClass(labels), labels)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    results = []
    for _ in range(2):
        for ids in (torch.tensor(shares[rank][i : i + 7]) for i in range(0, len(shares[rank]), 7)):
            metric.update(embeddings[ids], ids)
        if corpus[rank]:
            metric.update(embeddings[corpus[rank]], torch.tensor(corpus[rank]), corpus=True)
        results.append({name: value.item() for name, value in metric.compute().items()})
    return results


def several_labels(shares: list[list[int]]) -> dict[str, float]:
    """Votes for several labels, and grades."""
    embeddings, labels = clustered(N)
    rows = [[int(label)] * (item % 4 > 0) + [5] * (item % 3 == 0) for item, label in enumerate(labels)]
    metric = NeighbourMetrics(SameClass(labels), Ragged.from_lists(rows), graded=(5,))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    metric.update(embeddings[shares[rank]], torch.tensor(shares[rank], dtype=torch.int64))
    return {name: value.item() for name, value in metric.compute().items()}


def linked(shares: list[list[int]]) -> dict[str, float]:
    """Graded judgements, known facts left out, and groups of queries: items below 20 search the rest."""
    embeddings, _ = clustered(N)
    grades = torch.randint(-8, 4, (20, N - 20), generator=torch.Generator().manual_seed(0)).float()
    asked, others = (grades > 0).nonzero(as_tuple=True), (grades == 0).nonzero(as_tuple=True)
    relations = PairRelations(
        asked[0],
        asked[1] + 20,
        grades[asked],
        torch.arange(N),
        positive_from=2,
        ignored=(others[0], others[1] + 20),
    )
    groups = [("odd", "even", None)[item % 3] for item in range(N)]
    metric = NeighbourMetrics(relations, graded=(3, 10), filtered=(1, 10), groups=groups)
    ids = torch.tensor(shares[torch.distributed.get_rank() if torch.distributed.is_initialized() else 0])
    for corpus, part in enumerate((ids[ids < 20], ids[ids >= 20])):
        metric.update(embeddings[part.long()], part.long(), corpus=bool(corpus))
    return {name: value.item() for name, value in metric.compute().items()}


def given(shares: list[list[int]]) -> dict[str, float]:
    """Pairs and triplets whose items lie on different processes."""
    embeddings, _ = clustered(N)
    first, second, third = torch.randint(0, N, (3, 50), generator=torch.Generator().manual_seed(0))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    results = {}
    for metric in (
        PairMetrics(first, second, torch.arange(50.0) % 2),
        TripletMetrics(first, second, third, ["even", "odd"] * 25),
    ):
        if shares[rank]:
            metric.update(embeddings[shares[rank]], torch.tensor(shares[rank]))
        results |= {name: value.item() for name, value in metric.compute().items()}
    return results


def space(shares: list[list[int]]) -> dict[str, float]:
    embeddings, labels = clustered(N)
    metric = SpaceMetrics(SameClass(labels), labels, k=3)
    ids = torch.tensor(shares[torch.distributed.get_rank() if torch.distributed.is_initialized() else 0])
    metric.update(embeddings[ids.long()], ids.long())
    return {name: value.item() for name, value in metric.compute().items()}


def spread(sizes: list[int]) -> dict[str, float]:
    embeddings, _ = clustered(N)
    monitor = CollapseMonitor(8)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    start = sum(sizes[:rank])
    monitor.update(embeddings[start : start + sizes[rank]])
    return {name: value.item() for name, value in monitor.compute().items()}


def alone(shares: list[list[int]], numbered: bool) -> dict[str, list[float]]:
    """Single metrics, by labels with ids or without them, and their values of each query."""
    embeddings, labels = clustered(N)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    results = {}
    for metric in (MAPAtR(), NDCGAtK(5)):
        ids = torch.tensor(shares[rank], dtype=torch.int64)
        metric.update(embeddings[ids], ids if numbered else None, labels[ids])
        results[metric.name] = [metric.compute().item(), *metric.per_query()[metric.name].tolist()]
    return results


ALL = list(range(N))
QUERIES, REST = ALL[:20], ALL[20:]


@pytest.mark.parametrize(
    ("shares", "corpus"),
    [
        ([ALL[:45], ALL[45:]], [[], []]),
        ([ALL[::2], [*ALL[1::2], 0, 2, 4]], [[], []]),  # a sampler's padding: three ids are seen twice
        ([ALL, []], [[], []]),  # a rank that was given nothing
        ([QUERIES[:3], QUERIES[3:]], [REST[:30], REST[30:]]),
        ([[], QUERIES], [REST, []]),
    ],
)
def test_neighbours(pool: RankPool, shares: list[list[int]], corpus: list[list[int]]) -> None:
    whole_shares, whole_corpus = sorted({*shares[0], *shares[1]}), corpus[0] + corpus[1]
    expected = neighbours([whole_shares], [whole_corpus])
    assert expected[0] == expected[1]
    assert pool.run(neighbours, shares, corpus) == [expected, expected]


NAMES = {
    several_labels: {"knn10_f1_micro", "knn10_f1_macro", "ndcg@5", "map@5", "recall@5"},
    linked: {
        "ndcg@10",
        "map@10",
        "recall@10",
        "hits@10",
        "filtered_mrr",
        "hit_rate@1_odd",
        "hit_rate@1_even",
    },
    given: {"pair_ap", "spearman", "pearson", "tot", "tot_even", "tot_odd"},
    space: {"alignment", "uniformity", "all_pairs_ap", "hubness", "nmi"},
}


@pytest.mark.parametrize("shares", [[ALL[:45], ALL[45:]], [ALL[::2], [*ALL[1::2], 0, 2]], [[], ALL]])
@pytest.mark.parametrize("measure", [several_labels, linked, given, space])
def test_what_is_given(pool: RankPool, measure: Callable, shares: list[list[int]]) -> None:
    expected = measure([ALL])
    assert NAMES[measure] <= expected.keys()
    assert pool.run(measure, shares) == [expected, expected]


@pytest.mark.parametrize(
    ("shares", "numbered"),
    [([ALL[::2], [*ALL[1::2], 0, 2]], True), ([ALL[:45], ALL[45:]], False), ([[], ALL], False)],
)
def test_a_metric_alone(pool: RankPool, shares: list[list[int]], numbered: bool) -> None:
    expected = alone([ALL], numbered)
    assert pool.run(alone, shares, numbered) == [expected, expected]


def test_collapse(pool: RankPool) -> None:
    expected = pytest.approx(spread([N]))
    assert pool.run(spread, [41, N - 41]) == [expected, expected]
