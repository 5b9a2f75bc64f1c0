"""Suspects of wrong labels against naive loops, and against noise that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score

from lit_metric.neighbours import label_errors as module
from lit_metric.neighbours.label_errors import find_label_errors, label_probabilities


def noisy(seed: int = 0, classes: int = 8, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors around the centres of classes, labels of which a tenth is wrong, and which are."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(classes, 16))
    right = draw.integers(classes, size=count)
    vectors = centres[right] + draw.normal(size=(count, 16)) * 1.2
    wrong = np.zeros(count, dtype=bool)
    wrong[draw.permutation(count)[: count // 10]] = True
    labels = np.where(wrong, (right + draw.integers(1, classes, size=count)) % classes, right)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels, wrong


def test_the_linear_classifier_has_not_seen_the_item_or_its_copies() -> None:
    vectors, labels, _ = noisy(count=60, classes=3)
    vectors[10] = vectors[20] = vectors[5]
    copies = np.arange(60)
    copies[[10, 20]] = 5
    numbers = torch.from_numpy(np.unique(copies, return_inverse=True)[1])
    ours = module._left_out(torch.from_numpy(vectors), numbers, torch.from_numpy(labels), 3, 0.7)
    x = np.concatenate([vectors, np.ones((60, 1))], axis=1)
    for place in (0, 5, 10, 33):
        others = copies != copies[place]
        fitted = Ridge(alpha=0.7, fit_intercept=False).fit(x[others], np.eye(3)[labels[others]])
        np.testing.assert_allclose(ours[place], fitted.predict(x[place : place + 1])[0], rtol=1e-6)


def test_the_score_is_a_difference_of_probabilities() -> None:
    vectors, labels, _ = noisy(count=50, classes=3)
    copies = np.arange(50) // 2
    cosines = vectors @ vectors.T
    cosines[copies[:, None] == copies[None]] = -np.inf
    near = np.argsort(-cosines, axis=1)[:, :7]
    unit, groups = torch.from_numpy(vectors).float(), torch.from_numpy(copies)
    linear = module._left_out(unit, groups, torch.from_numpy(labels), 3, 0.3).numpy()
    found = find_label_errors(
        vectors,
        labels.tolist(),
        copies.tolist(),
        k=7,
        temperature=0.2,
        ridge=0.3,
        ridge_temperature=0.5,
        flatten=2.0,
    )
    for item, others in enumerate(near):
        votes = np.zeros(3)
        for other in others:
            votes[labels[other]] += np.exp(cosines[item, other] / 0.2)
        evidence = np.log(votes / votes.sum() + module.LEAST) + linear[item] / 0.5
        shares = np.exp(evidence / 2) / np.exp(evidence / 2).sum()
        given, shares[labels[item]] = shares[labels[item]], -1
        assert found.score[item] == pytest.approx(shares.max() - given, abs=1e-4)
        assert found.suggested[item] == shares.argmax()
        odds = np.exp(evidence)[shares.argmax()] / np.exp(evidence)[labels[item]]
        assert found.log_odds[item] == pytest.approx(np.log(odds), abs=1e-3)
    assert found.neighbours.tolist() == near.tolist()
    np.testing.assert_allclose(found.cosines, np.take_along_axis(cosines, near, axis=1), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_come_first(seed: int) -> None:
    vectors, labels, wrong = noisy(seed)
    found = find_label_errors(vectors, labels.tolist(), k=20)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    votes = (labels[np.argsort(-cosines, axis=1)[:, :10]] != labels[:, None]).mean(axis=1)
    assert average_precision_score(wrong, found.score) > average_precision_score(wrong, votes) + 0.05
    assert set(found.suspects.tolist()) == set(np.flatnonzero(found.score > 0).tolist())
    assert (np.diff(found.score[found.suspects]) <= 0).all()
    assert all(name != label for name, label in zip(found.suggested, labels.tolist(), strict=True))


def test_what_is_said_of_an_item_does_not_depend_on_its_label_or_that_of_its_copy() -> None:
    vectors, labels, _ = noisy(count=100, classes=3)
    vectors[1] = vectors[0]
    contents = [0, *range(99)]
    ratios = {}
    for label in range(3):
        labels[:2] = label
        found = find_label_errors(vectors, labels.tolist(), contents, k=20)
        ratios[label] = found.score[0], found.suggested[0]
        assert found.score[1] == pytest.approx(found.score[0], abs=1e-4)
        assert not {0, 1} & {*found.neighbours[0], *found.neighbours[1]}
    # There is one order of the classes, whichever the item is given.
    best = next(label for label in range(3) if ratios[label][0] < 0)
    others = [label for label in range(3) if label != best]
    assert all(ratios[label][1] == best for label in others)
    assert ratios[best][0] == pytest.approx(-min(ratios[label][0] for label in others), abs=1e-4)


def test_the_evidence_of_two_spaces_is_averaged() -> None:
    vectors, labels, _ = noisy(count=120)
    rotated = np.roll(vectors, 3, axis=1)
    one, two = find_label_errors(vectors, labels, k=20), find_label_errors([vectors, rotated], labels, k=20)
    np.testing.assert_allclose(two.score, one.score, atol=1e-4)
    assert two.suggested == one.suggested


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", "b"], {}, "of the lengths"),
        (["a"] * 3, {}, "all items have the same label"),
        (["a", None, "b"], {}, "no label"),
        (["a", "b", "b"], {"k": 0}, "k must be at least 1"),
        (["a", "b", "b"], {"contents": [1]}, "of the lengths"),
    ],
)
def test_what_can_t_be_used_is_refused(labels: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_label_errors(np.eye(3), labels, **options)


def test_a_few_items_are_enough() -> None:
    found = find_label_errors(np.eye(3), ["a", "b", "b"])
    assert np.isfinite(found.score).all()
    copies = find_label_errors(np.ones((3, 2)), ["a", "b", "b"], contents=[0, 0, 0])
    assert np.isfinite(copies.score).all()
    assert (copies.neighbours == -1).all()


def test_probabilities_are_those_behind_the_odds() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    spaces = [(np.eye(4)[labels] + draw.normal(size=(60, 4)) * 0.5).astype(np.float32) for _ in range(2)]
    labels[7] = 2
    found = find_label_errors(spaces, labels.tolist(), k=20)
    shares = label_probabilities(spaces, torch.from_numpy(labels), 4, torch.arange(60), k=20).numpy()
    assert shares.sum(axis=1) == pytest.approx(1)
    for item, row in enumerate(shares):
        others = [label for label in range(4) if label != labels[item]]
        best = max(others, key=row.__getitem__)
        assert best == found.suggested[item]
        assert np.log(row[best]) - np.log(row[labels[item]]) == pytest.approx(found.log_odds[item])
    # An item's own label has no part in it.
    changed = labels.copy()
    changed[7] = 0
    again = label_probabilities(spaces, torch.from_numpy(changed), 4, torch.arange(60), k=20).numpy()
    assert again[7] == pytest.approx(shares[7])
