"""Graded relevance and several labels in a search, against scikit-learn and loops over the ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, ndcg_score
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from lit_metric.data import MultiLabelRelations, PairRelations, Ragged
from lit_metric.metrics import NeighbourMetrics
from lit_metric.metrics.neighbours import Relations
from tests.metrics.items import Overlap, clustered

QUERIES, N = 40, 130


def values_of(metric: NeighbourMetrics) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def judged(positive_from: float | None = None) -> tuple[Tensor, PairRelations, np.ndarray]:
    """Embeddings of queries, then of documents; judgements, and those as a matrix of grades."""
    embeddings, _ = clustered(N)
    generator = torch.Generator().manual_seed(0)
    grades = torch.randint(-1, 4, (QUERIES, N - QUERIES), generator=generator).float()
    known = torch.rand(grades.shape, generator=generator) < 0.2
    known[3] = False
    grades[4] = grades[4].clamp(max=0)
    anchors, documents = known.nonzero(as_tuple=True)
    given = (anchors, documents + QUERIES, grades[known])
    relations = PairRelations(*given, torch.arange(N), positive_from)
    return embeddings, relations, torch.where(known, grades, 0.0).clamp(min=0).numpy()


def search(
    relations: Relations, embeddings: Tensor, labels: Ragged | None = None, **options: object
) -> dict[str, float]:
    metric = NeighbourMetrics(relations, labels, **options)
    for ids in torch.arange(QUERIES).split(9):
        metric.update(embeddings[ids], ids)
    metric.update(embeddings[QUERIES:], torch.arange(QUERIES, N), corpus=True)
    return values_of(metric)


@pytest.mark.parametrize("positive_from", [None, 2.0])
@pytest.mark.parametrize("block_rows", [7, None])
def test_judgements(positive_from: float | None, block_rows: int | None) -> None:
    embeddings, relations, grades = judged(positive_from)
    scores = cosine_similarity(embeddings[:QUERIES].double(), embeddings[QUERIES:].double())
    relevant = grades >= (positive_from or 1)
    counted = np.flatnonzero(relevant.any(axis=1))
    expected: dict[str, list[float]] = {}
    for query in counted:
        rank = np.argsort(-scores[query], kind="stable")
        for k in (3, 10):
            hits = relevant[query][rank][:k]
            found = np.flatnonzero(hits)
            average = sum((i + 1) / (place + 1) for i, place in enumerate(found))
            expected.setdefault(f"map@{k}", []).append(average / min(k, relevant[query].sum()))
            expected.setdefault(f"recall@{k}", []).append(hits.sum() / relevant[query].sum())
            gain = ndcg_score(grades[[query]], scores[[query]], k=k, ignore_ties=True)
            expected.setdefault(f"ndcg@{k}", []).append(gain)
        whole = average_precision_score(relevant[query], scores[query])
        expected.setdefault("map@500", []).append(whole)
    got = search(relations, embeddings, graded=(3, 10, 500), block_rows=block_rows)
    means = {name: float(np.mean(each)) for name, each in expected.items()}
    assert {name: got[name] for name in means} == pytest.approx(means, rel=1e-5)
    assert got["queries_without_positive"] == QUERIES - len(counted) >= 2


def test_without_grades_what_is_relevant_has_grade_one() -> None:
    embeddings, relations, _ = judged()

    class Plain:
        def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
            return relations.positive(anchors, candidates)

    got = search(Plain(), embeddings, graded=(10,))
    scores = cosine_similarity(embeddings[:QUERIES].double(), embeddings[QUERIES:].double())
    relevant = relations.positive(torch.arange(QUERIES), torch.arange(QUERIES, N)).numpy()
    some = relevant.any(axis=1)
    expected = ndcg_score(relevant[some], scores[some], k=10, ignore_ties=True)
    assert got["ndcg@10"] == pytest.approx(expected, rel=1e-5)


def test_a_query_has_no_grade_for_itself() -> None:
    class All:
        def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
            return torch.ones(len(anchors), len(candidates), dtype=torch.bool)

    metric = NeighbourMetrics(All(), graded=(5,))
    metric.update(torch.eye(3), torch.arange(3))
    assert values_of(metric)["ndcg@5"] == pytest.approx(1)


def tagged() -> tuple[Tensor, Tensor, Ragged]:
    """Embeddings that lean to the means of their classes', which of 7 classes items have, and as lists."""
    generator = torch.Generator().manual_seed(0)
    held = torch.rand(N, 7, generator=generator) < 0.3
    held[5], held[60] = False, False
    centres = torch.randn(7, 8, generator=generator)
    embeddings = held.float() @ centres + 0.5 * torch.randn(N, 8, generator=generator)
    return embeddings, held, Ragged.from_lists([row.nonzero().flatten().tolist() for row in held])


