"""Small corpora whose right answers are known, and the slow ways to find them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_metric.data import LabelRelations
from lit_metric.mining import Candidates, PositiveScores

Rows = list[list[float]]


def relations_of(labels: Tensor, fingerprints: Tensor | None = None) -> LabelRelations:
    """Relations of ``labels [N]``, every content different unless ``fingerprints`` say otherwise."""
    classes = [str(number) for number in range(int(labels.max()) + 1)]
    return LabelRelations(
        labels, classes, torch.arange(len(labels)) if fingerprints is None else fingerprints
    )


def blobs(
    items: int, classes: int, dimension: int = 16, spread: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Vectors ``[N, d]`` scattered around one centre per class, and their labels ``[N]``."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (items,), generator=generator)
    centres = torch.randn(classes, dimension, generator=generator)
    return centres[labels] + spread * torch.randn(items, dimension, generator=generator), labels


def cosine(a: list[float], b: list[float]) -> float:
    """Cosine in Python floats."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def candidates_of(scores: Rows, best: list[float], worst: list[float], mean: list[float]) -> Candidates:
    """Candidates numbered 100, 101, ... in every row, for anchors 0, 1, ...; a score of -inf is an empty
    place."""
    table = torch.tensor(scores)
    ids = torch.arange(100, 100 + table.shape[1]).expand(table.shape).masked_fill(table.isneginf(), -1)
    positives = PositiveScores(torch.tensor(best), torch.tensor(worst), torch.tensor(mean))
    return Candidates(torch.arange(len(table)), ids.clone(), table, positives)
