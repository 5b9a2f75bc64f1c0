"""Duplicates within a list of items, and items that two lists have in common."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

from lit_metric.data.progress import track
from lit_metric.index import similarities
from lit_metric.neighbours.known import COPIES

BLOCK = 2048
"""Items whose cosines are computed together, on either side."""

Pair = tuple[int, int, float]


def normalized(item: str | Sequence[str]) -> Hashable:
    """A text without differences of case, blanks, Unicode form (NFKC) and punctuation at its end; for tags,
    the set of them.

    Example:
        >>> normalized("Where  is my Card?") == normalized("where is my card")
        True
        >>> normalized(["b", "A"]) == normalized(["a", "b", "B"])
        True
    """
    if not isinstance(item, str):
        return frozenset(normalized(text) for text in item)
    plain = " ".join(unicodedata.normalize("NFKC", item).casefold().split())
    return re.sub(r"[\s.,;:!?…]+$", "", plain) or plain


def near_pairs(
    vectors: NDArray[Any], threshold: float, others: NDArray[Any] | None = None, progress: bool = False
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """All pairs of vectors whose cosine is at least ``threshold``, in blocks; exact.

    Args:
        vectors: ``[n, d]``.
        threshold: in (0, 1].
        others: ``[m, d]``, with which they are compared. None: with each other, each pair once.
        progress: whether to show that of long work.

    Yields:
        Places in ``vectors``, places in ``others``, and the cosines, each ``[pairs]``.
    """
    ours = F.normalize(torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)), dim=1)
    theirs = ours
    if others is not None:
        theirs = F.normalize(torch.from_numpy(np.ascontiguousarray(others, dtype=np.float32)), dim=1)
    least = min(threshold, COPIES)  # copies may have a cosine a little below 1
    for start in track(range(0, len(ours), BLOCK), "comparing", shown=progress):
        for other in range(start if others is None else 0, len(theirs), BLOCK):
            scores = similarities(ours[start : start + BLOCK], theirs[other : other + BLOCK])
            found: Tensor = scores >= least
            if others is None and other == start:
                found = found.triu(1)
            rows, columns = found.nonzero(as_tuple=True)
            if len(rows):
                cosines = scores[rows, columns].clamp(max=1.0)
                yield (rows + start).numpy(), (columns + other).numpy(), cosines.numpy()


def duplicate_groups(
    items: Sequence[str | Sequence[str]],
    vectors: NDArray[Any] | None = None,
    threshold: float = 0.95,
    progress: bool = False,
) -> list[list[int]]:
    """Groups of items that are equal after :func:`normalized`, or near each other.

    Items are joined in pairs, so a group may hold two that are like a third and less like each other.

    Args:
        items: ``n`` texts, or lists of tags.
        vectors: ``[n, d]`` of them; None finds only items that are equal after normalising.
        threshold: pairs of at least this cosine are near, in (0, 1].
        progress: whether to show that of long work.

    Returns:
        Places of the items of each group of two or more, rising, the largest group first.

    Raises:
        ValueError: when the threshold is out of range, or there is not one vector for each item.

    Example:
        >>> texts = ["a card", "A card.", "rate", "rates"]
        >>> duplicate_groups(texts)
        [[0, 1]]
        >>> duplicate_groups(texts, np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))
        [[0, 1], [2, 3]]
    """
    check_threshold(threshold)
    if vectors is not None and len(vectors) != len(items):
        raise ValueError(f"{len(vectors)} vectors for {len(items)} items: give each item its own")
    first: dict[Hashable, int] = {}
    equal = [first.setdefault(normalized(item), place) for place, item in enumerate(items)]
    rows, columns = [np.arange(len(items))], [np.array(equal, dtype=np.int64)]
    if vectors is not None:
        for ours, theirs, _ in near_pairs(vectors, threshold, progress=progress):
            rows.append(ours)
            columns.append(theirs)
    where = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(where[0]), dtype=bool), where), shape=(len(items), len(items)))
    members: dict[int, list[int]] = {}
    for place, group in enumerate(connected_components(graph, directed=False)[1].tolist()):
        members.setdefault(group, []).append(place)
    return sorted(
        (group for group in members.values() if len(group) > 1), key=lambda group: (-len(group), group)
    )


def common_items(
    items: Sequence[str | Sequence[str]],
    others: Sequence[str | Sequence[str]],
    vectors: tuple[NDArray[Any], NDArray[Any]] | None = None,
    threshold: float = 0.95,
    progress: bool = False,
) -> list[Pair]:
    """Pairs of an item and one of ``others`` that are equal after :func:`normalized`, or near each other.

    Args:
        items, others: texts, or lists of tags.
        vectors: those of ``items`` and of ``others``.
        threshold, progress: as in :func:`duplicate_groups`.

    Returns:
        ``(place in items, place in others, cosine)``, in this order. The cosine is NaN without vectors.

    Example:
        >>> common_items(["a card", "rate"], ["A card."])
        [(0, 0, nan)]
    """
    check_threshold(threshold)
    places: dict[Hashable, list[int]] = {}
    for place, item in enumerate(others):
        places.setdefault(normalized(item), []).append(place)
    pairs = {
        (place, other): np.nan
        for place, item in enumerate(items)
        for other in places.get(normalized(item), ())
    }
    if vectors is not None:
        for place, other in pairs:
            one, two = vectors[0][place], vectors[1][other]
            pairs[place, other] = float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
        for ours, theirs, cosines in near_pairs(vectors[0], threshold, vectors[1], progress):
            where = zip(ours.tolist(), theirs.tolist(), strict=True)
            pairs.update(zip(where, cosines.tolist(), strict=True))
    return [(place, other, cosine) for (place, other), cosine in sorted(pairs.items())]


def check_threshold(threshold: float) -> None:
    """Raise ``ValueError`` unless the threshold is in (0, 1]."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is the least cosine of near duplicates, in (0, 1], not {threshold}")
