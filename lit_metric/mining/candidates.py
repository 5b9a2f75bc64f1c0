"""What passes between the stages of mining: candidates with their scores, and the scores of the positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings

PositiveScore = Literal["best", "worst", "mean"]
_CHUNK = 16384


@dataclass(frozen=True, eq=False)
class PositiveScores:
    """How similar each anchor is to its positives. An anchor may have any number of them.

    Args:
        best: ``[A]`` float32, the score of the most similar positive; NaN for an anchor without positives.
        worst: ``[A]`` the score of the least similar positive.
        mean: ``[A]`` the mean over all positives.
    """

    best: Tensor
    worst: Tensor
    mean: Tensor

    def of(self, name: PositiveScore) -> Tensor:
        """``[A]`` float32, the score called ``name``."""
        return {"best": self.best, "worst": self.worst, "mean": self.mean}[name]

    def select(self, rows: Tensor) -> PositiveScores:
        """The scores of the anchors in ``rows [a]``."""
        return PositiveScores(self.best[rows], self.worst[rows], self.mean[rows])


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidate negatives of some anchors.

    Args:
        anchors: ``[A]`` int64 global item ids.
        ids: ``[A, K]`` int64 global item ids, most similar first; -1 in empty places.
        scores: ``[A, K]`` float32 similarities, higher is nearer; -inf in empty places.
        positives: the scores of the anchors' positives, on the same scale.
    """

    anchors: Tensor
    ids: Tensor
    scores: Tensor
    positives: PositiveScores

    @property
    def present(self) -> Tensor:
        """``[A, K]`` bool, False in empty places."""
        return self.ids >= 0

    @property
    def ranks(self) -> Tensor:
        """``[A, K]`` int64, how many candidates stand before each one in its row."""
        return self.present.cumsum(1) - self.present.long()

    def without(self, dropped: Tensor) -> Candidates:
        """The candidates that are not marked in ``dropped [A, K]``. They keep their places."""
        return Candidates(
            self.anchors,
            self.ids.masked_fill(dropped, -1),
            self.scores.masked_fill(dropped, -torch.inf),
            self.positives,
        )

    def top(self, keys: Tensor, count: int) -> Tensor:
        """``[A, count]`` ids of the candidates with the highest ``keys [A, K]``, -1 at the end.

        Candidates with the key -inf are never chosen. Of equal keys the one with the lower rank comes first.
        """
        keys = keys.masked_fill(~self.present, -torch.inf)
        order = keys.sort(dim=1, descending=True, stable=True).indices[:, :count]
        ids = self.ids.gather(1, order).masked_fill(keys.gather(1, order).isneginf(), -1)
        missing = count - ids.shape[1]
        return torch.nn.functional.pad(ids, (0, missing), value=-1) if missing > 0 else ids


def check_positive_score(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is ``"best"``, ``"worst"`` or ``"mean"``."""
    if name not in get_args(PositiveScore):
        raise ValueError(
            f"positive_score={name!r}; use one of {', '.join(map(repr, get_args(PositiveScore)))}"
        )


def first_kept(kept: Tensor, count: int, *columns: tuple[Tensor, float]) -> list[Tensor]:
    """The first ``count`` marked entries of each row, without gaps.

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


def positive_scores(
    embeddings: Embeddings, relations: Relations, anchors: Tensor | None = None, block: int = 512
) -> PositiveScores:
    """Best, worst and mean score over the positives of each anchor, which may be none or thousands.

    Memory holds at most ``block × 16384`` scores at a time.

    Args:
        embeddings: of all items.
        relations: which items belong together.
        anchors: ``[A]`` ids; None: all items.
        block: number of anchors to handle together.

    Returns:
        ``[A]`` float32 each, NaN for an anchor without positives among the items.
    """
    anchors = embeddings.ids if anchors is None else anchors
    best = torch.full((len(anchors),), -torch.inf)
    worst = torch.full((len(anchors),), torch.inf)
    total = torch.zeros(len(anchors), dtype=torch.float64)
    count = torch.zeros(len(anchors), dtype=torch.int64)
    for rows, positives in relations.blocks(anchors, embeddings.ids, block):
        if not len(positives):  # no anchor of this block has a positive
            continue
        vectors = embeddings.of(anchors[rows])
        for chunk in positives.split(_CHUNK):
            other = ~relations.positive(anchors[rows], chunk)
            scores = (vectors @ embeddings.of(chunk).T).cpu()
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
