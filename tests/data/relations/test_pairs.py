"""Relations by judged pairs against a dictionary of judgements and loops over pairs."""

from __future__ import annotations

import math
import random
import tracemalloc
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lit_metric.data import DataError, PairRelations
from tests.data.relations.loops import assert_answers, random_fingerprints, some_ids, table

ITEMS = 45


@dataclass
class World:
    """Random judgements, and what follows from them by the definitions."""

    grades: dict[tuple[int, int], float]
    ignored: set[tuple[int, int]]
    fingerprints: Tensor
    positive_from: float | None
    unjudged: str

    def positive(self, anchor: int, candidate: int) -> bool:
        grade = self.grades.get((anchor, candidate), -math.inf)
        good = grade > 0 if self.positive_from is None else grade >= self.positive_from
        return good and anchor != candidate

    def clashing(self, anchor: int, candidate: int) -> bool:
        prints = self.fingerprints.tolist()
        known = {pair for pair in self.grades if self.positive(*pair)} | self.ignored
        contents = {(prints[one], prints[other]) for one, other in known}
        return prints[anchor] == prints[candidate] or (prints[anchor], prints[candidate]) in contents

    def negative(self, anchor: int, candidate: int) -> bool:
        given = (anchor, candidate) in self.grades and not self.positive(anchor, candidate)
        return not self.clashing(anchor, candidate) and (given or self.unjudged == "negative")


def world_of(seed: int, symmetric: bool, unjudged: str) -> tuple[World, PairRelations]:
    draw = random.Random(seed)
    said: dict[tuple[int, int], float] = {}
    for _ in range(150):
        pair = draw.randrange(ITEMS), draw.randrange(ITEMS)
        if not (symmetric and pair[::-1] in said):
            said[pair] = draw.choice([0.0, 1.0, 2.0, 3.0])
    held = [(draw.randrange(ITEMS), draw.randrange(ITEMS)) for _ in range(20)]
    held = [pair for pair in held if pair not in said and pair[::-1] not in said]
    positive_from = draw.choice([None, 1.0, 2.0])
    prints = random_fingerprints(draw, ITEMS)
    rows = [*said, *draw.sample([*said], 10)]  # some judgements are given twice
    draw.shuffle(rows)
    relations = PairRelations(
        torch.tensor([pair[0] for pair in rows]),
        torch.tensor([pair[1] for pair in rows]),
        torch.tensor([said[pair] for pair in rows]),
        prints,
        positive_from,
        unjudged,  # type: ignore[arg-type]
        (torch.tensor([pair[0] for pair in held]), torch.tensor([pair[1] for pair in held])),
        symmetric,
    )
    if symmetric:
        said |= {pair[::-1]: grade for pair, grade in said.items()}
        held += [pair[::-1] for pair in held]
    return World(said, set(held), prints, positive_from, unjudged), relations


@pytest.fixture(params=[(False, "negative"), (True, "negative"), (False, "ignored"), (True, "ignored")])
def kind(request) -> tuple[bool, str]:
    return request.param


@pytest.mark.parametrize("seed", range(4))
def test_answers_against_loops(kind, seed):
    world, relations = world_of(seed, *kind)
    found, negatives = assert_answers(
        relations, world.positive, lambda a, c: not world.negative(a, c), seed + 10
    )
    assert min(found, negatives) > 5
    anchors, candidates = some_ids(seed, 30, ITEMS), some_ids(seed + 1, 40, ITEMS)
    assert relations.clashing(anchors[:, None], candidates).tolist() == table(
        world.clashing, anchors, candidates
    )


@pytest.mark.parametrize("seed", range(4))
def test_grades_and_given_negatives_against_loops(kind, seed):
    world, relations = world_of(seed, *kind)
    ids, everyone = some_ids(seed, 30, ITEMS), torch.arange(ITEMS)
    expected = table(lambda a, c: world.grades.get((a, c), math.nan), ids, everyone)
    assert torch.equal(relations.targets(ids, everyone).nan_to_num(-1), torch.tensor(expected).nan_to_num(-1))
    positives = [[c for c in range(ITEMS) if world.positive(a, c)] for a in ids.tolist()]
    assert relations.all_positives(ids).tolist() == positives
    given = [
        [c for c in range(ITEMS) if (a, c) in world.grades and not world.positive(a, c)
         and not world.clashing(a, c)]
        for a in ids.tolist()
    ]  # fmt: skip
    assert relations.given_negatives(ids).tolist() == given
    assert sum(map(len, given)) > 0


@pytest.mark.parametrize("seed", range(4))
def test_judgements_of_some_anchors_once_each(kind, seed):
    world, relations = world_of(seed, *kind)
    ids = some_ids(seed, 20, ITEMS)
    among = set(ids.tolist())
    judged = [
        (a, c)
        for a, c in sorted(world.grades)
        if a in among and not (kind[0] and c in among and c < a)  # the mirror image of one that is there
    ]
    anchors, candidates, grades = relations.judgements(ids)
    assert list(zip(anchors.tolist(), candidates.tolist(), strict=True)) == judged
    assert grades.tolist() == [world.grades[pair] for pair in judged]


