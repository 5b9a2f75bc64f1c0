"""Data sets laid end to end, against each part asked about single pairs."""

from __future__ import annotations

import random

import pytest
import torch

from lit_metric.data import LabelRelations, MultiLabelRelations, PairRelations, UnionRelations
from lit_metric.data.ragged import Ragged
from tests.data.relations.loops import assert_answers, random_fingerprints, some_ids

SIZES = (30, 20, 25)


def union_of(seed: int) -> UnionRelations:
    draw = random.Random(seed)
    names = [draw.choice(["a", "b", None]) for _ in range(SIZES[0])]
    rows = [[draw.randrange(4) for _ in range(draw.randrange(3))] for _ in range(SIZES[1])]
    pairs = torch.tensor([(draw.randrange(SIZES[2]), draw.randrange(SIZES[2])) for _ in range(80)]).T
    prints = [random_fingerprints(draw, size) for size in SIZES]  # equal across parts, too
    return UnionRelations(
        [
            LabelRelations.from_names(names, prints[0]),
            MultiLabelRelations(Ragged.from_lists(rows), [*"abcd"], prints[1]),
            PairRelations(pairs[0], pairs[1], None, prints[2]),
        ]
    )


def local(item: int) -> tuple[int, torch.Tensor]:
    part = 0 if item < 30 else 1 if item < 50 else 2
    return part, torch.tensor(item - (0, 30, 50)[part])


@pytest.mark.parametrize("seed", range(4))
def test_each_part_answers_for_itself_and_nothing_is_known_across(seed):
    union = union_of(seed)

    def positive(anchor: int, candidate: int) -> bool:
        (one, a), (other, c) = local(anchor), local(candidate)
        return one == other and bool(union.parts[one].positive_pairs(a, c))

    def excluded(anchor: int, candidate: int) -> bool:
        (one, a), (other, c) = local(anchor), local(candidate)
        return one != other or bool(union.parts[one].excluded_pairs(a, c))

    assert min(assert_answers(union, positive, excluded, seed)) > 10
    assert_answers(union.to("cpu"), positive, excluded, seed)


def test_targets_are_those_of_the_parts():
    union = union_of(0)
    anchors, candidates = some_ids(0, 30, 75), some_ids(1, 40, 75)
    targets = union.targets(anchors, candidates)
    for row, anchor in enumerate(anchors.tolist()):
        for column, candidate in enumerate(candidates.tolist()):
            (one, a), (other, c) = local(anchor), local(candidate)
            expected = torch.tensor(torch.nan)
            if one == other:
                expected = union.parts[one].targets(a[None], c[None])[0, 0]
            torch.testing.assert_close(targets[row, column], expected, equal_nan=True)
    assert 0 < int(targets.isnan().sum()) < 1200


def test_ids_are_divided_by_part():
    union = union_of(0)
    ids = torch.tensor([74, 0, 30, 29, 50])
    assert union.part_of(ids).tolist() == [2, 0, 1, 0, 2]
    assert [union.own(part, ids).tolist() for part in range(3)] == [[0, 29], [0], [24, 0]]
    assert UnionRelations(union.parts).offsets.tolist() == [0, 30, 50, 75]
