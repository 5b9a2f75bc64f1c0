"""Labels, pairs and vectors to plan batches of, and what a batch of pairs must not hold."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lit_metric.batching import BatchPlanner, Plan
from lit_metric.batching.members import Members
from lit_metric.data import LabelRelations, PairRelations, Relations
from lit_metric.index import Embeddings

SIZES = {
    "equal": [6] * 20,
    "long tail": [200, 90, 40, 20, 10, 5, 5, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1],
    "as many as asked for": [7, 1, 12, 4, 5],
    "one giant": [500, 3, 3, 3, 2, 2, 2, 2],
}


def relations_of(sizes: list[int], unlabelled: int = 0) -> LabelRelations:
    """Classes of the given sizes, their items scattered over the ids, and some items without a label."""
    labels = torch.tensor(
        [number for number, size in enumerate(sizes) for _ in range(size)] + [-1] * unlabelled
    )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return LabelRelations(
        labels[order], [str(number) for number in range(len(sizes))], torch.arange(len(labels))
    )


def plan_of(planner: BatchPlanner, relations: LabelRelations, seed: int = 0, epoch: int = 0) -> Plan:
    return by_vectors(planner, torch.arange(len(relations)), relations, seed, epoch)


def by_vectors(planner: BatchPlanner, ids: torch.Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
    """A plan, by vectors that don't change if the planner looks at them."""
    given = {"vectors": scattered(len(relations))} if planner.uses_vectors else {}
    return planner.plan(ids, relations, seed, epoch, **given)


def sized(sizes: list[int] | np.ndarray) -> Members:
    """Classes of the given sizes, of items 0, 1, ..."""
    return Members(np.arange(sum(sizes)), np.array(sizes))


def digest(plan: Plan) -> str:
    parts = [plan.anchors.values, plan.anchors.offsets, plan.candidates.values, plan.candidates.offsets]
    parts += [] if plan.tasks is None else [plan.tasks]
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


def item_vectors(points: np.ndarray, first: int = 0) -> Embeddings:
    """Items ``first``, ``first + 1``, ... at the directions of ``points [N, d]``."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return Embeddings(torch.arange(first, first + len(points)), unit.astype(np.float16))


def scattered(count: int, seed: int = 0) -> Embeddings:
    """``count`` items anywhere on a sphere in eight dimensions."""
    return item_vectors(np.random.default_rng([count, seed]).standard_normal((count, 8)))


def families(
    count: int = 8, classes: int = 6, members: int = 5, seed: int = 0
) -> tuple[LabelRelations, Embeddings, np.ndarray]:
    """``count`` families of near classes of near items, in random order of ids.

    Returns:
        What belongs together, the items' vectors, and the family of each class.
    """
    lots = np.random.default_rng(seed)
    family = np.repeat(np.arange(count), classes)
    centres = lots.standard_normal((count, 16))[family] + 0.4 * lots.standard_normal((len(family), 16))
    labels = lots.permutation(np.repeat(np.arange(len(family)), members))
    points = centres[labels] + 0.2 * lots.standard_normal((len(labels), 16))
    names = [str(number) for number in range(len(family))]
    relations = LabelRelations(torch.from_numpy(labels), names, torch.arange(len(labels)))
    return relations, item_vectors(points), family


def likeness(plan: Plan, labels: torch.Tensor, vectors: Embeddings) -> float:
    """The mean cosine of an anchor and a candidate of another class in one batch."""
    found = []
    for step in range(len(plan)):
        anchors, candidates = plan.batch(step)
        cosines = vectors.of(anchors) @ vectors.of(candidates).T
        found.append(cosines[labels[anchors][:, None] != labels[candidates]])
    return float(torch.cat(found).mean())


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
