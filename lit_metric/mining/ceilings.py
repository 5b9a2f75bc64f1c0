"""Scores that candidates must stay below, for a search that leaves out the others while it ranks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Ceilings:
    """What some filters in a row ask of a candidate's score, and how many candidates each has dropped.

    Args:
        anchors: ``[A]`` int64 distinct ids, in any order.
        scores: ``[A, F]`` float32: filter ``f`` drops the candidates of an anchor that score as much or more;
            NaN drops none.

    Example:
        >>> ceilings = Ceilings(torch.tensor([7, 3]), torch.tensor([[0.9, 0.5], [0.2, torch.nan]]))
        >>> rows = ceilings.begin(torch.tensor([3, 7]))
        >>> scores = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.6, 0.9]])
        >>> ceilings.leave_out(rows, scores, torch.zeros(2, 3, dtype=torch.bool)).tolist()
        [[False, True, True], [False, True, True]]
        >>> ceilings.dropped.tolist()
        [[1, 1], [2, 0]]
    """

    def __init__(self, anchors: Tensor, scores: Tensor) -> None:
        self._sorted, self._order = anchors.sort()
        self.scores = scores
        self.dropped = torch.zeros(scores.shape, dtype=torch.int64)
        """``[A, F]`` how many candidates of each anchor each filter was the first to drop."""

    def begin(self, anchors: Tensor) -> Tensor:
        """The rows ``[a]`` of ``anchors [a]``, which a search begins with: what was counted for them before
        is forgotten, as a wider search for the same anchors meets the same candidates again."""
        rows = self._order[torch.searchsorted(self._sorted, anchors)]
        self.dropped[rows] = 0
        return rows

    def leave_out(self, rows: Tensor, scores: Tensor, out: Tensor) -> Tensor:
        """Mark what is not below, and count it.

        Args:
            rows: ``[a]`` of the anchors.
            scores: ``[a, n]`` of candidates not asked about since :meth:`begin`.
            out: ``[a, n]`` bool, those left out for another reason; changed in place.

        Returns:
            ``out``.
        """
        for column, ceiling in enumerate(self.scores[rows].to(scores.device).T):
            dropped = (scores >= ceiling[:, None]) > out
            self.dropped[rows, column] += _marked(dropped)
            out |= dropped
        return out


def _marked(mask: Tensor) -> Tensor:
    """``[a]`` int64, how many in each row of ``mask [a, n]``."""
    if mask.device.type != "cpu":
        return mask.sum(1).cpu()
    # A sum of bool takes 50 times as long there.
    return torch.from_numpy(np.fromiter(map(np.count_nonzero, mask.numpy()), np.int64, len(mask)))