@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("block_rows", [7, None])
def test_several_labels_are_voted_for(temperature: float | None, block_rows: int | None) -> None:
    embeddings, held, labels = tagged()
    got = search(
        Overlap(held), embeddings, labels, knn=(1, 5), knn_temperature=temperature, block_rows=block_rows
    )
    similar = cosine_similarity(embeddings[:QUERIES].double(), embeddings[QUERIES:].double())
    has, voters = held.numpy()[:QUERIES], held.numpy()[QUERIES:]
    voting = np.flatnonzero(voters.any(axis=1))
    for k in (1, 5):
        predicted = np.zeros_like(has)
        for query in range(QUERIES):
            near = voting[np.argsort(-similar[query][voting])[:k]]
            weights = np.exp(similar[query][near] / temperature) if temperature else np.ones(k)
            shares = (weights[:, None] * voters[near]).sum(axis=0) / weights.sum()
            predicted[query] = shares >= 0.5
            if not predicted[query].any():
                tied = shares == shares.max()
                nearest = next(each for each in near if (voters[each] & tied).any())
                predicted[query, np.flatnonzero(voters[nearest] & tied)[0]] = True
        asked = has.any(axis=1)
        assert not asked.all()
        for average in ("micro", "macro"):
            expected = f1_score(has[asked], predicted[asked], average=average)
            assert got[f"knn{k}_f1_{average}"] == pytest.approx(expected)
    assert not any("accuracy" in name for name in got)


def test_several_labels_among_themselves() -> None:
    embeddings, held, labels = tagged()
    relations = MultiLabelRelations(labels, [*"abcdefg"], torch.arange(N))
    results = []
    for given in (relations, Overlap(held)):
        metric = NeighbourMetrics(given, labels, knn=(3,))
        metric.update(embeddings, torch.arange(N))
        results.append(values_of(metric))
    assert results[0] == results[1]
    assert results[0]["queries_without_positive"] == (~held.any(dim=1)).sum()
    metric.update(embeddings[:1], torch.tensor([N]))
    with pytest.raises(ValueError, match=f"id {N} has no label; labels has {N} entries"):
        metric.compute()


def test_bad_list_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"every k must be at least 1, got .* graded=\(0,\)"):
        NeighbourMetrics(Overlap(torch.ones(1, 1)), graded=(0,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("knows_devices", [False, True])
def test_a_gpu_gives_what_the_cpu_gives(knows_devices: bool) -> None:
    embeddings, held, labels = tagged()
    relations = MultiLabelRelations(labels, [*"abcdefg"], torch.arange(N)) if knows_devices else Overlap(held)
    results = []
    for device in ("cpu", "cuda"):
        metric = NeighbourMetrics(relations, labels, knn_temperature=0.2, graded=(5,)).to(device)
        metric.update(embeddings.to(device), torch.arange(N, device=device))
        results.append(values_of(metric))
    assert results[1] == pytest.approx(results[0], rel=1e-5)
