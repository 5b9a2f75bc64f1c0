"""Measures of torchmetrics, of the same rankings, pairs and clusters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics import AveragePrecision, PearsonCorrCoef, SpearmanCorrCoef
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
from lit_metric.metrics import NeighbourMetrics
from lit_metric.metrics.functional import (
    accuracy,
    average_precision,
    macro_accuracy,
    macro_f1,
    normalized_mutual_information,
    pearson,
    spearman,
)
from tests.peers.cases import count, seeds

PEER = "torchmetrics"


def judged(seed: int) -> tuple[Tensor, Tensor]:
    """Vectors of queries and then of documents, and grades ``[Q, D]``, of which some queries have none."""
    generator = torch.Generator().manual_seed(seed)
    queries, documents = (int(torch.randint(2, high, (), generator=generator)) for high in (25, 70))
    grades = torch.randint(0, 4, (queries, documents), generator=generator).float()
    grades *= torch.rand(grades.shape, generator=generator) < (0.05, 0.3, 0.9)[seed % 3]
    grades[0, -1] = 1.0
    return torch.randn(queries + documents, 6, generator=generator), grades


@seeds(quick=4)
def test_search(seed: int) -> None:
    vectors, grades = judged(seed)
    (queries, documents), total = grades.shape, len(vectors)
    ks = tuple(k for k in (1, 3, 5, 10, 50) if k <= documents)
    anchors, places = grades.nonzero(as_tuple=True)
    relations = PairRelations(
        anchors, places + queries, grades[anchors, places], torch.arange(total), positive_from=1
    )
    metric = NeighbourMetrics(relations, ks=ks, graded=(*ks, total), block_rows=1 + seed % 7)
    metric.update(vectors[:queries], torch.arange(queries))
    metric.update(vectors[queries:], torch.arange(queries, total), corpus=True)
    found = {name: value.item() for name, value in metric.compute().items()}
    unit = torch.nn.functional.normalize(vectors, dim=1)
    scores = unit[:queries] @ unit[queries:].T + 2  # what scores 0 or less is nothing to its MAP
    numbers = torch.arange(queries)[:, None].expand_as(scores)
    relevant = grades > 0
    measures = {
        "mrr": RetrievalMRR,
        "r_precision": RetrievalRPrecision,
        f"map@{total}": RetrievalMAP,
        **{f"ndcg@{k}": RetrievalNormalizedDCG for k in ks},
        **{f"hit_rate@{k}": RetrievalHitRate for k in ks},
        **{f"recall@{k}": RetrievalRecall for k in ks},
        **{f"precision@{k}": RetrievalPrecision for k in ks},
    }
    for name, measure in measures.items():
        k = int(name.partition("@")[2] or 0)
        # Queries without a relevant document are left out here, and count as 0 there unless they are skipped.
        peer = measure(empty_target_action="skip", **({"top_k": k} if 0 < k < total else {}))
        target = grades.long() if name.startswith("ndcg") else relevant
        assert found[name] == pytest.approx(float(peer(scores, target, numbers)), rel=1e-5), name
        count(PEER, "search")


@seeds(quick=4)
def test_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(3, 200, (), generator=generator))
    scores, noise = torch.randn(2, size, generator=generator, dtype=torch.float64)
    targets = (scores + noise).round(decimals=seed % 3)  # with many ties, some, and hardly any
    for ours, peer in ((pearson, PearsonCorrCoef()), (spearman, SpearmanCorrCoef())):
        expected = peer.set_dtype(torch.float64)(scores, targets)
        assert float(ours(scores, targets)) == pytest.approx(float(expected), abs=1e-6)
        count(PEER, "correlations")
    together = torch.rand(size, generator=generator) < 0.4
    together[0] = True
    for values in (scores, scores.round(decimals=1)):
        expected = AveragePrecision("binary")(values.sigmoid(), together.long())
        assert float(average_precision(values.sigmoid(), together)) == pytest.approx(
            float(expected), abs=1e-5
        )
        count(PEER, "average precision of pairs")


@seeds(quick=4)
def test_classes_and_clusters(seed: int) -> None:
    from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall

    generator = torch.Generator().manual_seed(seed)
    classes, size = (int(torch.randint(2, high, (), generator=generator)) for high in (9, 300))
    labels, other = torch.randint(classes, (2, size), generator=generator)
    other[::2] = labels[::2]
    expected = NormalizedMutualInfoScore("arithmetic")(other, labels)
    assert float(normalized_mutual_information(labels, other)) == pytest.approx(float(expected), abs=1e-5)
    assert float(accuracy(other, labels)) == pytest.approx(float((labels == other).float().mean()))
    # Only classes that occur count; the peer's mean also leaves out those that neither side has.
    occur = torch.bincount(labels, minlength=classes) > 0
    recalls = multiclass_recall(other, labels, classes, average=None)[occur].mean()
    assert float(macro_accuracy(other, labels)) == pytest.approx(float(recalls), abs=1e-6)
    count(PEER, "classification and clusters", 3)
    if bool(occur.all()):
        expected = multiclass_f1_score(other, labels, classes, average="macro")
        assert float(macro_f1(other, labels)) == pytest.approx(float(expected), abs=1e-6)
        count(PEER, "classification and clusters")
