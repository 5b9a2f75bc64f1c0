"""How similar each item is to its positives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_metric.mining.candidates import PositiveScores
from lit_metric.mining.vectors import Vectors

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations

_CHUNK = 16384


def positive_scores(
    vectors: Vectors, ids: Tensor, relations: Relations, anchors: Tensor | None = None, block: int = 512
) -> PositiveScores:
    """Best, worst and mean score over each item's positives, which may be none or thousands.

    Nothing larger than ``block × 16384`` scores is held at a time, beside the positives of ``block`` items.

    Args:
        vectors: the ``M`` items' vectors.
        ids: ``[M]`` int64 their distinct global ids.
        relations: answers ``positives(anchors, among) -> Ragged`` of ids.
        anchors: ``[A]`` the rows of those that are asked about; None: all.
        block: items done together.

    Returns:
        ``[A]`` float32 each, NaN for an item without positives among ``ids``.
    """
    anchors = torch.arange(len(ids)) if anchors is None else anchors
    sorted_ids, row_of = ids.sort()
    best = torch.full((len(anchors),), -torch.inf)
    worst = torch.full((len(anchors),), torch.inf)
    total = torch.zeros(len(anchors), dtype=torch.float64)
    count = torch.zeros(len(anchors), dtype=torch.int64)
    for rows in _grouped(ids[anchors], ids, relations, block).split(block):
        positives = relations.positives(ids[anchors[rows]], ids)
        count[rows] = positives.lengths
        distinct, place = positives.values.unique(return_inverse=True)
        columns, own = row_of[torch.searchsorted(sorted_ids, distinct)], vectors[anchors[rows]]
        for start in range(0, len(columns), _CHUNK):
            chunk = columns[start : start + _CHUNK]
            here = (place >= start) & (place < start + len(chunk))
            other = torch.ones(len(rows), len(chunk), dtype=torch.bool)
            other[positives.segment_ids[here], place[here] - start] = False
            scores = (own @ vectors[chunk].T).cpu()
            best[rows] = torch.maximum(best[rows], scores.masked_fill(other, -torch.inf).amax(1))
            worst[rows] = torch.minimum(worst[rows], scores.masked_fill(other, torch.inf).amin(1))
            total[rows] += scores.masked_fill(other, 0).sum(1, dtype=torch.float64)
    none = count == 0
    return PositiveScores(
        best.masked_fill(none, torch.nan),
        worst.masked_fill(none, torch.nan),
        (total / count).float(),
    )


def _grouped(anchors: Tensor, ids: Tensor, relations: Relations, block: int) -> Tensor:
    # Items that share positives go into one block: the matrix product is then as wide as a class, not as the
    # classes of 256 items picked anywhere.
    first = anchors.clone()
    for rows in torch.arange(len(anchors)).split(block):
        positives = relations.positives(anchors[rows], ids)
        first[rows] = first[rows].scatter_reduce(0, positives.segment_ids, positives.values, "amin")
    return first.argsort(stable=True)
