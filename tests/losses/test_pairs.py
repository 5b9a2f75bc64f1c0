from __future__ import annotations

import pytest
import torch

from lit_metric.data import LabelRelations, PairRelations
from lit_metric.losses import DensePairs, LabelPairs, PairBlock, RelationPairs
from tests.losses.cases import Labels

YES, NO = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)


def test_dense_pairs_give_the_slice_asked_for() -> None:
    positive = torch.tensor([[True, False], [False, True], [False, False]])
    negative = torch.tensor([[False, True], [False, False], [True, True]])
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    block = DensePairs(positive, negative, weight).rows(1, 3)
    assert block.positive.tolist() == [[False, True], [False, False]]
    assert block.negative.tolist() == [[False, False], [True, True]]
    assert block.weight.tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((YES, NO.float()), TypeError, "negative mask has dtype torch.float32"),
        ((YES, NO.T), ValueError, r"positive \[2, 3\] and negative \[3, 2\]"),
        (
            (YES, torch.eye(2, 3).roll(1).bool()),
            ValueError,
            "anchor 0 and candidate 1 are marked positive and",
        ),
        ((YES, NO, torch.ones(3)), ValueError, r"weight \[3\] must have the masks' shape \[2, 3\]"),
        ((YES, NO, -torch.ones(2, 3)), ValueError, "at least 0"),
        ((YES, NO, torch.full((2, 3), torch.nan)), ValueError, "at least 0"),
    ],
)
def test_dense_pairs_refuse_what_makes_no_sense(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        DensePairs(*arguments)


def test_relation_pairs_exclude_the_item_itself_and_its_class_mates_from_the_negatives() -> None:
    labels = torch.tensor([0, 1, 0, 1, 2])
    pairs = RelationPairs(Labels(labels), torch.tensor([0, 3, 4]), torch.tensor([2, 0, 1, 4]))
    first, rest = pairs.rows(0, 1), pairs.rows(1, 3)
    assert first.positive.tolist() == [[True, False, False, False]]
    assert first.negative.tolist() == [[False, False, True, True]]
    assert rest.positive.tolist() == [[False, False, True, False], [False, False, False, False]]
    assert rest.negative.tolist() == [[True, True, False, True], [True, True, True, False]]
    assert first.weight is None


def test_relation_pairs_ask_only_for_the_rows_asked_for() -> None:
    asked = []

    class Recording(Labels):
        def positive(self, anchors: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
            asked.append((anchors.tolist(), len(candidates)))
            return super().positive(anchors, candidates)

    RelationPairs(Recording(torch.arange(9)), torch.arange(5, 9), torch.arange(7)).rows(2, 4)
    assert asked == [([7, 8], 7)]


@pytest.mark.parametrize("seed", range(5))
def test_a_guess_is_a_negative_of_those_anchors_that_it_was_drawn_for(seed: int) -> None:
    lots = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 4, (30,), generator=lots)
    prints = torch.randint(60, (30,), generator=lots)
    names = [None if label < 0 else str(label) for label in labels.tolist()]
    relations = LabelRelations.from_names(names, prints, unlabelled="negative")
    anchors, candidates = torch.randperm(30, generator=lots)[:9], torch.randperm(30, generator=lots)
    drawn = torch.randint(-1, 30, (9, 6), generator=lots)
    pairs = RelationPairs(relations, anchors, candidates, relations.labelled_only(), drawn)
    known = {int(prints[item]) for item in range(30) if labels[item] >= 0}
    counts, whole = [0, 0], pairs.rows(0, 9).negative
    assert torch.equal(pairs.turned().rows(0, 30).negative.T, whole)
    for row, anchor in enumerate(anchors.tolist()):
        [negative] = pairs.rows(row, row + 1).negative.tolist()
        assert negative == whole[row].tolist()
        for place, other in enumerate(candidates.tolist()):
            guess = int(labels[other]) < 0
            right = int(labels[anchor]) >= 0 and prints[anchor] != prints[other]
            if guess:
                right = right and int(prints[other]) not in known and other in drawn[row]
            else:
                right = right and labels[anchor] != labels[other]
            assert negative[place] == right
            counts[guess] += bool(right)
    assert min(counts) > 0
    undrawn = RelationPairs(relations, anchors, candidates, relations.labelled_only())
    assert torch.equal(undrawn.rows(0, 9).negative, relations.labelled_only().negative(anchors, candidates))


def test_targets_of_the_slice_asked_for() -> None:
    target = torch.tensor([[1.0, 2.0], [3.0, torch.nan], [5.0, 6.0]])
    masks = torch.zeros(3, 2, dtype=torch.bool)
    assert DensePairs(masks, masks, target=target).rows(0, 1, targets=True).target.tolist() == [[1, 2]]
    assert DensePairs(masks, masks).rows(0, 1, targets=True).target is None
    with pytest.raises(ValueError, match=r"target \[2, 2\] must have the masks' shape \[3, 2\]"):
        DensePairs(masks, masks, target=target[:2])
    block = PairBlock(masks, masks, target=target)
    assert block.known.tolist() == [[True, True], [True, False], [True, True]]
    with pytest.raises(ValueError, match="no targets; set requires_scores"):
        _ = PairBlock(masks, masks).known


def test_relation_pairs_ask_for_the_targets_of_these_rows() -> None:
    nan = torch.nan
    relations = PairRelations(
        torch.tensor([0, 0, 1]), torch.tensor([2, 3, 3]), torch.tensor([4.5, 0.0, 2.0]), torch.arange(4)
    )
    pairs = RelationPairs(relations, torch.tensor([0, 1]), torch.tensor([3, 2]))
    torch.testing.assert_close(pairs.rows(0, 1, targets=True).target, torch.tensor([[0.0, 4.5]]))
    torch.testing.assert_close(
        pairs.rows(1, 2, targets=True).target, torch.tensor([[2.0, nan]]), equal_nan=True
    )

    class Silent:
        def positive(self, anchors: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
            return anchors[:, None] == candidates

        excluded = positive

    assert (
        RelationPairs(Silent(), torch.tensor([0]), torch.tensor([1])).rows(0, 1, targets=True).target is None
    )


def test_an_item_is_no_positive_of_itself_however_often_it_is_there() -> None:
    items, others = torch.tensor([3, 1, 3, 2]), torch.tensor([2, 3, 3, 9, 1])
    labels = torch.zeros(5, dtype=torch.int64)
    labels[3] = -1
    block = LabelPairs(labels[:4], labels, items, others).rows(0, 4)
    for row in range(4):
        for column in range(5):
            known = labels[row] >= 0 and labels[column] >= 0
            assert block.positive[row, column] == (known and items[row] != others[column])
            assert not block.negative[row, column]
