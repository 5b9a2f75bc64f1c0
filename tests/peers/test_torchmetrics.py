"""Measures of torchmetrics, of the same rankings, pairs and classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics import AveragePrecision, PearsonCorrCoef, SpearmanCorrCoef
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
from lit_metric.metrics import NeighbourMetrics, PairMetrics, f1_macro, macro_accuracy, prediction_counts
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
    scores, noise = torch.randn(2, size, generator=generator)
    targets = (scores + noise).round(decimals=seed % 3)  # with many ties, some, and hardly any

    def ours(scores: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Of pairs with item 0, whose products are the scores."""
        ids = torch.arange(size + 1)
        metric = PairMetrics(torch.zeros_like(ids[1:]), ids[1:], targets, similarity="dot")
        metric.update(torch.cat([torch.ones(1), scores])[:, None], ids)
        return metric.compute()

    for name, peer in (("pearson", PearsonCorrCoef()), ("spearman", SpearmanCorrCoef())):
        expected = peer.set_dtype(torch.float64)(scores.double(), targets.double())
        assert float(ours(scores, targets)[name]) == pytest.approx(float(expected), abs=1e-6)
        count(PEER, "correlations")
    together = torch.rand(size, generator=generator) < 0.4
    together[:2] = torch.tensor([True, False])
    for values in (scores, scores.round(decimals=1)):
        expected = AveragePrecision("binary")(values.sigmoid(), together.long())
        assert float(ours(values.sigmoid(), together.float())["pair_ap"]) == pytest.approx(
            float(expected), abs=1e-5
        )
        count(PEER, "average precision of pairs")


@seeds(quick=4)
def test_classes(seed: int) -> None:
    from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall

    generator = torch.Generator().manual_seed(seed)
    classes, size = (int(torch.randint(2, high, (), generator=generator)) for high in (9, 300))
    labels, other = torch.randint(classes, (2, size), generator=generator)
    other[::2] = labels[::2]
    counts = prediction_counts(other, labels, classes)
    # Only classes that occur count; the peer's mean also leaves out those that neither side has.
    occur = torch.bincount(labels, minlength=classes) > 0
    recalls = multiclass_recall(other, labels, classes, average=None)[occur].mean()
    assert float(macro_accuracy(counts)) == pytest.approx(float(recalls), abs=1e-6)
    count(PEER, "classification")
    if bool(occur.all()):
        expected = multiclass_f1_score(other, labels, classes, average="macro")
        assert float(f1_macro(counts)) == pytest.approx(float(expected), abs=1e-6)
        count(PEER, "classification")
