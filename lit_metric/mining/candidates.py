"""What passes between the stages of mining: candidates with their scores, beside the anchor's positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reference = Literal["best", "worst", "mean"]
REFERENCES: tuple[Reference, ...] = ("best", "worst", "mean")


@dataclass(frozen=True, eq=False)
class PositiveScores:
    """How similar each anchor is to its positives, of which it may have any number.

    Args:
        best: ``[A]`` float32, the score of the most similar positive; NaN where the anchor has none.
        worst: ``[A]`` the score of the least similar one.
        mean: ``[A]`` the mean over all of them.
    """

    best: Tensor
    worst: Tensor
    mean: Tensor

    def of(self, reference: Reference) -> Tensor:
        """``[A]`` float32, the one called ``reference``."""
        return {"best": self.best, "worst": self.worst, "mean": self.mean}[reference]

    def select(self, rows: Tensor) -> PositiveScores:
        """Those of ``rows [a]``."""
        return PositiveScores(self.best[rows], self.worst[rows], self.mean[rows])


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidate negatives of some anchors.

    Args:
        anchors: ``[A]`` int64 global item ids.
        ids: ``[A, K]`` int64 global item ids, most similar first; -1 where there is none or it was dropped.
        scores: ``[A, K]`` float32 similarities, greater is nearer; -inf where there is none.
        positives: the scores of the anchors' positives, on the same scale.
    """

    anchors: Tensor
    ids: Tensor
    scores: Tensor
    positives: PositiveScores

    @property
    def present(self) -> Tensor:
        """``[A, K]`` bool, False where there is no candidate."""
        return self.ids >= 0

    def without(self, dropped: Tensor) -> Candidates:
        """The same with the candidates marked in ``dropped [A, K]`` taken out; the others stay in place."""
        return Candidates(
            self.anchors,
            self.ids.masked_fill(dropped, -1),
            self.scores.masked_fill(dropped, -torch.inf),
            self.positives,
        )


def check_reference(reference: str) -> None:
    """Raise ``ValueError`` unless ``reference`` names one of :data:`REFERENCES`."""
    if reference not in REFERENCES:
        raise ValueError(f"reference={reference!r}; use one of {', '.join(map(repr, REFERENCES))}")


def first_kept(kept: Tensor, count: int, *columns: tuple[Tensor, float]) -> list[Tensor]:
    """The first ``count`` marked entries of every row, closed up.

    Args:
        kept: ``[A, K]`` bool.
        count: width of the result.
        columns: pairs ``(values [A, K], fill)``; ``fill`` stands where a row has fewer than ``count``.

    Returns:
        One ``[A, count]`` tensor for each of ``columns``.

    Example:
        >>> kept = torch.tensor([[False, True, True], [False, False, True]])
        >>> first_kept(kept, 2, (torch.tensor([[4, 5, 6], [7, 8, 9]]), -1))[0].tolist()
        [[5, 6], [9, -1]]
    """
    place = kept.cumsum(1) - 1
    rows, where = (kept & (place < count)).nonzero(as_tuple=True)
    closed = []
    for values, fill in columns:
        out = values.new_full((len(values), count), fill)
        out[rows, place[rows, where]] = values[rows, where]
        closed.append(out)
    return closed
