"""The protocols of an evaluation, against scikit-learn and loops over pairs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, ndcg_score
from sklearn.neighbors import KNeighborsClassifier

from lit_metric import MetricDataModule
from lit_metric.data import Judgements, Labels, Pairs, Triples
from lit_metric.evaluation import Evaluation, Measured, encode_split, evaluate, intervals, measure
from tests.small import Small, questions, write_csv

SPLITS = ("train", "validation", "test")
KS, KNN, TEMPERATURE = (1, 5), (1, 10), 0.1


def texts_and_labels(data: MetricDataModule, split: str) -> tuple[list[str], list[str]]:
    ids = data.splits[split]
    texts = [data.texts_of(item)[0] for item in ids.tolist()]
    return texts, [data.relations.classes[label] for label in data.relations.labels[ids].tolist()]


def retrieval(queries: np.ndarray, labels: list[str]) -> dict[str, float]:
    """Leave-one-out retrieval by loops."""
    found: dict[str, list[float]] = {"hit_rate@1": [], "hit_rate@5": [], "map@r": [], "mrr": []}
    for query, label in enumerate(labels):
        others = [other for other in range(len(labels)) if other != query]
        others.sort(key=lambda other: -float(queries[query] @ queries[other]))
        hits = [labels[other] == label for other in others]
        relevant = sum(hits)
        if not relevant:
            continue
        for k in KS:
            found[f"hit_rate@{k}"].append(float(any(hits[:k])))
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
    results, queries, _ = measured(small, test_corpus="self")
    expected = {**retrieval(*queries), **accuracies(queries, queries, leave_one_out=True)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_against_the_training_items(small: Small) -> None:
    results, queries, corpus = measured(small, test_corpus="train")
    expected = accuracies(corpus, queries)
    similar = queries[0] @ corpus[0].T
    same = np.array(queries[1])[:, None] == np.array(corpus[1])[None]
    order = np.argsort(-similar, axis=1)
    for k in KS:
        hits = np.take_along_axis(same, order[:, :k], axis=1)
        expected |= {f"hit_rate@{k}": float(hits.any(1).mean()), f"precision@{k}": float(hits.mean())}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_both_retrieves_among_themselves_and_has_the_training_items_vote(small: Small) -> None:
    results, queries, corpus = measured(small, test_corpus="both")
    expected = {**retrieval(*queries), **accuracies(corpus, queries)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert len(queries[1]) == 30
    assert results["hit_rate@1"] != accuracies(corpus, queries)["knn1_accuracy"]


def test_validation_has_a_protocol_of_its_own(small: Small) -> None:
    results, queries, corpus = measured(small, "validation", validation_share=0.4, validation_corpus="both")
    expected = {**retrieval(*queries), **accuracies(corpus, queries)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_class_that_only_the_queries_have(small: Small, tmp_path: Any) -> None:
    rows = [("w4 w5", "intent0"), ("w6 w4", "intent0"), ("w40", "new"), ("w41 w40", "new"), ("w42", "alone")]
    results, queries, corpus = measured(
        small, test=write_csv(tmp_path / "test.csv", rows), test_corpus="both"
    )
    expected = {**retrieval(*queries), **accuracies(corpus, queries)}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    # One query has nothing to find among the queries; "new" does, though not among the training items.
    assert results["queries_without_positive"] == 1
    rows = rows[:-1]
    results, *_ = measured(small, test=write_csv(tmp_path / "test.csv", rows), test_corpus="both")
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


WORDS = [f"w{number}" for number in range(4, 60)]


def encoded(small: Small, data: MetricDataModule, split: str = "test") -> tuple[dict[str, float], Any]:
    """The evaluation's results, and a function from texts to unit vectors."""
    encoder = small.learner().encoder
    data.prepare(encoder.tokenizer)
    results = evaluate(encoder, data, split, Evaluation(data, split, KS, KNN))
    return results, lambda texts: encoder.encode(list(texts)).astype(np.float64)


