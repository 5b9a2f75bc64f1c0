"""Vectors to plan batches by, and how near the classes of a batch are to each other."""

from __future__ import annotations

import numpy as np
import torch

from lit_metric.batching import Plan
from lit_metric.data import LabelRelations
from lit_metric.index import Embeddings


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
