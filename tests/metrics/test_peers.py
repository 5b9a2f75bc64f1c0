"""The same search, pairs and triplets measured by torchmetrics and by sentence-transformers' evaluators."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.evaluation import (
    BinaryClassificationEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)
from sentence_transformers.util import cos_sim
from torch import Tensor
from torchmetrics.clustering import NormalizedMutualInfoScore
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMAP,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalPrecision,
    RetrievalRecall,
    RetrievalRPrecision,
)

from lit_metric.data import PairRelations
from lit_metric.metrics import NeighbourMetrics, PairMetrics, TripletMetrics
from lit_metric.metrics.functional import normalized_mutual_information
from tests.metrics.items import clustered

QUERIES, N, KS = 25, 110, (1, 3, 10)


class Stored:
    """As much of a SentenceTransformer as the evaluators ask for; a text is the number of its embedding."""

    similarity_fn_name = "cosine"
    model_card_data = Mock()

    def __init__(self, embeddings: Tensor) -> None:
        self.embeddings = embeddings

    def encode(self, texts: list[str], convert_to_tensor: bool = False, **_: object) -> Tensor | np.ndarray:
        vectors = self.embeddings[[int(text) for text in texts]]
        return vectors if convert_to_tensor else vectors.numpy()

    encode_query = encode_document = encode


def judged() -> tuple[Tensor, Tensor]:
    """Embeddings of queries, then of documents, and grades ``[Q, N - Q]``; each query has a good document."""
    embeddings, _ = clustered(N)
    generator = torch.Generator().manual_seed(0)
    grades = torch.randint(0, 4, (QUERIES, N - QUERIES), generator=generator).float()
    grades *= torch.rand(grades.shape, generator=generator) < 0.15
    grades[torch.arange(QUERIES), torch.arange(QUERIES)] = 2.0
    return embeddings, grades


def ours(embeddings: Tensor, grades: Tensor) -> dict[str, float]:
    anchors, documents = grades.nonzero(as_tuple=True)
    relations = PairRelations(
        anchors, documents + QUERIES, grades[anchors, documents], torch.arange(N), positive_from=1
    )
    metric = NeighbourMetrics(relations, ks=KS, graded=(*KS, N))
    metric.update(embeddings[:QUERIES], torch.arange(QUERIES))
    metric.update(embeddings[QUERIES:], torch.arange(QUERIES, N), corpus=True)
    return {name: value.item() for name, value in metric.compute().items()}


def test_sentence_transformers_measures_a_search_alike() -> None:
    embeddings, grades = judged()
    evaluator = InformationRetrievalEvaluator(
        queries={f"q{row}": str(row) for row in range(QUERIES)},
        corpus={f"{row:04d}": str(row) for row in range(QUERIES, N)},
        relevant_docs={
            f"q{row}": {f"{int(at) + QUERIES:04d}" for at in grades[row].nonzero()} for row in range(QUERIES)
        },
        mrr_at_k=[N],
        ndcg_at_k=list(KS),
        accuracy_at_k=list(KS),
        precision_recall_at_k=list(KS),
        map_at_k=list(KS),
        score_functions={"cosine": cos_sim},
    )
    theirs = evaluator.compute_all_metrics(Stored(embeddings))["cosine"]
    found = ours(embeddings, (grades > 0).float())  # it knows no grades
    names = {
        "accuracy": "recall",
        "recall": "hit_rate",
        "precision": "precision",
        "ndcg": "ndcg",
        "map": "map",
    }
    expected = {f"{our}@{k}": theirs[f"{their}@k"][k] for their, our in names.items() for k in KS}
    expected["mrr"] = theirs["mrr@k"][N]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert 0.05 < found["ndcg@10"] < 0.9


def test_torchmetrics_measures_a_search_alike() -> None:
    embeddings, grades = judged()
    found = ours(embeddings, grades)
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    scores = unit[:QUERIES] @ unit[QUERIES:].T + 2  # what scores 0 or less is nothing to its MAP
    queries = torch.arange(QUERIES)[:, None].expand_as(scores)
    relevant = grades > 0
    expected = {"mrr": RetrievalMRR()(scores, relevant, queries)}
    expected["r_precision"] = RetrievalRPrecision()(scores, relevant, queries)
    expected[f"map@{N}"] = RetrievalMAP()(scores, relevant, queries)
    for k in KS:
        expected[f"ndcg@{k}"] = RetrievalNormalizedDCG(top_k=k)(scores, grades.long(), queries)
        expected[f"hit_rate@{k}"] = RetrievalHitRate(top_k=k)(scores, relevant, queries)
        expected[f"recall@{k}"] = RetrievalRecall(top_k=k)(scores, relevant, queries)
        expected[f"precision@{k}"] = RetrievalPrecision(top_k=k)(scores, relevant, queries)
    wanted = {name: float(value) for name, value in expected.items()}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert found["ndcg@10"] != pytest.approx(ours(embeddings, relevant.float())["ndcg@10"], rel=1e-2)


def test_sentence_transformers_measures_pairs_and_triplets_alike() -> None:
    embeddings, labels = clustered(N)
    first, second, third = torch.randint(0, N, (3, 200), generator=torch.Generator().manual_seed(1))
    texts = [[str(item) for item in column.tolist()] for column in (first, second, third)]
    same = (labels[first] == labels[second]).long()
    theirs = BinaryClassificationEvaluator(*texts[:2], same.tolist(), similarity_fn_names=["cosine"])
    metrics = theirs.compute_metrices(Stored(embeddings))["cosine"]
    pairs = PairMetrics(first, second, same.float())
    pairs.update(embeddings, torch.arange(N))
    assert pairs.compute()["pair_ap"].item() == pytest.approx(metrics["ap"], rel=1e-6)

    # TOT asks a triplet from both sides, and they from one.
    triplets = TripletMetrics(first, second, third)
    triplets.update(embeddings, torch.arange(N))
    right = [
        min(
            TripletEvaluator([anchor], [positive], [negative])(Stored(embeddings))["cosine_accuracy"]
            for anchor, positive in ((one, other), (other, one))
        )
        for one, other, negative in zip(*texts, strict=True)
    ]
    assert 0.1 < np.mean(right) < 0.9
    assert triplets.compute()["tot"].item() == pytest.approx(np.mean(right))


def test_torchmetrics_measures_mutual_information_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, clusters = torch.randint(6, (2, 300), generator=generator)
    clusters[::2] = labels[::2]
    expected = NormalizedMutualInfoScore("arithmetic")(clusters, labels)
    assert normalized_mutual_information(labels, clusters).item() == pytest.approx(float(expected), rel=1e-5)