def test_pairs_without_grades_are_positive():
    relations = PairRelations(torch.tensor([0, 0]), torch.tensor([1, 2]), None, torch.arange(4))
    ids = torch.arange(4)
    assert relations.positive(ids[:1], ids).tolist() == [[False, True, True, False]]
    assert relations.negative(ids[:1], ids).tolist() == [[False, False, False, True]]
    # Not symmetric: the other way round nothing is known.
    assert relations.negative(ids[1:2], ids).tolist() == [[True, False, True, True]]


def test_an_item_judged_with_itself_has_a_score_and_is_no_positive():
    relations = PairRelations(torch.tensor([0]), torch.tensor([0]), torch.tensor([5.0]), torch.arange(2))
    ids = torch.arange(2)
    assert not relations.positive(ids, ids).any()
    assert relations.all_positives(ids).tolist() == [[], []]
    assert relations.targets(ids, ids)[0, 0] == 5


def test_duplicates_of_a_positive_or_of_the_anchor_are_no_negatives():
    # 0 → 3; 1 has the text of 0, and 4 that of 3. 2 is given as a negative of 0, and 4 of 1 as well.
    relations = PairRelations(
        torch.tensor([0, 0, 1]),
        torch.tensor([3, 2, 4]),
        torch.tensor([1.0, 0.0, 0.0]),
        torch.tensor([7, 7, 8, 9, 9]),
        unjudged="ignored",
    )
    ids = torch.arange(5)
    assert relations.negative(ids[:2], ids).tolist() == [
        [False, False, True, False, False],
        [False] * 5,  # whose given negative is, by its text, the positive of an equal text
    ]
    assert relations.given_negatives(ids[:2]).tolist() == [[2], []]


def test_a_million_judgements_take_memory_in_proportion():
    judgements, items = 1_000_000, 500_000
    lots = torch.Generator().manual_seed(0)
    anchors = torch.randint(items, (judgements,), generator=lots)
    candidates = torch.randint(items, (judgements,), generator=lots)
    tracemalloc.start()  # counts NumPy's arrays and Python's objects, of which there is none for each pair
    relations = PairRelations(anchors, candidates, None, torch.arange(items))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * judgements
    tensors = [value for value in vars(relations).values() if isinstance(value, Tensor)]
    tensors += [value.keys for value in vars(relations).values() if hasattr(value, "keys")]
    assert sum(tensor.numel() for tensor in tensors) < 5 * judgements + 4 * items
    ids = anchors[:300]
    assert relations.positive(ids, candidates[:300]).diagonal().sum() == (ids != candidates[:300]).sum()
    assert relations.positive_pairs(anchors, candidates).sum() == (anchors != candidates).sum()


def test_a_pair_judged_in_two_ways_is_refused():
    with pytest.raises(DataError, match=r"items 1 and 2 are judged twice, as 1 and as 0\.5 \(1 such pairs\)"):
        PairRelations(
            torch.tensor([1, 0, 1]), torch.tensor([2, 2, 2]), torch.tensor([1, 1, 0.5]), torch.arange(3)
        )
    with pytest.raises(DataError, match=r"items 0 and 1 are judged twice, as 1 and as 0 \(2 such pairs\)"):
        PairRelations(
            torch.tensor([0, 1]),
            torch.tensor([1, 0]),
            torch.tensor([1.0, 0.0]),
            torch.arange(2),
            symmetric=True,
        )


def test_what_does_not_fit_together_is_refused():
    one, two = torch.tensor([0]), torch.tensor([0, 1])
    with pytest.raises(DataError, match=r"anchors \[1\], candidates \[2\] and grades \[1\]"):
        PairRelations(one, two, None, torch.arange(2))
    with pytest.raises(DataError, match=r"candidates must be ids within 0\.\.0, got 0\.\.1"):
        PairRelations(two * 0, two, None, torch.arange(1))
    with pytest.raises(DataError, match=r"ignored items must be ids within 0\.\.1, got 0\.\.5"):
        PairRelations(two, two, None, torch.arange(2), ignored=(one, one + 5))
    with pytest.raises(DataError, match=r"two lists of equal length, not \[1\] and \[2\]"):
        PairRelations(two, two, None, torch.arange(2), ignored=(one, two))
    with pytest.raises(DataError, match="the grade of judgement 1 is nan"):
        PairRelations(two, two, torch.tensor([1, math.nan]), torch.arange(2))
    with pytest.raises(ValueError, match="unjudged must be 'negative' or 'ignored', not 'positive'"):
        PairRelations(two, two, None, torch.arange(2), unjudged="positive")  # type: ignore[arg-type]


def test_a_copy_answers_alike():
    world, relations = world_of(3, True, "ignored")
    assert_answers(relations.to("cpu"), world.positive, lambda a, c: not world.negative(a, c), 2)
    assert relations.to("meta").grades.device.type == "meta"
