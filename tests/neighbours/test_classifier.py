"""`NeighbourClassifier` against scikit-learn, naive loops, and its own saved state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from sklearn.utils.estimator_checks import parametrize_with_checks

import lit_metric
from lit_metric import NeighbourClassifier, SetEncoder, TextEncoder
from lit_metric.index import ExactIndex
from lit_metric.neighbours import StoredClassifierError
from tests.small import Small, questions

SHARES_MAY_BE_0 = {
    "check_classifiers_multilabel_output_format_predict_proba": (
        "wants shares above 0, and the share of a label that no neighbour has is 0"
    )
}


@parametrize_with_checks([NeighbourClassifier()], expected_failed_checks=lambda _: SHARES_MAY_BE_0)
@pytest.mark.filterwarnings("ignore")
def test_it_is_an_estimator_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def vectors(count: int, seed: int, dimension: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.1, None])
def test_votes_are_those_of_scikit_learn(temperature: float | None) -> None:
    known, asked = normalize(vectors(80, 0)), normalize(vectors(40, 1))
    labels = np.array([f"class {number % 4}" for number in range(80)])

    def weigh(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / temperature) if temperature else np.ones_like(distances)

    peer = KNeighborsClassifier(7, metric="cosine", algorithm="brute", weights=weigh).fit(known, labels)
    ours = NeighbourClassifier(k=7, temperature=temperature).fit(known * 3, labels)
    np.testing.assert_allclose(ours.predict_proba(asked), peer.predict_proba(asked), atol=1e-4)
    clear = np.diff(np.sort(peer.predict_proba(asked), axis=1)[:, -2:])[:, 0] > 1e-3
    assert clear.sum() > 20
    assert (ours.predict(asked) == peer.predict(asked))[clear].all()
    for found, expected in zip(ours.kneighbors(asked), peer.kneighbors(asked), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    found, expected = ours.kneighbors(n_neighbors=3)[1], peer.kneighbors(n_neighbors=3)[1]
    np.testing.assert_array_equal(found, expected)  # nobody is its own neighbour


def test_fewer_items_than_neighbours_vote() -> None:
    classifier = NeighbourClassifier(k=10).fit([[1, 0], [0, 1]], [7, 3])
    assert classifier.predict([[2, 1], [1, 3]]).tolist() == [7, 3]
    weights = np.exp(np.array([1, 2]) / np.sqrt(5) / 0.1)
    np.testing.assert_allclose(classifier.predict_proba([[2, 1]])[0], weights / weights.sum(), rtol=1e-4)


def test_several_labels_come_back_in_their_form() -> None:
    known = [[1, 0], [1, 0.1], [0, 1], [0.1, 1]]
    lists = [["a", "b"], ["a"], ["c"], ["c"]]
    classifier = NeighbourClassifier(k=2, temperature=None).fit(known, lists)
    assert classifier.predict([[1, 0.05], [0, 1]]) == [["a", "b"], ["c"]]
    assert classifier.predict_proba([[1, 0.05]]).tolist() == [[1.0, 0.5, 0.0]]
    matrix = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]])
    numbers = NeighbourClassifier(k=2, temperature=None).fit(known, matrix)
    assert numbers.predict([[1, 0.05], [0, 1]]).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert (
        numbers.score(known, matrix) == 0.75
    )  # the second gets both labels of the first, with half of the votes
    assert classifier.y_ == lists


def test_new_items_and_new_classes_join_without_training() -> None:
    one = NeighbourClassifier(k=3).fit(vectors(30, 0), ["b"] * 15 + ["d"] * 15)
    one.partial_fit(vectors(20, 1), ["a"] * 10 + ["d"] * 10)
    labels = ["b"] * 15 + ["d"] * 15 + ["a"] * 10 + ["d"] * 10
    whole = NeighbourClassifier(k=3).fit(np.concatenate([vectors(30, 0), vectors(20, 1)]), labels)
    asked = vectors(50, 2)
    assert one.classes_.tolist() == ["a", "b", "d"]
    assert one.y_ == whole.y_ == labels
    np.testing.assert_array_equal(one.predict(asked), whole.predict(asked))
    np.testing.assert_array_equal(one.predict_proba(asked), whole.predict_proba(asked))
    one.partial_fit(vectors(1, 5), ["a"], classes=["z"])
    assert one.classes_.tolist() == ["a", "b", "d", "z"]
    with pytest.raises(ValueError, match="texts and others are numbers"):
        one.partial_fit(vectors(1, 3), [4])
    with pytest.raises(ValueError, match=r"'lists'.*was 'one'"):
        one.partial_fit(vectors(1, 3), [["a"]])
    assert len(one.names_) == len(one.y_) == 51


def test_the_share_of_known_items_that_is_refused_is_the_one_asked_for() -> None:
    centres = vectors(5, 0, 20)
    draw = np.random.default_rng(1)

    def items(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = draw.integers(5, size=count)
        return centres[labels] + draw.normal(size=(count, 20)) * 0.7, labels

    classifier = NeighbourClassifier(refuse=0.1).fit(*items(600))
    known, labels = items(2000)
    for _ in range(2):
        answers = classifier.predict(known)
        assert abs((answers == -1).mean() - 0.1) < 0.04  # 600 held-out items: a deviation of 0.012
        assert (answers == labels)[answers != -1].mean() > 0.9
        assert (classifier.predict(draw.normal(size=(500, 20))) == -1).mean() > 0.5
        classifier.calibrate(items(600)[0])
    held_out = items(19)[0]
    classifier.calibrate(held_out).set_params(refuse=0.2)
    cosines = 1 - classifier.kneighbors(np.concatenate([held_out, known[:50]]), 1)[0][:, 0]
    expected = [(1 + (cosines[:19] <= cosine).sum()) / 20 for cosine in cosines[19:]]
    np.testing.assert_allclose(classifier.p_known(known[:50]), expected)
    with pytest.raises(ValueError, match=r"refuse=0.01 is too low for 19 held-out items: 1 / 20 works"):
        classifier.set_params(refuse=0.01).predict(known)


def test_copies_don_t_make_new_items_look_strange() -> None:
    once = vectors(100, 0)
    asked = vectors(30, 1)
    twice = NeighbourClassifier(k=1).fit(np.concatenate([once, once]), [0] * 200)
    alone = NeighbourClassifier(k=1).fit(once, [0] * 100)
    np.testing.assert_allclose(twice.p_known(asked), alone.p_known(asked), atol=0.011)


@pytest.mark.parametrize(("labels", "answer"), [(["a", "b"], "unknown"), ([["a"], ["b"]], []), ([1, 2], -1)])
def test_an_item_unlike_anything_is_answered_in_the_form_of_labels(labels: list[Any], answer: Any) -> None:
    known = np.eye(40, dtype=np.float32)[:20] + 0.5
    classifier = NeighbourClassifier(refuse=0.2).fit(known, labels * 10)
    far = -np.ones((1, 40))
    assert list(classifier.predict(far)) == [answer]
    if answer == "unknown":
        with pytest.raises(ValueError, match="'a' is one of the classes"):
            classifier.set_params(unknown="a").predict(far)
        assert classifier.set_params(unknown="other").predict(far).tolist() == ["other"]


def test_it_takes_what_its_encoder_takes(small: Small) -> None:
    encoder = TextEncoder(small / "backbone")
    rows = questions(60, seed=5)
    texts, labels = [text for text, _ in rows[:48]], [label for _, label in rows[:48]]
    asked = [text for text, _ in rows[48:]]
    by_text = NeighbourClassifier(encoder, k=3).fit(texts, labels)
    by_vector = NeighbourClassifier(k=3).fit(encoder.encode(texts), labels)
    expected = by_vector.predict(encoder.encode(asked))
    for form in (asked, np.array(asked), pd.Series(asked), tuple(asked), encoder.encode(asked)):
        np.testing.assert_array_equal(by_text.predict(form), expected)
    assert by_text.names_ == texts
    assert by_text.predict([]).tolist() == []
    by_path = NeighbourClassifier(small / "backbone", k=3).fit(texts, labels)
    np.testing.assert_array_equal(by_path.predict(asked), expected)
    sets = NeighbourClassifier(SetEncoder(encoder), k=1).fit([text.split() for text in texts], labels)
    assert sets.predict([texts[3].split()[::-1]]).tolist() == [labels[3]]
    assert sets.names_[0] == ", ".join(texts[0].split())
    with pytest.raises(TypeError, match="there is no encoder"):
        NeighbourClassifier().fit(texts, labels)


def test_its_settings_can_be_searched() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=90)
    items = vectors(3, 1, 8)[labels] + draw.normal(size=(90, 8))
    found = GridSearchCV(NeighbourClassifier(), {"k": [1, 20], "temperature": [None, 0.1]}, cv=3).fit(
        items, labels
    )
    assert found.best_score_ > 0.6
    assert found.best_params_["k"] == 20


def test_a_saved_classifier_answers_as_before(small: Small, tmp_path: Path) -> None:
    encoder = TextEncoder(small / "backbone")
    rows = questions(60, seed=5)
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    asked = [text for text, _ in questions(20, seed=6)]
    classifier = NeighbourClassifier(encoder, k=3, refuse=0.1).fit(texts[:40], labels[:40])
    folder = tmp_path / "mine"
    for more in (slice(40, 50), slice(50, 60)):
        classifier.partial_fit(texts[more], labels[more])
        classifier.save(folder)
        again = NeighbourClassifier.load(folder)
        assert again.get_params()["k"] == 3
        np.testing.assert_array_equal(again.predict(asked), classifier.predict(asked))
        np.testing.assert_array_equal(again.p_known(asked), classifier.p_known(asked))
        assert again.names_ == classifier.names_
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".txt"}
    np.testing.assert_array_equal(lit_metric.load(folder).encode(asked), encoder.encode(asked))
    classifier.calibrate(asked).save(folder)
    np.testing.assert_array_equal(NeighbourClassifier.load(folder).p_known(texts), classifier.p_known(texts))


def test_a_folder_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    classifier = NeighbourClassifier().fit([[1, 0], [0, 1]], [["a", "b"], ["a"]])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no classifier"):
        classifier.save(tmp_path)
    with pytest.raises(StoredClassifierError, match="no classifier was saved"):
        NeighbourClassifier.load(tmp_path)
    classifier.save(tmp_path / "new")
    assert NeighbourClassifier.load(tmp_path / "new").predict([[1, 0]]) == classifier.predict([[1, 0]])
    config = tmp_path / "new" / "classifier.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(StoredClassifierError, match="has format 2"):
        NeighbourClassifier.load(tmp_path / "new")
    config.write_text(json.dumps(content))
    (tmp_path / "new" / "vectors.safetensors").write_bytes(b"other")
    with pytest.raises(StoredClassifierError, match="damaged"):
        NeighbourClassifier.load(tmp_path / "new")


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({"k": 0}, ["a", "b"], "k must be at least 1"),
        ({"temperature": 0}, ["a", "b"], "temperature must be above 0"),
        ({"refuse": 1.0}, ["a", "b"], "refuse is a share"),
        ({}, ["a"], "2 items, 1 labels"),
        ({}, [["a"], []], r"y\[1\] is \[\]"),
        ({}, [["a"], [1]], "some labels are texts"),
    ],
)
def test_what_can_t_be_used_is_refused(options: dict[str, Any], labels: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeighbourClassifier(**options).fit([[1, 0], [0, 1]], labels)


def test_one_search_answers_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    vectors, labels = draw.normal(size=(60, 4)), [f"c{row % 3}" for row in range(60)]
    classifier = NeighbourClassifier(k=7, refuse=0.1).fit(vectors, labels)
    asked = draw.normal(size=(20, 4))
    distances, places = classifier.kneighbors(asked)
    expected = classifier.predict(asked), classifier.predict_proba(asked), classifier.p_known(asked)
    searches: list[int] = []
    search = ExactIndex.search

    def counted(self: ExactIndex, queries: Any, k: int, *more: Any) -> Any:
        searches.append(len(queries))
        return search(self, queries, k, *more)

    monkeypatch.setattr(ExactIndex, "search", counted)
    found = classifier.answer(asked)
    assert searches == [20]
    assert found.predicted.tolist() == expected[0].tolist()
    assert found.p_known is not None
    np.testing.assert_allclose(found.shares, expected[1])
    np.testing.assert_allclose(found.p_known, expected[2])
    np.testing.assert_allclose(1 - found.cosines, distances)
    assert found.places.tolist() == places.tolist()
    assert NeighbourClassifier(k=7).fit(vectors, labels).answer(asked).p_known is None
