"""Link prediction with known facts left out, and recall by group, against loops over the ranking."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric.data import PairRelations
from lit_metric.metrics import NeighbourMetrics, filtered_rank

retrieval = importlib.import_module("lit_metric.metrics.retrieval")
QUERIES, N = 30, 90


def facts(equal_content: bool = False) -> tuple[Tensor, PairRelations, np.ndarray, np.ndarray]:
    """Embeddings of queries, then of entities; asked and otherwise known facts, and both as matrices."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(N, 6, generator=generator)
    kind = torch.rand(QUERIES, N - QUERIES, generator=generator)
    asked, known = kind < 0.05, kind > 0.85
    asked[4] = False
    fingerprints = torch.arange(N)
    if equal_content:
        fingerprints[-10:] = fingerprints[QUERIES : QUERIES + 10]
    heads, tails = asked.nonzero(as_tuple=True)
    others = known.nonzero(as_tuple=True)
    relations = PairRelations(
        heads, tails + QUERIES, None, fingerprints, ignored=(others[0], others[1] + QUERIES)
    )
    return embeddings, relations, asked.numpy(), known.numpy()


def ranks_by_loop(scores: np.ndarray, asked: np.ndarray, left_out: np.ndarray) -> list[int]:
    ranks = []
    for query, entity in zip(*asked.nonzero(), strict=True):
        rank = 1
        for other in range(scores.shape[1]):
            if not asked[query, other] and not left_out[query, other]:
                nearer = scores[query, other] > scores[query, entity]
                rank += nearer or (scores[query, other] == scores[query, entity] and other < entity)
        ranks.append(int(rank))
    return ranks


@pytest.mark.parametrize("elements", [2**24, 100])
def test_ranks_with_ties_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(retrieval, "_ELEMENTS", elements)
    _, _, asked, known = facts()
    scores = torch.randint(5, asked.shape, generator=torch.Generator().manual_seed(1)).float()
    rows, ranks = filtered_rank(scores, torch.from_numpy(asked), torch.from_numpy(known | asked))
    assert rows.tolist() == asked.nonzero()[0].tolist()
    assert ranks.tolist() == ranks_by_loop(scores.numpy(), asked, known)


@pytest.mark.parametrize("block_rows", [7, None])
def test_hits_and_reciprocal_ranks_are_means_over_facts(block_rows: int | None) -> None:
    embeddings, relations, asked, known = facts()
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    scores = (unit[:QUERIES] @ unit[QUERIES:].T).numpy()
    ranks = np.array(ranks_by_loop(scores, asked, known))
    metric = NeighbourMetrics(relations, filtered=(1, 3, 10), block_rows=block_rows)
    metric.update(embeddings[:QUERIES], torch.arange(QUERIES))
    metric.update(embeddings[QUERIES:], torch.arange(QUERIES, N), corpus=True)
    got = {name: value.item() for name, value in metric.compute().items()}
    expected = {f"hits@{k}": float((ranks <= k).mean()) for k in (1, 3, 10)}
    expected["filtered_mrr"] = float((1 / ranks).mean())
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    # The values by query make up the same means, if each counts as often as it has facts.
    values, by_query = metric.measure()
    assert {name: values[name].item() for name in expected} == pytest.approx(expected)
    for name, mean in expected.items():
        weights, column = by_query.weights[name].numpy(), by_query.columns[name].numpy()
        assert weights.tolist() == asked.sum(axis=1).tolist()
        assert np.nansum(weights * column) / weights.sum() == pytest.approx(mean)
    assert by_query.nearest.tolist() == [QUERIES + int(row.argmax()) for row in scores]
    # Nothing but the known facts stood in the way.
    raw = np.array(ranks_by_loop(scores, asked, np.zeros_like(known)))
    assert (ranks <= raw).all()
    assert float((1 / raw).mean()) < got["filtered_mrr"]
    plain = NeighbourMetrics(relations)
    plain.update(embeddings[:QUERIES], torch.arange(QUERIES))
    plain.update(embeddings[QUERIES:], torch.arange(QUERIES, N), corpus=True)
    assert plain.compute()["mrr"].item() == pytest.approx(got["mrr"])


def test_an_entity_of_the_positive_s_content_is_left_out() -> None:
    embeddings, relations, asked, known = facts(equal_content=True)
    embeddings[-10:] = embeddings[QUERIES : QUERIES + 10]
    fingerprints = relations.fingerprints[QUERIES:].numpy()
    left_out = known.copy()
    for query, entity in zip(*(known | asked).nonzero(), strict=True):
        left_out[query] |= fingerprints == fingerprints[entity]
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    ranks = np.array(ranks_by_loop((unit[:QUERIES] @ unit[QUERIES:].T).numpy(), asked, left_out))
    metric = NeighbourMetrics(relations, filtered=(1,))
    metric.update(embeddings[:QUERIES], torch.arange(QUERIES))
    metric.update(embeddings[QUERIES:], torch.arange(QUERIES, N), corpus=True)
    assert metric.compute()["filtered_mrr"].item() == pytest.approx(float((1 / ranks).mean()))


def test_recall_by_group_is_that_of_the_group_s_queries() -> None:
    embeddings, relations, asked, _ = facts()
    groups = [None if query % 5 == 0 else f"relation{query % 3}" for query in range(N)]
    metric = NeighbourMetrics(relations, ks=(1, 5), groups=groups)
    metric.update(embeddings[:QUERIES], torch.arange(QUERIES))
    metric.update(embeddings[QUERIES:], torch.arange(QUERIES, N), corpus=True)
    got = {name: value.item() for name, value in metric.compute().items()}
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    order = (unit[:QUERIES] @ unit[QUERIES:].T).argsort(dim=1, descending=True).numpy()
    for k in (1, 5):
        for group in ("relation0", "relation1", "relation2"):
            members = [query for query in range(QUERIES) if groups[query] == group and asked[query].any()]
            expected = np.mean([asked[query][order[query, :k]].any() for query in members])
            assert got[f"hit_rate@{k}_{group}"] == pytest.approx(expected)
    assert "hit_rate@1_None" not in got


def test_a_length_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"filtered=\(0,\)"):
        NeighbourMetrics(facts()[1], filtered=(0,))
