"""Relations by several labels against sets of labels and loops over pairs."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch

from lit_metric.data import DataError, MultiLabelRelations
from lit_metric.data.ragged import Ragged
from tests.data.relations.loops import assert_answers, random_fingerprints, some_ids, table

ITEMS = 50
OVERLAPS = [0.0, 1 / 3, 0.5, 0.6, 2 / 3, 1.0]


def jaccard(first: list[int], second: list[int]) -> Fraction:
    either = {*first} | {*second}
    return Fraction(len({*first} & {*second}), len(either)) if either else Fraction(0)


def world_of(seed: int, overlap: float) -> tuple[list[list[int]], list[int], MultiLabelRelations]:
    draw = random.Random(seed)
    # Up to five of seven classes, with repeats, in no order; a sixth of the items has none.
    rows = [[draw.randrange(7) for _ in range(draw.randrange(6))] for _ in range(ITEMS)]
    prints = random_fingerprints(draw, ITEMS)
    relations = MultiLabelRelations(Ragged.from_lists(rows), [*"abcdefg"], prints, overlap)
    return rows, prints.tolist(), relations


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("seed", range(3))
def test_answers_against_loops(overlap, seed):
    rows, prints, relations = world_of(seed, overlap)
    least = Fraction(overlap).limit_denominator(100)

    def positive(anchor: int, candidate: int) -> bool:
        share = jaccard(rows[anchor], rows[candidate])
        return anchor != candidate and share > 0 and share >= least

    def excluded(anchor: int, candidate: int) -> bool:
        unknown = not rows[anchor] or not rows[candidate]
        return unknown or positive(anchor, candidate) or prints[anchor] == prints[candidate]

    found, negatives = assert_answers(relations, positive, excluded, seed)
    assert min(found, negatives) > 5


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_items_without_labels_as_negatives_against_loops(overlap, seed):
    rows, prints, strict = world_of(seed, overlap)
    labelled = {content for content, row in zip(prints, rows, strict=True) if row}
    relations = MultiLabelRelations(
        Ragged.from_lists(rows), [*"abcdefg"], torch.tensor(prints), overlap, "negative"
    )

    def positive(anchor: int, candidate: int) -> bool:
        share = jaccard(rows[anchor], rows[candidate])
        return anchor != candidate and share > 0 and share >= Fraction(overlap)

    def excluded(anchor: int, candidate: int) -> bool:
        if not rows[anchor]:
            return True
        if not rows[candidate]:
            return prints[candidate] in labelled
        return positive(anchor, candidate) or prints[anchor] == prints[candidate]

    assert_answers(relations, positive, excluded, seed)
    ids = torch.arange(ITEMS)
    more = relations.negative(ids, ids) & strict.excluded(ids, ids)
    assert {column for column in range(ITEMS) if more[:, column].any()} == {
        item for item in range(ITEMS) if not rows[item] and prints[item] not in labelled
    }
    assert int(more.sum()) > 0
    assert torch.equal(relations.labelled_only().negative(ids, ids), strict.negative(ids, ids))


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_jaccard_indices(seed):
    rows, _, relations = world_of(seed, 0.5)
    anchors, candidates = some_ids(seed, 30, ITEMS), some_ids(seed + 1, 40, ITEMS)

    def target(anchor: int, candidate: int) -> float:
        unknown = anchor == candidate or not rows[anchor] or not rows[candidate]
        return math.nan if unknown else float(jaccard(rows[anchor], rows[candidate]))

    expected = torch.tensor(table(target, anchors, candidates))
    torch.testing.assert_close(
        relations.targets(anchors, candidates), expected, equal_nan=True, rtol=0, atol=1e-7
    )


def test_labels_of_an_item_are_a_set():
    relations = MultiLabelRelations(Ragged.from_lists([[2, 0, 2], [], [1]]), [*"abc"], torch.arange(3))
    assert relations.labels.tolist() == [[0, 2], [], [1]]


def test_thousands_of_shared_classes_are_counted_exactly_under_autocast():
    # Half precision counts in whole numbers up to 256 only: 300 of 601 would read 0.498 or 0.5.
    rows = [[*range(301)], [*range(1, 601)]]
    relations = MultiLabelRelations(
        Ragged.from_lists(rows), [str(n) for n in range(601)], torch.arange(2), 0.5
    )
    ids = torch.arange(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert relations.targets(ids, ids)[0, 1].item() == pytest.approx(300 / 601, abs=1e-7)
        assert not relations.positive(ids, ids).any()


def test_many_more_classes_than_items_and_the_other_way_round():
    for classes in (1000, 2):
        rows = [[classes - 1], [0, classes - 1], [0]]
        relations = MultiLabelRelations(
            Ragged.from_lists(rows), [str(number) for number in range(classes)], torch.arange(3)
        )
        ids = torch.arange(3)
        expected = [[False, True, False], [True, False, True], [False, True, False]]
        assert relations.positive(ids, ids).tolist() == expected
        assert relations.positive_pairs(ids[:, None], ids).tolist() == expected
        assert relations.to("cpu").positives(ids, ids).tolist() == [[1], [0, 2], [1]]


def test_labels_out_of_range_or_of_another_length_are_refused():
    with pytest.raises(DataError, match=r"labels must be within 0\.\.1, got 0\.\.2"):
        MultiLabelRelations(Ragged.from_lists([[0, 2]]), ["a", "b"], torch.arange(1))
    with pytest.raises(DataError, match="2 rows of labels for 3 items"):
        MultiLabelRelations(Ragged.from_lists([[0], [1]]), ["a", "b"], torch.arange(3))
    with pytest.raises(ValueError, match=r"overlap=1\.5: a Jaccard index lies in \[0, 1\]"):
        MultiLabelRelations(Ragged.from_lists([[0]]), ["a"], torch.arange(1), overlap=1.5)
