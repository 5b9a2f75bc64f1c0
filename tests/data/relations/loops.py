"""The questions that relations answer, asked about one pair at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from lit_metric.data import Relations

Ask = Callable[[int, int], bool]


def some_ids(seed: int, count: int, items: int) -> Tensor:
    """``[count]`` ids, with repeats, in no order."""
    return torch.randint(items, (count,), generator=torch.Generator().manual_seed(seed))


def table(ask: Callable[[int, int], object], anchors: Tensor, candidates: Tensor) -> list[list[object]]:
    """``ask`` about every pair."""
    return [[ask(a, c) for c in candidates.tolist()] for a in anchors.tolist()]


def assert_answers(relations: Relations, positive: Ask, excluded: Ask, seed: int) -> tuple[int, int]:
    """All five vectorised questions against the two functions; how many of the pairs were positive and how
    many negative, so that a test can see that there were some."""
    items = len(relations)
    anchors, candidates = some_ids(seed, 37, items), some_ids(seed + 1, 53, items)
    positives, excludeds = table(positive, anchors, candidates), table(excluded, anchors, candidates)
    assert relations.positive(anchors, candidates).tolist() == positives
    assert relations.excluded(anchors, candidates).tolist() == excludeds
    negatives = [[not each for each in row] for row in excludeds]
    assert relations.negative(anchors, candidates).tolist() == negatives
    # The elementwise questions, of every pair by way of broadcasting, and of two flat lists.
    assert relations.positive_pairs(anchors[:, None], candidates).tolist() == positives
    assert relations.excluded_pairs(anchors[:, None], candidates).tolist() == excludeds
    flat = anchors.repeat_interleave(53), candidates.repeat(37)
    assert relations.positive_pairs(*flat).tolist() == [*chain(*positives)]
    assert relations.negative_pairs(*flat).tolist() == [*chain(*negatives)]
    found = [[c for c in candidates.tolist() if positive(a, c)] for a in anchors.tolist()]
    assert relations.positives(anchors, candidates).tolist() == found
    assert relations.positives(anchors.flip(0), candidates).tolist() == found[::-1]  # by what was remembered
    nothing = torch.zeros(0, dtype=torch.int64)
    assert relations.positives(nothing, candidates).tolist() == []
    assert relations.positives(anchors, nothing).tolist() == [[]] * 37
    assert relations.positive(anchors, nothing).shape == relations.targets(anchors, nothing).shape == (37, 0)
    for size in (1, 5, 100):
        assert_blocks(relations, positive, size, anchors, candidates.unique())
    if torch.cuda.is_available():
        assert_alike_on_gpu(relations, anchors, candidates)
    return sum(map(sum, positives)), sum(map(sum, negatives))  # type: ignore[arg-type]


def assert_blocks(relations: Relations, positive: Ask, size: int, anchors: Tensor, among: Tensor) -> None:
    """Blocks hold each anchor that has positives once, and beside it all of them."""
    seen = []
    for rows, columns in relations.blocks(anchors, among, size):
        assert len(rows) <= size
        assert len({*columns.tolist()}) == len(columns)
        assert {*columns.tolist()} <= {*among.tolist()}
        seen += rows.tolist()
        for row in rows.tolist():
            own = {other for other in among.tolist() if positive(int(anchors[row]), other)}
            assert own <= {*columns.tolist()}
    assert len({*seen}) == len(seen)
    for row in {*range(len(anchors))} - {*seen}:
        assert not any(positive(int(anchors[row]), other) for other in among.tolist())


def assert_alike_on_gpu(relations: Relations, anchors: Tensor, candidates: Tensor) -> None:
    """A copy on the GPU says what the original says."""
    moved, ids, others = relations.to("cuda"), anchors.cuda(), candidates.cuda()
    for name in ("positive", "excluded", "negative"):
        expected = getattr(relations, name)(anchors, candidates)
        assert torch.equal(getattr(moved, name)(ids, others).cpu(), expected)
        pairs = getattr(moved, f"{name}_pairs")(ids[:, None], others)
        assert torch.equal(pairs.cpu(), expected)
    assert moved.positives(ids, others).tolist() == relations.positives(anchors, candidates).tolist()
    targets = moved.targets(ids, others).cpu()
    torch.testing.assert_close(targets, relations.targets(anchors, candidates), equal_nan=True)


def random_fingerprints(draw: random.Random, items: int) -> Tensor:
    """About a third of the items have the content of another."""
    return torch.tensor([draw.randrange(items) * 7 - 50 for _ in range(items)])
