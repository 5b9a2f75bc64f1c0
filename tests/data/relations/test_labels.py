"""Relations by label against loops over single pairs."""

from __future__ import annotations

import random
from itertools import chain

import pytest
import torch

from lit_metric.data import DataError, Items, LabelRelations

ITEMS = 60


@pytest.fixture(params=range(3))
def relations(request) -> LabelRelations:
    draw = random.Random(request.param)
    texts = [
        [str(draw.randrange(40))] for _ in range(ITEMS)
    ]  # a third are duplicates, often under another label
    names = [draw.choice(["a", "b", "c", "d", None]) for _ in range(ITEMS)]
    return LabelRelations.from_names(names, Items.encode(texts)[0].fingerprints)


def positive(relations: LabelRelations, anchor: int, candidate: int) -> bool:
    labels = relations.labels.tolist()
    return anchor != candidate and labels[anchor] != -1 and labels[anchor] == labels[candidate]


def excluded(relations: LabelRelations, anchor: int, candidate: int) -> bool:
    labels, prints = relations.labels.tolist(), relations.fingerprints.tolist()
    return (
        anchor == candidate
        or positive(relations, anchor, candidate)
        or prints[anchor] == prints[candidate]
        or -1 in (labels[anchor], labels[candidate])
    )


def some_ids(seed: int, count: int) -> torch.Tensor:
    return torch.randint(ITEMS, (count,), generator=torch.Generator().manual_seed(seed))


def test_masks_against_loops(relations):
    anchors, candidates = some_ids(0, 37), some_ids(1, 53)
    pairs = [[(a, c) for c in candidates.tolist()] for a in anchors.tolist()]
    assert relations.positive(anchors, candidates).tolist() == [
        [positive(relations, *p) for p in row] for row in pairs
    ]
    expected = [[excluded(relations, *p) for p in row] for row in pairs]
    assert relations.excluded(anchors, candidates).tolist() == expected
    assert relations.negative(anchors, candidates).tolist() == [
        [not value for value in row] for row in expected
    ]
    assert 0 < sum(map(sum, expected)) < 37 * 53


def test_pairs_against_loops(relations):
    anchors, candidates = some_ids(2, 500), some_ids(3, 500)
    pairs = list(zip(anchors.tolist(), candidates.tolist(), strict=True))
    assert relations.positive_pairs(anchors, candidates).tolist() == [
        positive(relations, *pair) for pair in pairs
    ]
    expected = [excluded(relations, *pair) for pair in pairs]
    assert relations.excluded_pairs(anchors, candidates).tolist() == expected
    assert relations.negative_pairs(anchors, candidates).tolist() == [not value for value in expected]


def test_ragged_positives_against_loops(relations):
    anchors, among = some_ids(4, 30), some_ids(5, 80)  # both with repeats
    expected = [[c for c in among.tolist() if positive(relations, a, c)] for a in anchors.tolist()]
    assert relations.positives(anchors, among).tolist() == expected
    assert sum(map(len, expected)) > 0


def test_positives_of_nothing(relations):
    none = torch.zeros(0, dtype=torch.int64)
    assert relations.positives(none, some_ids(0, 5)).tolist() == []
    assert relations.positives(some_ids(0, 3), none).tolist() == [[], [], []]


def test_the_item_itself_is_never_positive_nor_negative(relations):
    ids = torch.arange(ITEMS)
    assert not relations.positive(ids, ids).diagonal().any()
    assert not relations.negative(ids, ids).diagonal().any()
    assert all(item not in row for item, row in enumerate(relations.positives(ids, ids).tolist()))


def test_duplicates_under_two_labels_are_neither_positive_nor_negative():
    relations = LabelRelations.from_names(["a", "b", "b"], torch.tensor([7, 7, 8]))
    ids = torch.arange(3)
    assert not relations.positive(ids[:1], ids).any()
    assert relations.negative(ids[:1], ids).tolist() == [[False, False, True]]


@pytest.mark.parametrize("seed", range(3))
def test_unlabelled_items_as_negatives_against_loops(seed):
    draw = random.Random(seed)
    prints = Items.encode([[str(draw.randrange(40))] for _ in range(ITEMS)])[0].fingerprints
    names = [draw.choice(["a", "b", "c", "d", None]) for _ in range(ITEMS)]
    strict = LabelRelations.from_names(names, prints)
    relations = LabelRelations.from_names(names, prints, unlabelled="negative")
    labels, contents = relations.labels.tolist(), prints.tolist()
    labelled = {content for content, label in zip(contents, labels, strict=True) if label >= 0}

    def negative(anchor: int, candidate: int) -> bool:
        if labels[candidate] >= 0:
            return not excluded(relations, anchor, candidate)
        return labels[anchor] >= 0 and contents[candidate] not in labelled

    ids = torch.arange(ITEMS)
    expected = [[negative(a, c) for c in range(ITEMS)] for a in range(ITEMS)]
    assert relations.negative(ids, ids).tolist() == expected
    assert relations.to("cpu").negative_pairs(ids[:, None], ids).tolist() == expected
    admitted = [c for c in range(ITEMS) if labels[c] < 0 and any(row[c] for row in expected)]
    assert 0 < len(admitted) < labels.count(-1)
    assert torch.equal(relations.positive(ids, ids), strict.positive(ids, ids))
    assert torch.equal(relations.labelled_only().negative(ids, ids), strict.negative(ids, ids))
    with pytest.raises(ValueError, match="unlabelled must be 'ignored' or 'negative', not 'yes'"):
        LabelRelations.from_names(names, prints, unlabelled="yes")


def test_unlabelled_items_teach_nothing():
    relations = LabelRelations.from_names([None, None, "a"], torch.tensor([1, 2, 3]))
    ids = torch.arange(3)
    assert not relations.positive(ids, ids).any()
    assert not relations.negative(ids, ids).any()
    assert relations.positives(ids, ids).tolist() == [[], [], []]


def test_classes_are_numbered_in_sorted_order():
    relations = LabelRelations.from_names(["b", None, "a", "b"], torch.arange(4))
    assert relations.classes == ["a", "b"]
    assert relations.labels.tolist() == [1, -1, 0, 1]
    assert len(relations.to("cpu")) == 4


def test_labels_out_of_range_or_of_another_length_are_refused():
    with pytest.raises(DataError, match=r"within -1\.\.1, got 0\.\.2"):
        LabelRelations(torch.tensor([0, 2]), ["a", "b"], torch.arange(2))
    with pytest.raises(DataError, match=r"labels \(2,\) and fingerprints \(3,\)"):
        LabelRelations(torch.tensor([0, 1]), ["a", "b"], torch.arange(3))


def test_a_corpus_is_grouped_once_however_many_blocks_ask(monkeypatch):
    labels = torch.randint(-1, 9, (500,), generator=torch.Generator().manual_seed(0))
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    relations = LabelRelations(labels, [*"abcdefghi"], torch.arange(500))
    sorts, argsort = [], torch.Tensor.argsort
    monkeypatch.setattr(
        torch.Tensor, "argsort", lambda self, **options: sorts.append(self) or argsort(self, **options)
    )
    found = [relations.positives(block, ids).tolist() for block in ids.split(50)]
    assert len(sorts) == 1
    assert [*chain(*found)] == [
        [other for other in ids.tolist() if positive(relations, anchor, other)] for anchor in ids.tolist()
    ]
    ids[0], ids[1] = int(ids[1]), int(ids[0])  # the same tensor in another order
    assert relations.positives(ids[:1], ids).tolist() == [
        [other for other in ids.tolist() if positive(relations, int(ids[0]), other)]
    ]
    assert len(sorts) == 2
