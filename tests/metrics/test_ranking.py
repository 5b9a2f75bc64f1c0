"""Each retrieval metric alone, against pytorch-metric-learning, torchmetrics and all of them together."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalPrecision,
    RetrievalRecall,
    RetrievalRPrecision,
)

import lit_metric.metrics as package
from lit_metric.metrics import (
    MRR,
    HitRateAtK,
    MAPAtK,
    MAPAtR,
    NDCGAtK,
    NeighbourMetrics,
    PrecisionAtK,
    RecallAtK,
    RetrievalMetric,
    RPrecision,
)
from lit_metric.metrics.ranking import MEASURES, split_name
from tests.metrics.items import SameClass, clustered

N = 80


def all_metrics(**arguments: object) -> dict[str, RetrievalMetric]:
    at_k = [kind(5, **arguments) for kind in (HitRateAtK, PrecisionAtK, RecallAtK, MAPAtK, NDCGAtK)]  # type: ignore[arg-type]
    metrics = [*at_k, *(kind(**arguments) for kind in (MAPAtR, RPrecision, MRR))]  # type: ignore[arg-type]
    return {metric.name: metric for metric in metrics}


def test_each_measure_has_a_class() -> None:
    exported = [getattr(package, name) for name in package.__all__]
    classes = [each for each in exported if isinstance(each, type) and issubclass(each, RetrievalMetric)]
    assert sorted(each.measure for each in classes if each is not RetrievalMetric) == sorted(MEASURES)


def test_the_message_on_an_unknown_name_lists_all() -> None:
    with pytest.raises(ValueError, match="use one of " + ", ".join(MEASURES)):
        split_name("accuracy@1")


def scores_and_relevance() -> tuple[Tensor, Tensor, Tensor]:
    """Of every item with every other, and the number of each query."""
    embeddings, labels = clustered(N)
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    others = ~torch.eye(N, dtype=torch.bool)
    scores, relevant = (unit @ unit.T + 2)[others], (labels[:, None] == labels)[others]
    return scores, relevant, torch.arange(N).repeat_interleave(N - 1)


def test_they_are_those_of_the_peers() -> None:
    embeddings, labels = clustered(N)
    calculator = AccuracyCalculator(("mean_average_precision_at_r", "r_precision"), k="max_bin_count")
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    theirs = calculator.get_accuracy(unit, labels, unit, labels, ref_includes_query=True)
    expected = {"map@r": theirs["mean_average_precision_at_r"], "r_precision": theirs["r_precision"]}
    scores, relevant, queries = scores_and_relevance()
    peers = {
        "hit_rate@5": RetrievalHitRate(top_k=5),
        "precision@5": RetrievalPrecision(top_k=5),
        "recall@5": RetrievalRecall(top_k=5),
        "ndcg@5": RetrievalNormalizedDCG(top_k=5),
        "r_precision": RetrievalRPrecision(),
        "mrr": RetrievalMRR(),
    }
    expected |= {name: float(peer(scores, relevant, queries)) for name, peer in peers.items()}
    for name, metric in all_metrics().items():
        for part in torch.arange(N).split(30):
            metric.update(embeddings[part], labels=labels[part])
        value = metric.compute()
        assert value.shape == ()
        if name in expected:
            assert value.item() == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("block_rows", [None, 7])
def test_they_are_those_of_all_together_and_so_is_each_query(block_rows: int | None) -> None:
    embeddings, labels = clustered(N)
    labels[::9] = -1
    labels[3] = 77  # a query without a relevant item
    relations, ids = SameClass(labels), torch.randperm(N, generator=torch.Generator().manual_seed(0))
    everything = NeighbourMetrics(relations, labels, ks=(5,), knn=(1,), graded=(5,))
    everything.update(embeddings[ids], ids)
    expected, columns = everything.compute(), everything.per_query()
    assert columns["id"].tolist() == [*range(N)]
    right = columns["knn1_accuracy"]
    assert right[labels >= 0].mean() == expected["knn1_accuracy"]
    assert right[labels < 0].isnan().all()
    by_relations = all_metrics(relations=relations, block_rows=block_rows)
    by_labels = all_metrics(block_rows=block_rows)
    for name, metric in by_relations.items():
        metric.update(embeddings[ids], ids)
        by_labels[name].update(embeddings, labels=labels)
        for one in (metric, by_labels[name]):
            assert one.compute().item() == pytest.approx(expected[name].item(), rel=1e-6)
            torch.testing.assert_close(one.per_query()[name], columns[name], equal_nan=True)
        assert columns[name].nanmean().item() == pytest.approx(expected[name].item(), rel=1e-5)
        assert columns[name].isnan().tolist() == [
            int((labels == label).sum()) < 2 or label < 0 for label in labels
        ]


def test_a_collection_with_a_corpus() -> None:
    embeddings, labels = clustered(N)
    metrics = MetricCollection(all_metrics(similarity="dot"))
    expected = NeighbourMetrics(SameClass(labels), ks=(5,), graded=(5,), similarity="dot")
    for part, corpus in ((torch.arange(20), False), (torch.arange(20, N), True)):
        for rows in part.split(10):
            metrics.update(embeddings[rows], labels=labels[rows], corpus=corpus)
        expected.update(embeddings[part], part, corpus=corpus)
    found, wanted = metrics.compute(), expected.compute()
    assert {name: found[name].item() for name in found} == pytest.approx(
        {name: wanted[name].item() for name in found}
    )
    assert metrics(embeddings[:9], labels=labels[:9])["mrr"] >= 0  # of one batch
    metrics.reset()
    assert all(not metric.embeddings for metric in metrics.values())


def test_nothing_relevant_is_not_a_number() -> None:
    metric = MRR()
    metric.update(torch.eye(3), labels=torch.arange(3))
    assert metric.compute().isnan()
    assert metric.per_query()["mrr"].isnan().all()


def test_bad_use_is_refused() -> None:
    with pytest.raises(ValueError, match="HitRateAtK needs k"):
        HitRateAtK()
    with pytest.raises(ValueError, match="map@r has no k"):
        MAPAtR(k=3)
    for name in ("map@0", "map", "recall@x", "accuracy@1"):
        with pytest.raises(ValueError, match=f"there is no retrieval metric '{name}'"):
            split_name(name)
    metric, related = MAPAtR(), MAPAtR(relations=SameClass(torch.arange(3)))
    with pytest.raises(ValueError, match="give labels=, or make the metric with relations="):
        metric.update(torch.eye(3))
    with pytest.raises(ValueError, match="takes ids= and no labels="):
        related.update(torch.eye(3), labels=torch.arange(3))
    with pytest.raises(ValueError, match="relations are between ids: give ids="):
        related.update(torch.eye(3))
    with pytest.raises(ValueError, match=r"got \[3, 3\] and \[3\] and \[2\]"):
        metric.update(torch.eye(3), labels=torch.arange(2))
    metric.update(torch.eye(3), labels=torch.arange(3))
    metric.update(torch.eye(3), ids=torch.arange(3), labels=torch.arange(3))
    with pytest.raises(ValueError, match="give ids in every update, or in none"):
        metric.compute()
