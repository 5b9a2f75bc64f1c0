"""Votes of nearest neighbours against scikit-learn, and the examples against a plain search."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.neighbours import VOTES, Example, FrozenTags, Neighbour, choose, examples, knn_scores
from benchmarks.tagged_items import TaggedItems, read_splits
from lit_metric import TextEncoder
from tests.benchmarks.test_results import text_of
from tests.small import Small


def some_vectors(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Clouds around the vectors of four classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    centres = np.random.default_rng(0).normal(size=(4, 6))
    vectors = centres[labels] + random.normal(size=(count, 6)) * 1.5
    return vectors.astype(np.float32), [f"class {label}" for label in labels]


@pytest.mark.parametrize("temperature", [0.2, 0.05])
def test_votes_are_those_of_scikit_learn(temperature: float) -> None:
    (train, labels), (queries, truth) = some_vectors(200, 1), some_vectors(90, 2)
    peer = KNeighborsClassifier(
        10, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    predicted = peer.fit(train, labels).predict(queries)
    assert knn_scores(train, labels, queries, truth, temperature) == {
        "macro": pytest.approx(balanced_accuracy_score(truth, predicted)),
        "micro": pytest.approx(accuracy_score(truth, predicted)),
    }


@pytest.fixture(scope="module")
def frozen(small: Small) -> FrozenTags:
    return FrozenTags(["works-with::image", "role::program", "web::cms"], small / "backbone")


def test_an_item_is_the_mean_of_its_tags_in_words(frozen: FrozenTags, small: Small) -> None:
    encoder = TextEncoder(small / "backbone")
    program, cms = encoder.encode(["role program", "web cms"])
    # The tiny backbone knows none of these words, so that only the number of them shows.
    assert not np.allclose(program, encoder.encode(["works with image"])[0], atol=1e-3)
    both = program + cms
    expected = np.stack([both / np.linalg.norm(both), cms])
    np.testing.assert_allclose(
        frozen.encode([["web::cms", "role::program"], ["web::cms"]]), expected, atol=1e-6
    )


def test_the_vote_is_chosen_on_validation(frozen: FrozenTags, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def scores(train: object, labels: object, queries: object, truth: list[str], vote: float | None) -> dict:
        asked.append((truth[0], vote))
        best = 0.1 if truth[0] == "validation" else 0.2
        return {"macro": float(vote == best), "micro": 0.0}

    monkeypatch.setattr("benchmarks.neighbours.knn_scores", scores)

    def items(section: str) -> TaggedItems:
        return TaggedItems(["a"], [["web::cms"]], [section])

    assert frozen.scores(items("train"), items("validation"), [items("test")]) == [
        {"macro": 0.0, "micro": 0.0}
    ]
    assert asked == [*(("validation", vote) for vote in VOTES), ("test", 0.1)]


def test_examples_are_drawn_without_a_look_at_the_result() -> None:
    sections = ["games"] * 90 + ["net"] * 5 + ["math"] * 5
    chosen = choose(sections, 3)
    assert sorted(sections[place] for place in chosen) == ["games", "math", "net"]
    assert choose(sections, 3) == chosen
    assert len({tuple(choose(sections, 3, seed)) for seed in range(9)}) > 5
    assert sorted(choose(sections, 200)) == list(range(100))


def test_neighbours_are_the_nearest_in_each_space() -> None:
    train = TaggedItems(list("abcd"), [["x"]] * 4, ["s", "s", "t", "t"])
    test = TaggedItems(["q"], [["x", "y"]], ["s"])
    corpus = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], dtype=np.float32)
    before = corpus, np.array([[0, 2]], dtype=np.float32)
    after = corpus, np.array([[1, 0]], dtype=np.float32)
    [example] = examples(train, test, [before, after], count=1, neighbours=2)
    assert example == Example(
        "q",
        "s",
        ["x", "y"],
        [Neighbour("c", "t", pytest.approx(1.0)), Neighbour("b", "s", pytest.approx(0.6))],
        [Neighbour("a", "s", pytest.approx(1.0)), Neighbour("b", "s", pytest.approx(0.8))],
    )
    from benchmarks.neighbours import example_table

    lines = text_of(example_table(example)).splitlines()
    assert [line.strip() for line in lines[:2]] == ["q, of section s", "x, y"]
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in lines if line.startswith("│")]
    assert rows == [["1.00  c, t", "1.00  a, s"], ["0.60  b, s", "0.80  b, s"]]
    odd = "[/INST] [bold]\\"
    [example] = examples(TaggedItems([odd] * 4, [["x"]] * 4, ["[/s]"] * 4), test, [before, after], count=1)
    assert f"1.00  {odd}, [/s]" in text_of(example_table(example))


def test_the_frozen_encoder_scores_about_what_the_project_expects() -> None:
    splits = read_splits()
    frozen = FrozenTags.of(*splits.values())
    assert len(frozen.vectors) == 597
    [scores] = frozen.scores(splits["train"], splits["validation"], [splits["test"]])
    assert scores["macro"] == pytest.approx(0.51, abs=0.03)
    assert scores["micro"] == pytest.approx(0.64, abs=0.03)
