"""How well vectors of one form of an encoder agree with those of another."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from lit_metric.encoders import Encoder, SetEncoder, TextEncoder

NEIGHBOURS = 10

LONGEST = 600
"""Tokens of the longest random text, which is more than windows of local attention have."""


def random_items(encoder: Encoder, count: int) -> list[Any]:
    """Random items of an encoder of one tower: texts of its vocabulary, some of them longer than it reads.

    Always the same for the same encoder.
    """
    text = encoder.text if isinstance(encoder, SetEncoder) else encoder
    assert isinstance(text, TextEncoder)
    tokenizer = text.tokenizer
    chance = random.Random(0)
    ordinary = sorted({*tokenizer.tokenizer.get_vocab().values()} - tokenizer.special_ids)
    longest = min(LONGEST, tokenizer.max_length + 8)
    lengths = [chance.randint(1, min(24, longest)) for _ in range(count)]
    lengths[::50] = [chance.randint(1, longest) for _ in lengths[::50]]
    lengths[:2] = [longest, 1][: len(lengths)]
    texts = [tokenizer.tokenizer.decode(chance.choices(ordinary, k=length)) for length in lengths]
    if not isinstance(encoder, SetEncoder):
        return texts
    sets = [chance.sample(texts, min(len(texts), chance.randint(1, 6))) for _ in range(count)]
    return [[], *sets[1:]]


def neighbour_recall(expected: np.ndarray, found: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Of the ``k`` nearest neighbours of each row, by cosine, the share that other vectors find, too.

    A neighbour as near as the ``k``-th counts as one of them.

    Args:
        expected: ``[n, d]`` vectors that say who the neighbours are.
        found: ``[n, d]`` vectors to compare with them.
        k: neighbours; fewer where there are fewer rows.

    Returns:
        Between 0 and 1; 1 if there is at most one row.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> neighbour_recall(rows, rows[[0, 1, 3, 2]], k=1), neighbour_recall(rows, rows[[0, 2, 1, 3]], k=1)
        (1.0, 0.0)
    """
    k = min(k, len(expected) - 1)
    if k < 1:
        return 1.0
    near, other = (_cosines(rows) for rows in (expected, found))
    chosen = np.argpartition(-other, k - 1, axis=1)[:, :k]
    least = -np.partition(-near, k - 1, axis=1)[:, k - 1 : k]
    return float((np.take_along_axis(near, chosen, 1) >= least - 1e-6).mean())


def _cosines(rows: np.ndarray) -> np.ndarray:
    """``[n, n]``; a row is no neighbour of itself."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines
