"""Propensity-scored precision: rare labels count more, since they are missing more often."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def propensities(counts: Tensor, items: int, a: float = 0.55, b: float = 1.5) -> Tensor:
    """``[L]`` float64 in (0, 1]: how probable it is that a label that is true of an item was also given to
    it, ``1 / (1 + C e^{−a log(N_l + b)})`` with ``C = (log N − 1)(b + 1)^a``.

    Source: Jain, Prabhu and Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking &
    Other Missing Label Applications", KDD 2016, section 3.

    Args:
        counts: ``[L]``, N_l: how many training items have the label.
        items: N, the number of training items, at least 3, so that C is above 0.
        a: the default is that of most data sets; 0.5 for Wikipedia and 0.6 for Amazon there.
        b: 0.4 for Wikipedia and 2.6 for Amazon there.

    Raises:
        ValueError: if there are fewer than 3 items, or a count is negative or more than the items.

    Example:
        >>> propensities(torch.tensor([1, 100]), items=1000).round(decimals=3).tolist()
        [0.14..., 0.56...]
    """
    if items < 3:
        raise ValueError(f"propensities need at least 3 training items, not {items}")
    if len(counts) and not (int(counts.min()) >= 0 and int(counts.max()) <= items):
        raise ValueError(f"counts must be between 0 and items={items}")
    factor = (math.log(items) - 1) * (b + 1) ** a
    return 1 / (1 + factor * (counts.double() + b).pow(-a))


def psp_at_k(scores: Tensor, relevant: Tensor, propensity: Tensor, k: int) -> float:
    """PSP@k in [0, 1], the propensity-scored precision: each relevant label among the k nearest counts one
    over its propensity, relative to the most that any ranking could reach.

    It is the quotient of two sums over queries, as in the source and in the tables of extreme classification,
    and not a mean of quotients. Queries without a relevant label add nothing to either.

    Args:
        scores: ``[q, L]`` of queries and labels; of equal ones the label further left is nearer.
        relevant: ``[q, L]`` bool.
        propensity: ``[L]``, as from :func:`propensities`; ones give the precision relative to the best
            ranking.
        k: at least 1.

    Returns:
        NaN if no query has a relevant label.

    Raises:
        ValueError: if shapes differ, or k is below 1.

    Example:
        >>> scores, relevant = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[True, False, True]])
        >>> psp_at_k(scores, relevant, torch.tensor([1.0, 1.0, 0.25]), k=1)  # 1 of at most 4
        0.25
    """
    if scores.ndim != 2 or scores.shape != relevant.shape or propensity.shape != scores.shape[1:]:
        shapes = ", ".join(str(list(each.shape)) for each in (scores, relevant, propensity))
        raise ValueError(f"scores, relevant and propensity must be [q, L], [q, L] and [L], got {shapes}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    gains = torch.where(relevant, 1 / propensity.double(), 0.0)
    nearest = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    best = gains.topk(min(k, gains.shape[1]), dim=1).values.sum()
    return float(gains.gather(1, nearest).sum() / best) if best > 0 else math.nan
