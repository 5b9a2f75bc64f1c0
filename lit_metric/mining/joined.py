"""Several sources of candidates as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_metric.mining.propose import Proposer
from lit_metric.mining.vectors import Vectors

Order = Literal["round_robin", "reciprocal_rank"]


class JoinedProposer(Proposer):
    """What several proposers propose, each candidate once.

    Source of the idea: R²anker (arXiv 2206.08063), which draws negatives from what several retrievers find.

    Args:
        proposers: at least two, whose scores are on one scale.
        order: ``"round_robin"`` takes the first of each in turn, then the second of each, and so on.
            ``"reciprocal_rank"`` prefers what several of them propose early: it ranks by Σ 1 / (60 + rank)
            over those that do (Cormack, Clarke and Büttcher, SIGIR 2009), ties in turn.
        depth: down to which rank a proposal counts for ``"reciprocal_rank"``; what nobody has among its
            first ``depth`` comes after, in turn.

    Raises:
        ValueError: if there are fewer than two, their scales differ, or an argument is out of range.
    """

    def __init__(self, proposers: list[Proposer], order: Order = "reciprocal_rank", depth: int = 100) -> None:
        if len(proposers) < 2 or len({each.metric for each in proposers}) > 1:
            raise ValueError(
                f"proposers must be two or more that score by one metric, not "
                f"{[f'{type(each).__name__}: {each.metric}' for each in proposers]}"
            )
        if order not in get_args(Order):
            raise ValueError(f"order={order!r}; use one of {', '.join(map(repr, get_args(Order)))}")
        if depth < 1:
            raise ValueError(f"depth={depth} must be at least 1")
        self.proposers = proposers
        self.order: Order = order
        self.depth = depth
        self.metric = proposers[0].metric

    def fit(self, vectors: Vectors, ids: Tensor, seed: int) -> None:
        """See :class:`~lit_metric.mining.Proposer`."""
        for each in self.proposers:
            each.fit(vectors, ids, seed)

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`~lit_metric.mining.Proposer`."""
        fused = self.order == "reciprocal_rank"
        wanted = max(count, self.depth) if fused else count
        scores, ids = zip(*(each.propose(anchors, vectors, wanted) for each in self.proposers), strict=True)
        joined, places = join(ids, self.depth if fused else 0, count)
        flat = torch.stack(scores, dim=2).flatten(1).gather(1, places)
        return flat.masked_fill(joined < 0, -torch.inf), joined

    def forget(self) -> None:
        """See :class:`~lit_metric.mining.Proposer`."""
        for each in self.proposers:
            each.forget()


def join(sources: Sequence[Tensor], depth: int, count: int, offset: int = 60) -> tuple[Tensor, Tensor]:
    """Merge rankings of the same anchors.

    Args:
        sources: S rankings, ``[A, n]`` int64 ids each, distinct within a row, -1 behind the last.
        depth: ranks from this one on count nothing for the fused score; 0 merges in turn alone.
        count: width of the result.
        offset: of the fused score, Σ 1 / (offset + rank) with ranks from 1.

    Returns:
        ids ``[A, count]``, -1 behind the last; and where each stands among ``n · S`` proposals in turn, in
        the first source that has it.

    Example:
        >>> lexical, dense = torch.tensor([[7, 3, 5]]), torch.tensor([[8, 5, 3]])
        >>> join([lexical, dense], depth=0, count=4)[0].tolist()
        [[7, 8, 3, 5]]
        >>> join([lexical, dense], depth=3, count=4)[0].tolist()  # 3 and 5 have 1/62 + 1/63
        [[3, 5, 7, 8]]
    """
    ids = torch.stack(list(sources), dim=2).flatten(1)  # [A, n·S], the order of taking turns
    ranks = torch.arange(ids.shape[1]) // len(sources)
    worth = torch.where(ranks < depth, 1.0 / (offset + 1 + ranks.double()), 0.0).expand(ids.shape)
    by_id, order = ids.sort(dim=1, stable=True)
    new = torch.ones_like(by_id, dtype=torch.bool)
    new[:, 1:] = by_id[:, 1:] != by_id[:, :-1]
    group = new.cumsum(1) - 1
    # Rounded, as a sum must not depend on which source came first.
    total = torch.zeros_like(worth).scatter_add(1, group, worth.gather(1, order)).round(decimals=12)
    score = torch.empty_like(worth).scatter(1, order, total.gather(1, group))
    first = torch.empty_like(new).scatter(1, order, new) & (ids >= 0)
    places = score.masked_fill(~first, -1.0).argsort(dim=1, descending=True, stable=True)[:, :count]
    joined = ids.gather(1, places).masked_fill(~first.gather(1, places), -1)
    missing = count - places.shape[1]
    return (
        torch.nn.functional.pad(joined, (0, missing), value=-1),
        torch.nn.functional.pad(places, (0, missing)),
    )
