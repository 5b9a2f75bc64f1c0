"""The nearest other items, and what their labels say: confusions of classes, precision and recall."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lit_metric.index import ExactIndex, similarities
from lit_metric.report.structure import ClassRow, Confusion, Floats, Ints

EXAMPLES = 5
"""Pairs of items that are shown for a confusion."""
_BLOCK = 2048


def nearest(vectors: Tensor, k: int, allowed: NDArray[np.bool_] | None = None) -> tuple[Ints, Floats]:
    """The ``k`` nearest other items of each item by cosine; exact.

    An item of an equal vector counts as any other. Of equal cosines the lower place comes first.

    Args:
        vectors: ``[N, d]`` of any length; a row that isn't finite stands for an item without a vector.
        k: at least 1.
        allowed: ``[N]``, the items that may be found, such as documents; None: all.

    Returns:
        Places ``[N, k]``, nearest first, and cosines ``[N, k]`` in -1 .. 1; -1 and -inf behind the last.

    Raises:
        ValueError: if ``k`` is below 1, or ``allowed`` has another length.

    Example:
        >>> nearest(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), k=1)[0].tolist()
        [[2], [0], [0]]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if allowed is not None and len(allowed) != len(vectors):
        raise ValueError(f"allowed is for {len(allowed)} items, and there are {len(vectors)}")
    known = vectors.isfinite().all(dim=1)
    found = known if allowed is None else known & torch.from_numpy(np.asarray(allowed, dtype=bool))
    ids, corpus = known.nonzero()[:, 0], found.nonzero()[:, 0]
    places = np.full((len(vectors), k), -1, np.int32)
    cosines = np.full((len(vectors), k), -np.inf, np.float32)
    if not len(ids) or not len(corpus):
        return places, cosines
    index = ExactIndex(device="cpu")
    index.add(vectors[corpus], corpus)
    wanted = min(k + 1, len(corpus))  # with one to spare, for the item itself
    search = index.search_by_id(ids, wanted) if allowed is None else index.search(vectors[ids], wanted)
    scores, near = search[0], search[1]
    # An item may come behind others of equal vectors, or not at all: then the last one is to spare.
    itself = near == ids[:, None]
    itself[:, -1] |= ~itself.any(dim=1) & (wanted > k)
    kept = (~itself).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]
    near, scores = near.gather(1, kept), scores.gather(1, kept)
    none = itself.gather(1, kept)
    width = kept.shape[1]
    places[ids.numpy(), :width] = near.masked_fill(none, -1).numpy()
    cosines[ids.numpy(), :width] = scores.clamp(-1, 1).masked_fill(none, -torch.inf).numpy()
    return places, cosines


