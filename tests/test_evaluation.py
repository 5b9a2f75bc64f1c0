"""The protocols of an evaluation, against scikit-learn and loops over pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from lit_metric import MetricDataModule
from lit_metric.evaluation import Evaluation, encode_split, evaluate
from tests.small import Small, write_csv

KS, KNN, TEMPERATURE = (1, 5), (1, 10), 0.1


def texts_and_labels(data: MetricDataModule, split: str) -> tuple[list[str], list[str]]:
    ids = data.splits[split]
    texts = [data.texts_of(item)[0] for item in ids.tolist()]
    return texts, [data.relations.classes[label] for label in data.relations.labels[ids].tolist()]


def retrieval(queries: np.ndarray, labels: list[str]) -> dict[str, float]:
    """Leave-one-out retrieval by loops."""
    found: dict[str, list[float]] = {"recall@1": [], "recall@5": [], "map@r": [], "mrr": []}
    for query, label in enumerate(labels):
        others = [other for other in range(len(labels)) if other != query]
        others.sort(key=lambda other: -float(queries[query] @ queries[other]))
        hits = [labels[other] == label for other in others]
        relevant = sum(hits)
        if not relevant:
            continue
        for k in KS:
            found[f"recall@{k}"].append(float(any(hits[:k])))
        precisions = [sum(hits[: place + 1]) / (place + 1) for place in range(relevant) if hits[place]]
        found["map@r"].append(sum(precisions) / relevant)
        found["mrr"].append(1 / (1 + hits.index(True)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def accuracies(
    corpus: tuple[np.ndarray, list[str]], queries: tuple[np.ndarray, list[str]], leave_one_out: bool = False
) -> dict[str, float]:
    """What scikit-learn's classifier gets right, over all and as the mean over classes."""
    results = {}
    for k in KNN:
        classifier = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda far: np.exp((1 - far) / TEMPERATURE)
        )
        truth = np.array(queries[1])
        if leave_one_out:
            everything = np.arange(len(truth))
            predicted = np.array(
                [
                    classifier.fit(queries[0][everything != one], truth[everything != one]).predict(
                        queries[0][[one]]
                    )[0]
                    for one in everything
                ]
            )
        else:
            predicted = classifier.fit(*corpus).predict(queries[0])
        right = predicted == truth
        results[f"knn{k}_accuracy"] = float(right.mean())
        results[f"knn{k}_accuracy_macro"] = float(np.mean([right[truth == one].mean() for one in set(truth)]))
    return results


def measured(small: Small, split: str = "test", **options: Any) -> tuple[dict[str, float], Any, Any]:
    """The evaluation's results, and ``(vectors, labels)`` of queries and training items by another way."""
    encoder, data = small.learner().encoder, small.data(max_tokens=50, **options)
    data.prepare(encoder.tokenizer)
    encoder.train()
    results = evaluate(encoder, data, split, Evaluation(data, split, KS, KNN, TEMPERATURE))
    assert encoder.training  # as it was
    ways = []
    for name in (split, "train"):
        texts, labels = texts_and_labels(data, name)
        ways.append((encoder.encode(texts), labels))
    return results, *ways


def test_among_themselves(small: Small) -> None:
    results, queries, _ = measured(small, test_against="self")
    expected = {**retrieval(*queries), **accuracies(queries, queries, leave_one_out=True)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_against_the_training_items(small: Small) -> None:
    results, queries, corpus = measured(small, test_against="train")
    expected = accuracies(corpus, queries)
    similar = queries[0] @ corpus[0].T
    same = np.array(queries[1])[:, None] == np.array(corpus[1])[None]
    order = np.argsort(-similar, axis=1)
    for k in KS:
        hits = np.take_along_axis(same, order[:, :k], axis=1)
        expected |= {f"recall@{k}": float(hits.any(1).mean()), f"precision@{k}": float(hits.mean())}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_both_retrieves_among_themselves_and_has_the_training_items_vote(small: Small) -> None:
    results, queries, corpus = measured(small, test_against="both")
    expected = {**retrieval(*queries), **accuracies(corpus, queries)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert len(queries[1]) == 30
    assert results["recall@1"] != accuracies(corpus, queries)["knn1_accuracy"]


def test_validation_has_a_protocol_of_its_own(small: Small) -> None:
    results, queries, corpus = measured(small, "validation", validation_share=0.4, validate_against="both")
    expected = {**retrieval(*queries), **accuracies(corpus, queries)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_class_that_only_the_queries_have(small: Small, tmp_path: Any) -> None:
    rows = [("w4 w5", "intent0"), ("w6 w4", "intent0"), ("w40", "new"), ("w41 w40", "new"), ("w42", "alone")]
    results, queries, corpus = measured(
        small, test=write_csv(tmp_path / "test.csv", rows), test_against="both"
    )
    expected = {**retrieval(*queries), **accuracies(corpus, queries)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    # One query has nothing to find among the queries; "new" does, though not among the training items.
    assert results["queries_without_positive"] == 1
    rows = rows[:-1]
    results, *_ = measured(small, test=write_csv(tmp_path / "test.csv", rows), test_against="both")
    assert "queries_without_positive" not in results


def test_without_training_items_the_queries_vote(small: Small) -> None:
    results, queries, _ = _without_train(small)
    expected = {**retrieval(*queries), **accuracies(queries, queries, leave_one_out=True)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def _without_train(small: Small) -> tuple[dict[str, float], Any, None]:
    encoder, data = small.learner().encoder, small.data(train=None)
    data.prepare(encoder.tokenizer)
    results = evaluate(encoder, data, "test", Evaluation(data, "test", KS, KNN, TEMPERATURE))
    texts, labels = texts_and_labels(data, "test")
    return results, (encoder.encode(texts), labels), None


def test_an_evaluation_starts_anew(small: Small) -> None:
    encoder, data = small.learner().encoder, small.data()
    data.prepare(encoder.tokenizer)
    evaluation = Evaluation(data, "test")
    first = evaluate(encoder, data, "test", evaluation)
    assert evaluate(encoder, data, "test", evaluation) == first


def test_the_shares_of_the_ranks_make_up_the_whole(small: Small) -> None:
    encoder, data = small.learner(dropout=0.5).encoder, small.data(max_tokens=30)
    data.prepare(encoder.tokenizer)
    encoder.train()
    shares = [list(encode_split(encoder, data, data.splits["train"], rank, 3)) for rank in range(3)]
    assert min(map(len, shares)) > 1
    ids = torch.cat([ids for share in shares for _, ids in share])
    vectors = torch.cat([vectors for share in shares for vectors, _ in share])
    assert sorted(ids.tolist()) == data.splits["train"].tolist()
    texts = [data.texts_of(item)[0] for item in ids.tolist()]
    unit = torch.nn.functional.normalize(vectors, dim=1)
    np.testing.assert_allclose(unit.numpy(), encoder.encode(texts), atol=1e-5)
    assert not vectors.requires_grad
