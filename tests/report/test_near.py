"""Neighbours, confusions and classes against loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from sklearn.metrics.pairwise import cosine_similarity

from lit_metric.report.near import class_rows, confusions, nearest


def ragged(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return offsets, np.array([each for row in rows for each in row], np.int32)


@pytest.fixture(scope="module")
def crowd() -> torch.Tensor:
    """60 vectors, of which some are equal to others."""
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 5))).float()
    vectors[20:24] = vectors[3]
    vectors[40] = 2 * vectors[7]
    return vectors


@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("some", [False, True])
def test_nearest_is_that_of_a_loop(crowd: torch.Tensor, k: int, some: bool) -> None:
    allowed = np.arange(60) % 3 > 0 if some else np.ones(60, bool)
    places, cosines = nearest(crowd, k, allowed if some else None)
    assert places.shape == cosines.shape == (60, k)
    assert places.dtype == np.int32
    exact = cosine_similarity(crowd.double().numpy())
    for item in range(60):
        others = [other for other in range(60) if other != item and allowed[other]]
        wanted = sorted(exact[item, others], reverse=True)[:k]
        found = places[item][places[item] >= 0]
        assert len(found) == len(wanted)
        assert item not in found
        assert len({*found.tolist()}) == len(found)
        assert allowed[found].all()
        np.testing.assert_allclose(exact[item, found], wanted, atol=1e-6)
        np.testing.assert_allclose(cosines[item, : len(found)], wanted, atol=1e-6)
        assert (places[item, len(found) :] == -1).all()


def test_of_equal_vectors_the_lower_place_comes_first() -> None:
    places, cosines = nearest(torch.ones(5, 2), 2)
    assert places.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_items_without_vectors_find_nothing_and_are_not_found() -> None:
    vectors = torch.tensor([[1.0, 0.0], [torch.nan, 0.0], [0.0, 1.0]])
    places, cosines = nearest(vectors, 2)
    assert places.tolist() == [[2, -1], [-1, -1], [0, -1]]
    assert np.isneginf(cosines[1]).all()


@pytest.mark.parametrize("count", [0, 1])
def test_an_item_alone_has_no_neighbour(count: int) -> None:
    assert (nearest(torch.ones(count, 3), 4)[0] == -1).all()


def test_nearest_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        nearest(torch.ones(2, 2), 0)
    with pytest.raises(ValueError, match="3 items, and there are 2"):
        nearest(torch.ones(2, 2), 1, np.ones(3, bool))


def test_confusions_by_hand() -> None:
    labels = ragged([[0], [0], [0], [1], [1], [2]])
    after = np.array([3, 4, 1, 0, 3, -1], np.int32)
    before = np.array([3, 1, 0, 5, 5, -1], np.int32)
    scores = np.array([0.5, 0.9, 1, 0.7, 1, 0], np.float32)
    first, second = confusions(*labels, after, before, scores)
    assert (first.first, first.second, first.count, first.before_count) == (0, 1, 2, 1)
    assert first.rate == pytest.approx(2 / 3)
    assert first.examples == [(1, 4), (0, 3)]  # the most similar pair first
    assert (second.first, second.second, second.count, second.rate) == (1, 0, 1, 0.5)
    assert second.before_count == 0


def test_confusions_of_several_labels_are_those_of_a_loop() -> None:
    draw = np.random.default_rng(1)
    rows = [sorted(draw.choice(5, size=draw.integers(0, 4), replace=False).tolist()) for _ in range(80)]
    after, before = (np.stack([draw.integers(-1, 80, 80)] * 2, axis=1).astype(np.int32) for _ in range(2))
    counted: list[dict[tuple[int, int], int]] = []
    for neighbours in (after, before):
        counts: dict[tuple[int, int], int] = {}
        for item, other in enumerate(neighbours[:, 0].tolist()):
            if other >= 0 and not {*rows[item]} & {*rows[other]}:
                for ours in rows[item]:
                    for theirs in rows[other]:
                        counts[ours, theirs] = counts.get((ours, theirs), 0) + 1
        counted.append(counts)
    found = confusions(*ragged(rows), after, before)
    assert {(each.first, each.second): each.count for each in found} == counted[0]
    for each in found:
        having = [item for item in range(80) if after[item, 0] >= 0 and each.first in rows[item]]
        assert each.rate == pytest.approx(each.count / len(having))
        assert each.before_count == counted[1].get((each.first, each.second), 0)
        assert len(each.examples) == min(5, each.count)
        for item, other in each.examples:
            assert other == after[item, 0]
            assert each.first in rows[item]
            assert each.second in rows[other]
    ranks = [(-each.count, -each.rate) for each in found]
    assert ranks == sorted(ranks)


def test_no_labels_no_confusions() -> None:
    assert confusions(*ragged([[], []]), np.array([1, 0], np.int32)) == []
    assert class_rows(*ragged([[], []]), 0, np.array([1, 0], np.int32)) == []


def test_precision_and_recall_are_those_of_sklearn() -> None:
    draw = np.random.default_rng(2)
    labels = draw.integers(0, 6, 100)
    after, before = (draw.integers(0, 100, 100).astype(np.int32) for _ in range(2))
    asked = draw.random(100) < 0.7
    after[~asked] = -1  # before asks the same items, whatever it has for others
    rows = class_rows(
        *ragged([[each] for each in labels.tolist()]), 6, after, before, train_sizes=np.arange(6)
    )
    assert [row.label for row in rows] == [*range(6)]
    assert [row.train_size for row in rows] == [*range(6)]
    assert [row.size for row in rows] == np.bincount(labels[asked], minlength=6).tolist()
    for neighbours, names in (
        (after, ("precision", "recall")),
        (before, ("precision_before", "recall_before")),
    ):
        wanted = precision_recall_fscore_support(labels[asked], labels[neighbours[asked]], labels=[*range(6)])
        for name, values in zip(names, wanted, strict=False):
            np.testing.assert_allclose([getattr(row, name) for row in rows], values)


def test_precision_and_recall_of_several_labels_are_those_of_sklearn() -> None:
    draw = np.random.default_rng(3)
    given = draw.random((90, 4)) < 0.4
    given[given.sum(axis=1) == 0, 0] = True
    after = draw.integers(0, 90, (90, 3)).astype(np.int32)
    rows = class_rows(*ragged([np.flatnonzero(row).tolist() for row in given]), 4, after)
    wanted = precision_recall_fscore_support(given, given[after[:, 0]])
    np.testing.assert_allclose([row.precision for row in rows], wanted[0])
    np.testing.assert_allclose([row.recall for row in rows], wanted[1])
    assert [row.precision_before for row in rows] == [None] * 4


def test_undefined_precision_is_none() -> None:
    rows = class_rows(*ragged([[0], [0], [1], [2]]), 3, np.array([1, 0, 0, -1], np.int32))
    assert [(row.label, row.precision, row.recall) for row in rows] == [(0, 2 / 3, 1.0), (1, None, 0.0)]


def test_spread_and_nearest_class_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 1.0]])
    rows = class_rows(*ragged([[0], [0], [1], [2]]), 3, np.array([1, 0, 1, 1], np.int32), vectors=vectors)
    half = 0.5**0.5  # the mean direction of class 0 is (1, 1) / √2
    assert [row.spread for row in rows] == pytest.approx([1 - half, 0, 0], abs=1e-6)
    assert [row.nearest for row in rows] == [2, 2, 0]
    assert [row.nearest_cosine for row in rows] == pytest.approx([half, 0, half], abs=1e-6)


def test_one_class_has_no_nearest() -> None:
    (row,) = class_rows(*ragged([[0], [0]]), 1, np.array([1, 0], np.int32), vectors=torch.eye(2))
    assert (row.nearest, row.nearest_cosine) == (-1, None)