def confusions(
    label_offsets: Ints,
    label_ids: Ints,
    after: Ints,
    before: Ints | None = None,
    scores: Floats | None = None,
    most: int = 200,
) -> list[Confusion]:
    """Pairs of classes of which the first takes its nearest neighbours from the second, the worst first.

    An item is right if it has a label in common with its neighbour. If not, each of its labels counts as
    confused with each of the neighbour's. Items without labels neither count nor confuse.

    Args:
        label_offsets: ``[N+1]``; labels of item i are ``label_ids[label_offsets[i]:label_offsets[i+1]]``.
        label_ids: ``[L]`` places of labels.
        after: ``[N]`` or ``[N, K]`` places of the nearest searched item, in the first column; -1 for items
            that are not asked.
        before: the same of the untrained encoder.
        scores: ``[N]`` or ``[N, K]`` cosines of ``after``: the most similar pairs are the examples.
        most: confusions at most.

    Returns:
        In the order of ``count``, then of ``rate``, which is the share of all asked items of the first class.

    Example:
        >>> labels = np.array([0, 0, 1], np.int32)
        >>> found = confusions(np.arange(4, dtype=np.int32), labels, np.array([2, 0, 0], np.int32))
        >>> [(each.first, each.second, each.count, each.rate) for each in found]
        [(1, 0, 1, 1.0), (0, 1, 1, 0.5)]
    """
    classes = int(label_ids.max(initial=-1)) + 1
    if not classes:
        return []
    keys, items, others = _confused(label_offsets, label_ids, _first(after), classes)
    earlier: dict[int, int] = {}
    if before is not None:
        numbers, counts = np.unique(
            _confused(label_offsets, label_ids, _first(before), classes)[0], return_counts=True
        )
        earlier = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    asked = _first(after) >= 0
    sizes = np.bincount(label_ids[np.repeat(asked, np.diff(label_offsets))], minlength=classes)
    similar = np.zeros(len(items)) if scores is None else _first(scores)[items]
    order = np.lexsort((items, -similar, keys))
    keys, items, others = keys[order], items[order], others[order]
    numbers, starts, counts = np.unique(keys, return_index=True, return_counts=True)
    rates = counts / sizes[numbers // classes]
    found = []
    for place in np.lexsort((numbers, -rates, -counts))[:most].tolist():
        key, examples = (
            int(numbers[place]),
            slice(starts[place], starts[place] + min(EXAMPLES, counts[place])),
        )
        pairs = list(zip(items[examples].tolist(), others[examples].tolist(), strict=True))
        first, second = divmod(key, classes)
        found.append(
            Confusion(first, second, int(counts[place]), float(rates[place]), earlier.get(key, 0), pairs)
        )
    return found


def class_rows(
    label_offsets: Ints,
    label_ids: Ints,
    classes: int,
    after: Ints,
    before: Ints | None = None,
    vectors: Tensor | None = None,
    train_sizes: Ints | None = None,
) -> list[ClassRow]:
    """How well each class is found by the label of each item's nearest neighbour, in the order of labels.

    Precision is the share of those items whose neighbour has the label that have it, too; recall the share of
    those items that have the label whose neighbour has it, too.

    Args:
        label_offsets, label_ids, after, before: as in :func:`confusions`; ``before`` asks the same items.
        classes: how many there are.
        vectors: ``[N, d]`` after, for the spread and the nearest class.
        train_sizes: ``[classes]`` items in training; None: unknown.

    Returns:
        A row for each class with an asked item.

    Example:
        >>> rows = class_rows(np.arange(4), np.array([0, 0, 1]), 2, np.array([1, 0, 0]))
        >>> [(each.precision, each.recall) for each in rows]
        [(0.666..., 1.0), (None, 0.0)]
    """
    asked = _first(after) >= 0
    given = np.repeat(asked, np.diff(label_offsets))
    owners = np.repeat(np.arange(len(asked)), np.diff(label_offsets))[given]  # the item of each label
    own = label_ids[given]
    sizes = np.bincount(own, minlength=classes)
    precision, recall = _found(label_offsets, label_ids, _first(after), classes)
    precision_before, recall_before = (
        ([None] * classes, [None] * classes)
        if before is None
        else _found(label_offsets, label_ids, np.where(asked, _first(before), -1), classes)
    )
    spread, near, cosines = _shape(vectors, owners, own, classes)
    return [
        ClassRow(
            label=label,
            size=int(sizes[label]),
            train_size=0 if train_sizes is None else int(train_sizes[label]),
            precision=precision[label],
            recall=recall[label],
            precision_before=precision_before[label],
            recall_before=recall_before[label],
            spread=None if np.isnan(spread[label]) else float(spread[label]),
            nearest=int(near[label]),
            nearest_cosine=None if near[label] < 0 else float(cosines[label]),
        )
        for label in sizes.nonzero()[0].tolist()
    ]


def _first(columns: NDArray[Any]) -> NDArray[Any]:
    """``[N]``, the first column of ``[N]`` or ``[N, K]``."""
    return columns if columns.ndim == 1 else columns[:, 0]


def _pairs(
    offsets: Ints, ids: Ints, neighbours: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each label of each asked item with each label of its neighbour: the item, its label, the other."""
    items = np.flatnonzero(neighbours >= 0)
    others = neighbours[items].astype(np.int64)
    lengths = np.diff(offsets).astype(np.int64)
    counts = lengths[items] * lengths[others]
    row = np.repeat(np.arange(len(items)), counts)
    place = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)
    width = lengths[others][row]
    ours = ids[offsets[items][row] + place // np.maximum(width, 1)]
    theirs = ids[offsets[others][row] + place % np.maximum(width, 1)]
    return items[row], ours.astype(np.int64), theirs.astype(np.int64)


def _confused(
    offsets: Ints, ids: Ints, neighbours: NDArray[Any], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """``first * classes + second`` of each confused pair of labels, its item, and the item's neighbour."""
    items, ours, theirs = _pairs(offsets, ids, neighbours)
    right = np.zeros(len(neighbours), bool)
    right[items[ours == theirs]] = True
    wrong = ~right[items]
    items = items[wrong]
    return ours[wrong] * classes + theirs[wrong], items, neighbours[items].astype(np.int64)


def _found(
    offsets: Ints, ids: Ints, neighbours: NDArray[Any], classes: int
) -> tuple[list[float | None], list[float | None]]:
    """Precision and recall of each class; None where nothing was predicted, or no item has the label."""
    asked = neighbours >= 0
    lengths = np.diff(offsets)
    _, ours, theirs = _pairs(offsets, ids, neighbours)
    right = np.bincount(ours[ours == theirs], minlength=classes)
    labelled = asked & (lengths > 0)
    having = np.bincount(ids[np.repeat(labelled, lengths)], minlength=classes)
    times = np.bincount(neighbours[labelled].astype(np.int64), minlength=len(lengths))
    predicted = np.bincount(ids, np.repeat(times, lengths), minlength=classes)
    shares = []
    for totals in (predicted, having):
        pairs = zip(right.tolist(), totals.tolist(), strict=True)
        shares.append([None if not total else count / total for count, total in pairs])
    return shares[0], shares[1]


def _shape(
    vectors: Tensor | None, owners: NDArray[np.int64], labels: Ints, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """``[classes]`` each: mean cosine distance of the items from their mean direction, the class whose mean
    direction is nearest, and its cosine."""
    spread, near, cosines = np.full(classes, np.nan), np.full(classes, -1), np.full(classes, np.nan)
    if vectors is None or not len(owners):
        return spread, near, cosines
    rows, of = torch.from_numpy(owners), torch.from_numpy(labels.astype(np.int64))
    finite = vectors.isfinite().all(dim=1)[rows]
    rows, of = rows[finite], of[finite]
    unit = F.normalize(vectors.float(), dim=1)[rows]
    means = F.normalize(torch.zeros(classes, unit.shape[1]).index_add(0, of, unit), dim=1)
    sizes = torch.bincount(of, minlength=classes)
    distances = torch.zeros(classes).index_add(0, of, 1 - (unit * means[of]).sum(dim=1))
    present = (sizes > 0).nonzero()[:, 0]
    spread[present.numpy()] = (distances[present] / sizes[present]).clamp(min=0).numpy()
    if len(present) < 2:
        return spread, near, cosines
    for start in range(0, len(present), _BLOCK):
        block = present[start : start + _BLOCK]
        scores = similarities(means[block], means[present])
        scores[torch.arange(len(block)), torch.arange(start, start + len(block))] = -torch.inf
        best, place = scores.max(dim=1)
        near[block.numpy()], cosines[block.numpy()] = present[place].numpy(), best.clamp(-1, 1).numpy()
    return spread, near, cosines
