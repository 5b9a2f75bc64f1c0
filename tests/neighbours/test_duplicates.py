"""Duplicates against loops over all pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lit_metric.neighbours import duplicates
from lit_metric.neighbours.duplicates import common_items, duplicate_groups, near_pairs, normalized


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("Where is\tmy  card?", "where is my card", True),
        ("ﬁne ①", "fine 1", True),
        ("C++", "C", False),
        ("what?!", "WHAT", True),
        ("?", "!", False),
        ("a.b", "ab", False),
        (["x", "Y "], ["y", "x"], True),
        (["x"], ["x", "y"], False),
    ],
)
def test_equal_but_for_how_it_is_written(one: str | list[str], other: str | list[str], equal: bool) -> None:
    assert (normalized(one) == normalized(other)) == equal


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32) * 5


def test_all_near_pairs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 32)
    ours, theirs = vectors(100, 0), vectors(70, 1)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (ours, theirs)]
    among = {(a, b) for a, b in itertools.combinations(range(100), 2) if unit[0][a] @ unit[0][b] >= 0.97}
    across = {(a, b) for a, b in itertools.product(range(100), range(70)) if unit[0][a] @ unit[1][b] >= 0.97}
    assert among
    assert across
    for expected, others in ((among, None), (across, theirs)):
        found = [pair for each in near_pairs(ours, 0.97, others) for pair in zip(*each, strict=True)]
        assert {(int(a), int(b)) for a, b, _ in found} == expected
        assert len(found) == len(expected)
        second = unit[0] if others is None else unit[1]
        for a, b, cosine in found:
            assert cosine == pytest.approx(unit[0][a] @ second[b], abs=1e-5)


def test_groups_are_connected_components() -> None:
    items = [f"text {number}" for number in range(60)]
    items[7] = "TEXT 3!"
    found = duplicate_groups(items, vectors(60, 2), 0.95)
    unit = vectors(60, 2) / np.linalg.norm(vectors(60, 2), axis=1, keepdims=True)
    near = (unit @ unit.T >= 0.95) | np.eye(60, dtype=bool)
    near[3, 7] = near[7, 3] = True
    for _ in range(6):
        near = near.astype(int) @ near.astype(int) > 0
    expected = {tuple(np.flatnonzero(row).tolist()) for row in near}
    assert {tuple(group) for group in found} == {group for group in expected if len(group) > 1}
    assert [len(group) for group in found] == sorted(map(len, found), reverse=True)
    assert duplicate_groups(items) == [[3, 7]]


def test_copies_are_found_at_a_threshold_of_1() -> None:
    twice = np.repeat(vectors(200, 3), 2, axis=0)
    groups = duplicate_groups([str(number) for number in range(400)], twice, 1.0)
    assert groups == [[place, place + 1] for place in range(0, 400, 2)]


def test_items_in_common() -> None:
    train, test = ["a card", "rate", "other"], ["A card?", "none", "rates"]
    assert [pair[:2] for pair in common_items(train, test)] == [(0, 0)]
    ours = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    theirs = np.array([[-1.0, 0.0], [1.0, -1.0], [0.1, 2.0]])
    found = common_items(train, test, (ours, theirs), 0.95)
    assert [pair[:2] for pair in found] == [(0, 0), (1, 2)]
    assert found[0][2] == -1.0
    assert found[1][2] == pytest.approx(2 / np.sqrt(4.01))


@pytest.mark.parametrize("threshold", [0, 1.2, -0.5])
def test_thresholds_are_cosines(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold is the least cosine"):
        duplicate_groups(["a"], None, threshold)
    with pytest.raises(ValueError, match="2 vectors for 1 items"):
        duplicate_groups(["a"], np.eye(2))