def phrases(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return list(dict.fromkeys(" ".join(draw.choices(WORDS, k=3)) for _ in range(count)))


def test_judgements_are_measured_by_grade(small: Small, tmp_path: Path) -> None:
    questions, documents, draw = phrases(12, 0), phrases(30, 1), random.Random(2)
    grades = {(q, d): draw.choice([0, 1, 2]) for q in range(12) for d in range(30) if draw.random() < 0.3}
    names = ("query_id", "document_id", "relevance")
    judgements = [(f"q{q}", f"d{d}", str(grade)) for (q, d), grade in grades.items()]
    folder = {
        "queries": write_csv(
            tmp_path / "queries.csv", [(f"q{n}", t) for n, t in enumerate(questions)], ("id", "text")
        ),
        "corpus": write_csv(
            tmp_path / "corpus.csv", [(f"d{n}", t) for n, t in enumerate(documents)], ("id", "text")
        ),
    }
    data = MetricDataModule(
        test=write_csv(tmp_path / "test.csv", judgements, names),
        supervision=Judgements(**folder),
        cache_dir=small / "cache",
    )
    results, encode = encoded(small, data)
    scores = encode(questions) @ encode(documents).T
    matrix = np.array([[grades.get((q, d), 0) for d in range(30)] for q in range(12)])
    counted = (matrix > 0).any(axis=1)
    assert results["ndcg@10"] == pytest.approx(ndcg_score(matrix[counted], scores[counted], k=10), abs=1e-6)
    first = [matrix[q, scores[q].argmax()] > 0 for q in np.flatnonzero(counted)]
    assert results["hit_rate@1"] == pytest.approx(np.mean(first))
    relevant = [matrix[q, np.argsort(-scores[q])[:10]] > 0 for q in np.flatnonzero(counted)]
    shares = [
        hits.sum() / (matrix[q] > 0).sum() for hits, q in zip(relevant, np.flatnonzero(counted), strict=True)
    ]
    assert results["recall@10"] == pytest.approx(np.mean(shares))
    assert not any(name.startswith("knn") or name == "spearman" for name in results)


@pytest.mark.parametrize("binary", [False, True])
def test_scored_pairs_are_measured_as_they_stand(small: Small, tmp_path: Path, binary: bool) -> None:
    first, second, draw = phrases(40, 3), phrases(40, 4), random.Random(5)
    rows = [
        (a, b, str(draw.choice([0, 1]) if binary else draw.random()))
        for a, b in zip(first, second, strict=True)
    ]
    path = write_csv(tmp_path / "test.csv", rows, ("sentence1", "sentence2", "score"))
    pairs = Pairs("sentence1", "sentence2", score="score")
    results, encode = encoded(
        small, MetricDataModule(test=path, supervision=pairs, cache_dir=small / "cache")
    )
    scores = (encode(first) * encode(second)).sum(axis=1)
    targets = np.array([float(row[2]) for row in rows])
    expected = {
        "spearman": stats.spearmanr(scores, targets).statistic,
        "pearson": stats.pearsonr(scores, targets).statistic,
    }
    if binary:
        expected["pair_ap"] = average_precision_score(targets, scores)
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert ("pair_ap" in results) == binary
    assert "ndcg@10" in results


def test_pairs_of_which_none_is_positive_are_not_searched(small: Small, tmp_path: Path) -> None:
    rows = [(a, b, f"-{n}") for n, (a, b) in enumerate(zip(phrases(9, 3), phrases(9, 4), strict=True), 1)]
    path = write_csv(tmp_path / "test.csv", rows, ("sentence1", "sentence2", "score"))
    pairs = Pairs("sentence1", "sentence2", score="score")
    data = MetricDataModule(test=path, supervision=pairs, cache_dir=small / "cache")
    assert encoded(small, data)[0].keys() == {"spearman", "pearson", "effective_rank"}


def test_triplets_are_measured_by_group(small: Small, tmp_path: Path) -> None:
    columns = [phrases(30, seed) for seed in (6, 7, 8)]
    rows = [(*texts, ("swap", "add")[place % 2]) for place, texts in enumerate(zip(*columns, strict=True))]
    path = write_csv(tmp_path / "test.csv", rows, ("anchor", "positive", "negative", "kind"))
    pairs = Pairs("anchor", "positive", "negative", group="kind")
    results, encode = encoded(
        small, MetricDataModule(test=path, supervision=pairs, cache_dir=small / "cache")
    )
    a, p, n = (encode(column) for column in columns)
    together = (a * p).sum(axis=1)
    right = (together > (a * n).sum(axis=1)) & (together > (p * n).sum(axis=1))
    expected = {"tot": right.mean(), "tot_swap": right[::2].mean(), "tot_add": right[1::2].mean()}
    assert {name: results[name] for name in expected} == pytest.approx(expected)
    assert 0 < expected["tot"] < 1
    assert "hit_rate@1" in results


@pytest.mark.parametrize("against", ["self", "train", "both"])
def test_several_labels(small: Small, tmp_path: Path, against: Any) -> None:
    paths, texts, held = {}, {}, {}
    for name, seed, count in (("train", 9, 50), ("test", 10, 20)):
        texts[name], draw = phrases(count, seed), random.Random(seed)
        held[name] = np.array([[draw.random() < 0.4 for _ in range(4)] for _ in texts[name]])
        held[name][:, 0] |= ~held[name].any(axis=1)
        tags = [",".join(f"tag{number}" for number in np.flatnonzero(row)) for row in held[name]]
        rows = list(zip(texts[name], tags, strict=True))
        paths[name] = write_csv(tmp_path / f"{name}.csv", rows, ("text", "labels"))
    labels = Labels(text="text", labels="labels", labels_separator=",")
    data = MetricDataModule(
        **paths, supervision=labels, test_corpus=against, validation_share=0.01, cache_dir=small / "cache"
    )
    results, encode = encoded(small, data)
    # Some of the training items may have been split off for validation.
    kept = [texts["train"].index(data.texts_of(item)[0]) for item in data.splits["train"].tolist()]
    queries, voters = held["test"], held["train"][kept]
    similar = encode(texts["test"]) @ encode(texts["train"]).T[:, kept]
    if against == "self":
        voters, similar = queries, encode(texts["test"]) @ encode(texts["test"]).T
        np.fill_diagonal(similar, -np.inf)
    predicted = voters[similar.argmax(axis=1)]
    for average in ("micro", "macro"):
        expected = f1_score(queries, predicted, average=average)
        assert results[f"knn1_f1_{average}"] == pytest.approx(expected)
    assert results["ndcg@10"] <= 1
    if against == "both":
        alone = encoded(small, MetricDataModule(test=paths["test"], supervision=labels, test_corpus="self"))
        same = {name for name in results if not name.startswith("knn")}
        assert {name: results[name] for name in same} == pytest.approx(
            {name: alone[0][name] for name in same}
        )


def test_triples_are_ranked_without_other_known_facts(small: Small, tmp_path: Path) -> None:
    texts, draw = phrases(25, 3), random.Random(4)
    entities = write_csv(
        tmp_path / "entities.csv", [(f"e{n}", t) for n, t in enumerate(texts)], ("id", "text")
    )
    facts = {
        split: {(draw.randrange(8), draw.randrange(25)) for _ in range(40)} for split in ("train", "test")
    }
    facts["test"] -= facts["train"]
    files = {
        split: write_csv(
            tmp_path / f"{split}.csv",
            [(f"e{head}", "made_of", f"e{tail}") for head, tail in sorted(pairs)],
            ("head", "relation", "tail"),
        )
        for split, pairs in facts.items()
    }
    data = MetricDataModule(**files, supervision=Triples(entities, inverse=False), cache_dir=small / "cache")
    results, encode = encoded(small, data)
    scores = encode([f"made of: {texts[head]}" for head in range(8)]) @ encode(texts).T
    ranks = []
    for head, tail in facts["test"]:
        known = {other for one, other in set().union(*facts.values()) if one == head}
        rivals = [scores[head, other] for other in range(25) if other not in known]
        ranks.append(1 + sum(rival > scores[head, tail] for rival in rivals))
    assert results["filtered_mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-6)
    for k in (1, 3, 10):
        assert results[f"hits@{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))


def test_the_space_is_measured_if_asked_for(small: Small) -> None:
    data = small.data(validation_corpus="self")
    learner = small.learner(space=True)
    data.prepare(learner.encoder.tokenizer)
    evaluation = Evaluation(data, "test", space=learner.space)
    results = evaluate(learner.encoder, data, "test", evaluation)
    texts, names = texts_and_labels(data, "test")
    vectors = torch.from_numpy(learner.encoder.encode(texts)).double()
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    squared = torch.cdist(vectors, vectors).square()
    pairs = [(i, j) for i in range(len(names)) for j in range(len(names)) if i != j]
    positives = [float(squared[pair]) for pair in pairs if names[pair[0]] == names[pair[1]]]
    assert results["alignment"] == pytest.approx(np.mean(positives), rel=1e-4)
    expected = np.log(np.mean([np.exp(-2 * float(squared[pair])) for pair in pairs]))
    assert results["uniformity"] == pytest.approx(expected, rel=1e-4)
    assert 0 <= results["nmi"] <= 1


def test_recall_by_group_of_queries_is_that_of_their_rows(small: Small, tmp_path: Path) -> None:
    rows = [
        (text, label, ("", "long", "short")[row % 3]) for row, (text, label) in enumerate(questions(72, 1))
    ]
    source = write_csv(tmp_path / "grouped.csv", rows, ("text", "label", "part"))
    data = small.data(train=None, test=source, supervision=Labels("text", label="label", group="part"))
    encoder = small.learner().encoder
    data.prepare(encoder.tokenizer)
    results = evaluate(encoder, data, "test", Evaluation(data, "test", ks=KS))
    vectors = encoder.encode([text for text, *_ in rows])
    for group in ("long", "short"):
        for k in KS:
            hits = []
            for query, (_, label, part) in enumerate(rows):
                others = [other for other in range(len(rows)) if other != query]
                others.sort(key=lambda other: -float(vectors[query] @ vectors[other]))
                if part == group:
                    hits.append(any(rows[other][1] == label for other in others[:k]))
            assert results[f"hit_rate@{k}_{group}"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert not any(name.endswith("_") for name in results)


@pytest.mark.parametrize("against", ["self", "train", "both"])
def test_values_by_query_are_what_the_means_are_of(small: Small, against: str) -> None:
    encoder, data = small.learner().encoder, small.data(test_corpus=against)
    data.prepare(encoder.tokenizer)
    found = measure(encoder, data, "test", Evaluation(data, "test"))
    assert found.values == pytest.approx(evaluate(encoder, data, "test", Evaluation(data, "test")))
    queries = found.queries[""]
    assert queries.ids.tolist() == data.splits["test"].tolist()
    assert {"map@r", "hit_rate@1", "mrr", "knn1_accuracy", "knn10_accuracy"} <= {*queries.columns}
    for name, column in queries.columns.items():
        assert float(column.nanmean()) == pytest.approx(found.values[name], abs=1e-6), name
    labels = data.relations.labels
    right = labels[queries.nearest] == labels[queries.ids]
    assert torch.equal(right.float(), queries.columns["hit_rate@1"])
    assert torch.isin(queries.nearest, data.splits["train" if against == "train" else "test"]).all()
    bounds = intervals(found, found)
    assert set(bounds) == set(queries.columns)
    assert all(each.change == (0, 0) and each.before == each.after for each in bounds.values())
    low, high = bounds["map@r"].after
    assert low < found.values["map@r"] < high
    assert intervals(Measured({}, {}), found) == {}
