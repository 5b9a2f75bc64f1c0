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


def noise_by_loops(
    evidence: np.ndarray, given: list[int], smoothing: float
) -> tuple[list[list[float]], float]:
    """The noise ``[right][given]`` and the share of errors."""
    n, classes = evidence.shape
    start = module.SHARE
    noise = [[1 - start if c == g else start / (classes - 1) for g in range(classes)] for c in range(classes)]
    share = start
    for _ in range(module.STEPS):
        counts = np.zeros((classes, classes))
        for i in range(n):
            prior = np.exp(evidence[i])
            joint = [prior[c] / prior.sum() * noise[c][given[i]] for c in range(classes)]
            for c in range(classes):
                counts[c, given[i]] += joint[c] / sum(joint)
        before, share = share, (counts.sum() - np.trace(counts)) / n
        noise = [[0.0] * classes for _ in range(classes)]
        for c in range(classes):
            items = counts[c].sum()
            for g in range(classes):
                if g != c:
                    same = share * items / (classes - 1)
                    noise[c][g] = (counts[c, g] + smoothing * same) / (1 + smoothing) / items
            noise[c][c] = 1 - sum(noise[c])
        if abs(share - before) < 1e-4:
            break
    return noise, share


@pytest.mark.parametrize("smoothing", [0.5, 2.0])
def test_the_score_is_the_odds_of_an_error_given_the_noise(
    smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 21)  # seven rows of three classes are computed together
    vectors, labels, _ = noisy(count=50, classes=3)
    copies = np.arange(50) // 2
    cosines = vectors @ vectors.T
    cosines[copies[:, None] == copies[None]] = -np.inf
    near = np.argsort(-cosines, axis=1)[:, :7]
    unit, groups = torch.from_numpy(vectors).float(), torch.from_numpy(copies)
    linear = module._left_out(unit, groups, torch.from_numpy(labels), 3, 0.3).numpy()
    options = {"k": 7, "temperature": 0.2, "ridge": 0.3, "ridge_temperature": 0.5, "smoothing": smoothing}
    found = find_label_errors(vectors, labels.tolist(), copies.tolist(), **options)
    evidence = np.zeros((50, 3))
    for item, others in enumerate(near):
        votes = np.zeros(3)
        for other in others:
            votes[labels[other]] += np.exp(cosines[item, other] / 0.2)
        evidence[item] = np.log(votes / votes.sum() + module.LEAST) + linear[item] / 0.5
    noise, share = noise_by_loops(evidence, labels.tolist(), smoothing)
    assert found.share == pytest.approx(share, abs=1e-5)
    assert 0.02 < share < 0.3
    for item, given in enumerate(labels.tolist()):
        joint = np.exp(evidence[item]) * [row[given] for row in noise]
        others = joint.sum() - joint[given]
        assert found.score[item] == pytest.approx(np.log(others / joint[given]), abs=1e-3)
        joint[given] = -1
        assert found.suggested[item] == joint.argmax()
    assert found.neighbours.tolist() == near.tolist()
    np.testing.assert_allclose(found.cosines, np.take_along_axis(cosines, near, axis=1), atol=1e-5)


def test_a_frequent_confusion_is_more_suspicious_than_a_rare_one() -> None:
    """Labels of class 0 are written as class 1; among 1 and 2, which lie as near, nobody errs."""
    draw = np.random.default_rng(0)
    centres = np.array([[1.0, 0.0, 0.4], [-0.5, 0.87, 0.4], [-0.5, -0.87, 0.4]])
    right = np.repeat(np.arange(3), 300)
    vectors = centres[right] + draw.normal(size=(900, 3)) * 0.25
    labels = right.copy()
    wrong = draw.permutation(300)[:60]
    labels[wrong] = 1
    found = find_label_errors(vectors, labels.tolist(), k=50)
    assert found.share == pytest.approx(60 / 900, abs=0.01)
    suspects = found.suspects
    assert np.isin(suspects, wrong).mean() > 0.9
    assert np.isin(wrong, suspects).mean() > 0.9
    # What could be 0 or 1 as well is doubted under the label 1; what could be 1 or 2 isn't.
    sure = torch.eye(3, dtype=torch.float64)[torch.from_numpy(right)] * 8
    unsure = torch.tensor([[8.0, 8.0, 0.0], [0.0, 8.0, 8.0]], dtype=torch.float64)
    given = torch.from_numpy(np.append(labels, [1, 1]))
    score, suggested, _ = module._posterior(torch.cat([sure, unsure]).softmax(dim=1), given, 1.0)
    assert suggested[-2:].tolist() == [0, 2]
    assert score[-2] - score[-1] == pytest.approx(np.log(0.2 / 0.02), abs=1)


def test_labels_without_errors_have_hardly_any_suspects() -> None:
    draw = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 60)
    vectors = np.eye(5)[labels] + draw.normal(size=(300, 5)) * 0.1
    found = find_label_errors(vectors, labels.tolist(), k=30)
    assert found.share < 0.005
    assert len(found.suspects) == 0


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
    copies = torch.tensor([0, *range(99)])
    rows = []
    for label in range(3):
        labels[:2] = label
        rows.append(label_probabilities([vectors], torch.from_numpy(labels), 3, copies, k=20)[:2].numpy())
        found = find_label_errors(vectors, labels.tolist(), copies.tolist(), k=20)
        assert not {0, 1} & {*found.neighbours[0], *found.neighbours[1]}
    for row in rows:
        np.testing.assert_allclose(row, np.stack([rows[0][0]] * 2), atol=1e-5)


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
        (["a", "b", "b"], {"smoothing": -1.0}, "smoothing at least 0"),
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


def test_probabilities_know_nothing_of_the_own_label() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    spaces = [(np.eye(4)[labels] + draw.normal(size=(60, 4)) * 0.5).astype(np.float32) for _ in range(2)]
    given = torch.from_numpy(labels)
    shares = label_probabilities(spaces, given, 4, torch.arange(60), k=20).numpy()
    assert shares.sum(axis=1) == pytest.approx(1)
    each = [label_probabilities([space], given, 4, torch.arange(60), k=20).log().numpy() for space in spaces]
    mean = np.exp((each[0] + each[1]) / 2)
    np.testing.assert_allclose(shares, mean / mean.sum(axis=1, keepdims=True), rtol=1e-6)
    changed = labels.copy()
    changed[7] = 2
    again = label_probabilities(spaces, torch.from_numpy(changed), 4, torch.arange(60), k=20).numpy()
    assert again[7] == pytest.approx(shares[7])
