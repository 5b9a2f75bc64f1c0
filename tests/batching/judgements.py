"""Judged pairs to plan batches of, and what a batch of pairs must not hold."""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch
from torch import Tensor

from lit_metric.batching import Plan
from lit_metric.data import PairRelations


def judged(
    seed: int, anchors: int, candidates: int, count: int, negatives: int = 0, copies: int = 0
) -> PairRelations:
    """``count`` random positives of ``anchors`` items among ``candidates`` others that follow them, as many
    given ``negatives`` again, and the last ``copies`` items with the texts of other items."""
    draw, items = random.Random(seed), anchors + candidates
    grades: dict[tuple[int, int], float] = {}
    for place in range(count + negatives):
        pair = draw.randrange(anchors), anchors + draw.randrange(candidates)
        grades.setdefault(pair, float(place < count))
    prints = torch.arange(items)
    prints[items - copies :] = torch.tensor([draw.randrange(items - copies) for _ in range(copies)]).long()
    return PairRelations(
        torch.tensor([pair[0] for pair in grades]),
        torch.tensor([pair[1] for pair in grades]),
        torch.tensor([*grades.values()]),
        prints,
    )


def facts(relations: PairRelations) -> tuple[list[int], set[tuple[int, int]], set[tuple[int, int]]]:
    """Fingerprints, positive pairs and explicit negatives, asked one by one."""
    ids = range(len(relations))
    grades = relations.targets(torch.tensor(ids), torch.tensor(ids)).tolist()
    positive = {(a, c) for a in ids for c in ids if grades[a][c] > 0 and a != c}
    negative = {(a, c) for a in ids for c in ids if grades[a][c] == 0}
    return relations.fingerprints.tolist(), positive, negative


def clashes(
    pairs: Iterable[tuple[int, int]],
    candidates: Iterable[int],
    prints: list[int],
    known: set[tuple[int, int]],
) -> list[tuple[int, int]]:
    """Anchors of ``pairs`` and candidates of others that must not be in one batch, by loops over everything.

    ``known`` are the positive pairs.
    """
    texts = {(prints[anchor], prints[candidate]) for anchor, candidate in known}
    return [
        (anchor, other)
        for anchor, own in pairs
        for other in candidates
        if other != own and (prints[anchor] == prints[other] or (prints[anchor], prints[other]) in texts)
    ]


def pairs_of(plan: Plan) -> list[list[tuple[int, int]]]:
    """Each batch's anchors with their own candidates, which stand first."""
    both = zip(plan.anchors.tolist(), plan.candidates.tolist(), strict=True)
    return [list(zip(anchors, candidates, strict=False)) for anchors, candidates in both]


def ids_of(relations: PairRelations) -> Tensor:
    return torch.arange(len(relations))
