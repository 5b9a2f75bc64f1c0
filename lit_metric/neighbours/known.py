"""How near known items are to labelled ones, by which items unlike anything known are told."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.index import ExactIndex

COPIES = 1 - 1e-6
"""Labelled items of a larger cosine are copies of each other."""
HELD_OUT = 2000
"""Labelled items whose nearest others say how near known items are, where no others are given."""


class Answers(NamedTuple):
    """What a classifier finds for ``n`` items.

    Args:
        predicted: as :meth:`NeighbourClassifier.predict` returns it.
        shares: ``[n, c]`` of the votes.
        p_known: ``[n]``; None if nothing is refused.
        cosines: ``[n, k]`` of the nearest labelled items, falling.
        places: ``[n, k]`` of these.
    """

    predicted: Any
    shares: NDArray[np.float64]
    p_known: NDArray[np.float64] | None
    cosines: NDArray[np.float32]
    places: NDArray[np.int64]


def nearest_of_known(index: ExactIndex, held_out: Tensor | None) -> Tensor:
    """Rising cosines of known items to their nearest labelled items.

    Args:
        index: of the labelled items, under the ids ``0..n - 1``.
        held_out: ``[m, d]`` vectors of known items. None: those of up to 2,000 labelled items, which are
            compared with all but themselves and their copies.
    """
    if held_out is not None:
        return index.search(held_out, 1)[0][:, 0].sort().values
    drawn = np.random.default_rng(0).permutation(len(index))[:HELD_OUT]
    ids = torch.from_numpy(np.sort(drawn))

    def exclude(rows: slice, found: Tensor, scores: Tensor) -> Tensor:
        return (scores > COPIES) | (ids[rows][:, None] == found[None])

    return index.search_by_id(ids, 1, exclude)[0][:, 0].sort().values
