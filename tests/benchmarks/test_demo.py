"""What the demo measures: its figures against loops and scikit-learn, and what it reads of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid

from benchmarks import demo


def test_similar_items_and_nearest_kinds_against_a_loop() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 5)).astype(np.float32)
    labels = [f"c{number % 3}" for number in range(40)]
    scores = cosine_similarity(vectors)
    precise, averages = [], []
    for query in range(40):
        order = [other for other in np.argsort(-scores[query], kind="stable") if other != query]
        hits = [labels[other] == labels[query] for other in order]
        r = sum(hits)
        precise.append(np.mean(hits[:10]))
        averages.append(sum(np.mean(hits[: place + 1]) for place in range(r) if hits[place]) / r)
    found = demo.similar_items(vectors, labels)
    assert found == pytest.approx({"MAP@R": np.mean(averages), "P@10": np.mean(precise)}, abs=1e-6)
    corpus, queries = vectors[:30], vectors[30:]
    nearest = np.argsort(-cosine_similarity(queries, corpus), axis=1, kind="stable")[:, :10]
    same = np.asarray(labels[:30])[nearest] == np.asarray(labels[30:])[:, None]
    expected = {"P@1": same[:, 0].mean(), "P@10": same.mean()}
    assert demo.nearest_kinds(queries, labels[30:], corpus, labels[:30]) == pytest.approx(expected, abs=1e-6)


def test_few_examples_are_the_nearest_means_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat(["a", "b", "c"], 8)
    centres = np.repeat(np.eye(3), 8, axis=0)
    vectors = (centres + 0.6 * generator.normal(size=(24, 3))).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shares = []
    for examples, rest in demo.drawn_examples(labels, draws=5):
        assert len(examples) == 3 * demo.EXAMPLES
        assert not set(examples) & set(rest)
        means = NearestCentroid().fit(unit[examples], labels[examples])
        centroids = means.centroids_ / np.linalg.norm(means.centroids_, axis=1, keepdims=True)
        predicted = means.classes_[(unit[rest] @ centroids.T).argmax(1)]
        shares.append((predicted == labels[rest]).mean())
    assert demo.few_examples(vectors, labels, draws=5) == pytest.approx(np.mean(shares))


def test_words_alone_recognise_what_shares_them() -> None:
    texts = [f"{word} number {number}" for word in ("apple", "pear") for number in range(6)]
    assert demo.few_by_words(texts, np.repeat(["a", "b"], 6), draws=3) == 1.0


def test_hidden_labels_are_disjoint_parts() -> None:
    labels = [row["label"] for row in demo.pyarrow.csv.read_csv(demo.QUESTIONS).to_pylist()]
    parts = demo.new_labels(labels)
    assert [len(part) for part in parts] == [5, 5, 5]
    assert len({label for part in parts for label in part}) == 15
    assert {labels.count(label) for label in set(labels)} == {12}


def test_what_a_run_says_of_its_negatives(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,mining/seconds,mining/stall_seconds,mining/snapshot_seconds\n0,9,,\n5,1.5,0.25,0.5\n9,2,,\n"
    )
    for version in (1, 2):
        folder = tmp_path / "negatives" / f"v{version:06d}"
        folder.mkdir(parents=True)
        candidates = [
            {"key": "dropped", "score": 0.9, "verdict": "RelativeMargin"},
            {"key": f"n{version}", "score": 0.5, "verdict": "kept"},
        ]
        sample = {"anchors": [{"key": "a", "candidates": candidates}, {"key": "b", "candidates": []}]}
        (folder / "sample.json").write_text(json.dumps(sample))
    unused = tmp_path / "negatives" / "v000003"
    unused.mkdir()
    (unused / "sample.json").write_text(json.dumps({"anchors": [{"anchor": 7, "candidates": []}]}))
    assert demo.mined(tmp_path) == {
        "tables": 3,
        "seconds": 3.5,
        "waited": 0.75,
        "examples": [{"anchor": "a", "negative": "n2", "score": 0.5}],
    }
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.csv").write_text("step\n0\n")
    assert demo.mined(empty)["examples"] == []
