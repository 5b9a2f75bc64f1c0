"""Retrieval metrics of ranked lists, as pure functions.

Each takes ``relevant [q, k]`` bool: whether the item at each rank is relevant to the query, nearest first,
the query itself left out. Each returns one float32 value per query. The caller takes the mean over the
queries that count, or compares two models query by query.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ELEMENTS = 2**24


def hit_rate_at_k(relevant: Tensor, k: int) -> Tensor:
    """1 if any of the ``k`` nearest is relevant, else 0; its mean is the hit rate, or success@k.

    Papers on deep metric learning call it Recall@k (Jégou et al. 2011; Musgrave et al. 2020 call it a hit
    rate). See `recall_at_k` for the recall of information retrieval.

    Args:
        relevant: ``[q, k']`` bool; ranks beyond ``k'`` hold nothing relevant.
        k: >= 1.

    Returns:
        ``[q]``, 0 or 1.

    Raises:
        ValueError: ``k`` is below 1 or ``relevant`` is not a bool matrix.

    Example:
        >>> hit_rate_at_k(torch.tensor([[False, True, True], [False, False, True]]), k=2).tolist()
        [1.0, 0.0]
    """
    return _first(relevant, k).any(dim=1).float()


def precision_at_k(relevant: Tensor, k: int) -> Tensor:
    """Share of the ``k`` nearest that is relevant; ranks that a small corpus leaves empty count as
    irrelevant.

    Arguments, result (in 0..1) and errors as in `hit_rate_at_k`.

    Example:
        >>> precision_at_k(torch.tensor([[True, False, True]]), k=4).tolist()
        [0.5]
    """
    return _first(relevant, k).sum(dim=1).float() / k


def r_precision(relevant: Tensor, total: Tensor) -> Tensor:
    """Share of the ``R`` nearest that is relevant, where ``R`` is the query's number of relevant items.

    Args:
        relevant: ``[q, k]`` bool with ``k`` at least the largest ``R``.
        total: ``[q]`` integers, ``R`` of each query, counted over the whole corpus.

    Returns:
        ``[q]`` in 0..1; NaN where ``R`` is 0.

    Raises:
        ValueError: the lists are shorter than the largest ``R``, or shapes disagree.

    Example:
        >>> r_precision(torch.tensor([[True, False, True]]), torch.tensor([2])).tolist()
        [0.5]
    """
    return _within_r(relevant, total).sum(dim=1) / total.float()


def map_at_r(relevant: Tensor, total: Tensor) -> Tensor:
    """Mean average precision at R (Musgrave, Belongie and Lim 2020, "A Metric Learning Reality Check").

    ``1/R Σ_{i=1..R} P(i)``, where ``P(i)`` is the precision at rank ``i`` if the item there is relevant,
    else 0. Arguments, result and errors as in `r_precision`.

    Example:
        >>> map_at_r(torch.tensor([[True, False, True], [False, True, True]]), torch.tensor([3, 2])).tolist()
        [0.5555..., 0.25]
    """
    hits = _within_r(relevant, total)
    ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    precision = hits.cumsum(dim=1) / ranks
    return (precision * hits).sum(dim=1) / total.float()


def reciprocal_rank(relevant: Tensor) -> Tensor:
    """One over the rank of the first relevant item, 0 where the list holds none; its mean is the MRR.

    Args:
        relevant: ``[q, k]`` bool.

    Returns:
        ``[q]`` in 0..1.

    Raises:
        ValueError: ``relevant`` is not a bool matrix.

    Example:
        >>> reciprocal_rank(torch.tensor([[False, True, True], [False, False, False]])).tolist()
        [0.5, 0.0]
    """
    _check(relevant)
    if relevant.shape[1] == 0:
        return torch.zeros(len(relevant), device=relevant.device)
    # Of several largest values argmax gives the first.
    first = relevant.int().argmax(dim=1)
    return relevant.any(dim=1).float() / (first + 1)


def filtered_rank(scores: Tensor, positive: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """The rank of each positive among the items that are neither positive nor excluded.

    This is the filtered setting of link prediction (Bordes et al., NIPS 2013): no known fact worsens the rank
    of another.

    Args:
        scores: ``[q, n]`` float, the higher the nearer; of equal scores the one further left is nearer.
        positive: ``[q, n]`` bool.
        excluded: ``[q, n]`` bool; may mark positives, too, which are ranked all the same.

    Returns:
        For each positive, by row: its row ``[p]`` int64, and its rank ``[p]`` int64 from 1.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
        >>> positive = torch.tensor([[False, True, False, True]])
        >>> excluded = torch.tensor([[False, False, True, False]])
        >>> filtered_rank(scores, positive, excluded)  # both after the first alone
        (tensor([0, 0]), tensor([2, 2]))
    """
    rows, columns = positive.nonzero(as_tuple=True)
    others = scores.masked_fill(positive | excluded, -torch.inf)
    place = torch.arange(scores.shape[1], device=scores.device)
    ranks = [torch.empty(0, dtype=torch.int64, device=scores.device)]
    for part in torch.arange(len(rows), device=scores.device).split(
        max(1, _ELEMENTS // max(1, scores.shape[1]))
    ):
        row, column = rows[part], columns[part]
        own, rest = scores[row, column][:, None], others[row]
        before = (rest > own) | ((rest == own) & (place < column[:, None]) & ~rest.isneginf())
        ranks.append(1 + before.sum(dim=1))
    return rows, torch.cat(ranks)


def map_at_k(relevant: Tensor, total: Tensor, k: int) -> Tensor:
    """Mean average precision among the first ``k``: ``1/min(R, k) Σ_{i=1..k} P(i)``, with ``P(i)`` as in
    `map_at_r`.

    So it is 1 where the list can't be better. With k the size of the corpus it is the average precision.
    (trec_eval divides by R even where R is above k.)

    Args:
        relevant: ``[q, k']`` bool; ranks beyond ``k'`` hold nothing relevant.
        total: ``[q]`` integers, R of each query, counted over the whole corpus.
        k: >= 1.

    Returns:
        ``[q]`` in 0..1; NaN where R is 0.

    Raises:
        ValueError: as `hit_rate_at_k`, or shapes disagree.

    Example:
        >>> map_at_k(torch.tensor([[True, False, True, True]]), torch.tensor([3]), k=3).tolist()
        [0.5555...]
    """
    hits = _first(relevant, k).float()
    _check(relevant, total)
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    precision = hits.cumsum(dim=1) / ranks
    return (precision * hits).sum(dim=1) / total.clamp(max=k).float()


def recall_at_k(relevant: Tensor, total: Tensor, k: int) -> Tensor:
    """Share of a query's R relevant items that are among the ``k`` nearest, in any order.

    It is the recall of information retrieval; see `hit_rate_at_k` for the Recall@k of deep metric learning.

    Arguments, result and errors as in `map_at_k`.

    Example:
        >>> recall_at_k(torch.tensor([[True, False, True]]), torch.tensor([4]), k=3).tolist()
        [0.5]
    """
    _check(relevant, total)
    return _first(relevant, k).sum(dim=1) / total.float()


def ndcg_at_k(grades: Tensor, ideal: Tensor, k: int) -> Tensor:
    """Normalised discounted cumulative gain: ``Σ_{i=1..k} g_i / log2(i + 1)`` over the same of the best list.

    The gain is the grade itself, as in trec_eval and scikit-learn, and not ``2^grade - 1`` (Järvelin and
    Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques").

    Args:
        grades: ``[q, k']`` of the items at each rank, at least 0; ranks beyond ``k'`` hold grade 0.
        ideal: ``[q, k'']`` the largest grades of each query in the whole corpus, falling, as many as ``k`` or
            all that are above 0.
        k: >= 1.

    Returns:
        ``[q]`` float32 in 0..1; NaN where all grades are 0.

    Raises:
        ValueError: ``k`` is below 1.

    Example:
        >>> grades, ideal = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
        >>> ndcg_at_k(grades, ideal, k=3).tolist()  # (1 + 2/2) / (2 + 1/log2(3))
        [0.7601...]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")

    def gain(ranked: Tensor) -> Tensor:
        ranked = ranked[:, :k].double()
        ranks = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        return (ranked / (ranks + 1).double().log2()).sum(dim=1)

    return (gain(grades) / gain(ideal)).float()


def _first(relevant: Tensor, k: int) -> Tensor:
    _check(relevant)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return relevant[:, :k]


def _within_r(relevant: Tensor, total: Tensor) -> Tensor:
    """``[q, k]`` float32: 1 where relevant and at a rank of at most R."""
    _check(relevant, total)
    if len(total) and int(total.max()) > relevant.shape[1]:
        raise ValueError(
            f"a query has R = {int(total.max())} relevant items, but the lists end at rank "
            f"{relevant.shape[1]}; search for at least as many neighbours as the largest R"
        )
    ranks = torch.arange(relevant.shape[1], device=relevant.device)
    return (relevant & (ranks < total[:, None])).float()


def _check(relevant: Tensor, total: Tensor | None = None) -> None:
    if relevant.ndim != 2 or relevant.dtype != torch.bool:
        raise ValueError(
            f"relevant must be a bool matrix [q, k], got {relevant.dtype} {list(relevant.shape)}"
        )
    if total is not None and total.shape != relevant.shape[:1]:
        raise ValueError(f"total must be [{len(relevant)}], one for each query; got {list(total.shape)}")
