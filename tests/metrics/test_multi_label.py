"""Votes for several classes, against loops, and F1 against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import f1_score

from lit_metric.data.ragged import Ragged
from lit_metric.metrics import f1_macro, f1_micro, knn_predict_labels


def naive(labels: list[list[int]], k: int, classes: int, weights: list[list[float]]) -> list[set[int]]:
    predicted = []
    for query in range(len(labels) // k):
        neighbours = labels[query * k : query * k + k]
        voters = [(each, weight) for each, weight in zip(neighbours, weights[query], strict=True) if each]
        tally = {c: sum(weight for each, weight in voters if c in each) for c in range(classes)}
        everything = sum(weight for _, weight in voters)
        winners = {c for c in range(classes) if voters and 0 < tally[c] >= everything / 2}
        if voters and not winners:
            most = max(tally.values())
            tied = [c for c in range(classes) if tally[c] == most]
            winners = {min(tied, key=lambda c: next(i for i, each in enumerate(neighbours) if c in each))}
        predicted.append(winners)
    return predicted


def random_labels(rows: int, classes: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    held = torch.rand(rows, classes, generator=generator) < 0.25
    return [row.nonzero().flatten().tolist() for row in held]


@pytest.mark.parametrize("temperature", [None, 0.3])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_against_a_naive_loop(k: int, temperature: float | None) -> None:
    labels, classes = random_labels(80 * k, classes=6), 6
    assert [] in labels
    scores = torch.rand(80, k, generator=torch.Generator().manual_seed(2)).sort(descending=True).values
    weights = torch.ones_like(scores) if temperature is None else (scores / temperature).exp()
    expected = naive(labels, k, classes, weights.tolist())
    assert {len(each) for each in expected} >= ({0, 1} if k == 1 else {1, 2})
    got = knn_predict_labels(Ragged.from_lists(labels), k, classes, scores, temperature)
    assert [set(row.nonzero().flatten().tolist()) for row in got] == expected


def test_of_equal_votes_the_nearest_member_decides() -> None:
    # Three classes have one vote of three each: that of the nearest neighbour wins, not the lowest number.
    labels = Ragged.from_lists([[5], [0], [3], [4, 2], [0], [1]])
    got = knn_predict_labels(labels, k=3, classes=6)
    assert [row.nonzero().flatten().tolist() for row in got] == [[5], [2]]


def test_f1_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.rand(2, 120, 9, generator=generator) < 0.3
    predicted[:, 7:], target[:, 7] = False, False  # one class never occurs, one is never predicted
    target[:, 8] |= torch.rand(120, generator=generator) < 0.1
    counts = torch.stack([(predicted & target).sum(0), predicted.sum(0), target.sum(0)])
    occurring = [*range(7), 8]
    for mine, average, labels in ((f1_micro, "micro", None), (f1_macro, "macro", occurring)):
        expected = f1_score(target.numpy(), predicted.numpy(), average=average, labels=labels)
        assert mine(counts).item() == pytest.approx(expected)
    assert math.isnan(f1_macro(torch.zeros(3, 2)))
    assert math.isnan(f1_micro(torch.zeros(3, 2)))


@pytest.mark.parametrize(
    ("rows", "k", "arguments", "message"),
    [
        (5, 2, {}, "5 rows of labels are not those of k = 2 neighbours"),
        (4, 0, {}, "k = 0"),
        (4, 2, {"temperature": 0.1}, r"weighted votes need scores \[2, 2\]"),
        (4, 2, {"temperature": -1.0}, "temperature must be above 0"),
    ],
)
def test_bad_input_is_refused(rows: int, k: int, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn_predict_labels(Ragged.from_lists([[0]] * rows), k, 1, **arguments)
