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

    Nothing larger than ``block × 16384`` scores is held at a time.

    Args:
        vectors: the ``M`` items' vectors.
        ids: ``[M]`` int64 their distinct global ids.
        relations: which items belong together.
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
    asked = ids[anchors]
    for rows, columns in relations.blocks(asked, ids, block):
        if not len(columns):  # nobody in this block has a positive
            continue
        own = vectors[anchors[rows]]
        for chunk in columns.split(_CHUNK):
            other = ~relations.positive(asked[rows], chunk)
            scores = (own @ vectors[row_of[torch.searchsorted(sorted_ids, chunk)]].T).cpu()
            count[rows] += len(chunk) - other.sum(1)
            total[rows] += scores.masked_fill(other, 0).sum(1, dtype=torch.float64)
            worst[rows] = torch.minimum(worst[rows], scores.masked_fill(other, torch.inf).amin(1))
            best[rows] = torch.maximum(best[rows], scores.masked_fill_(other, -torch.inf).amax(1))
    none = count == 0
    return PositiveScores(
        best.masked_fill(none, torch.nan),
        worst.masked_fill(none, torch.nan),
        (total / count).float(),
    )
