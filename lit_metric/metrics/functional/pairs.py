"""How well scores of given pairs agree with what is known of them, and triplets with their order.

All are computed in float64, and are NaN where they are not defined.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pearson(scores: Tensor, targets: Tensor) -> Tensor:
    """Pearson's linear correlation, -1..1; NaN of fewer than two pairs, or where either side is constant.

    Args:
        scores: ``[P]``.
        targets: ``[P]``.

    Raises:
        ValueError: shapes disagree.

    Example:
        >>> round(pearson(torch.tensor([0.1, 0.2, 0.4]), torch.tensor([1.0, 2.0, 4.0])).item(), 6)
        1.0
    """
    _check(scores, targets)
    if len(scores) < 2 or bool((scores == scores[0]).all()) or bool((targets == targets[0]).all()):
        return torch.full((), torch.nan, dtype=torch.float64, device=scores.device)
    scores, targets = (values.double() - values.double().mean() for values in (scores, targets))
    return ((scores / scores.norm()) @ (targets / targets.norm())).clamp(-1, 1)


def spearman(scores: Tensor, targets: Tensor) -> Tensor:
    """Spearman's rank correlation: `pearson` of the ranks, equal values sharing the mean of theirs.

    Arguments, result and errors as in `pearson`.

    Example:
        >>> spearman(torch.tensor([0.1, 0.2, 0.9, 0.8]), torch.tensor([0.0, 1.0, 5.0, 3.0])).item()
        1.0
    """
    _check(scores, targets)
    return pearson(mean_ranks(scores), mean_ranks(targets))


def mean_ranks(values: Tensor) -> Tensor:
    """``[n]`` float64: the rank of each value, the lowest 1; equal values have the mean of their ranks.

    Example:
        >>> mean_ranks(torch.tensor([3.0, 1.0, 3.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[which]


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """``Σ_t (R_t - R_{t-1}) P_t`` over the thresholds t on the score, falling; equal scores fall together.

    Args:
        scores: ``[P]``.
        positive: ``[P]`` bool.

    Returns:
        A scalar in 0..1; NaN without a positive.

    Raises:
        ValueError: shapes disagree.

    Example:
        >>> average_precision(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([True, False, True])).item()
        0.8333...
    """
    _check(scores, positive)
    distinct, which, counts = scores.unique(return_inverse=True, return_counts=True)
    right = torch.zeros(len(distinct), dtype=torch.float64, device=scores.device)
    right = right.index_add(0, which, positive.double()).flip(0)
    precision = right.cumsum(0) / counts.flip(0).cumsum(0)
    return (right * precision).sum() / positive.sum()


def triplet_order(together: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``[T]`` bool, whether both of two that belong together are nearer to each other than to a third.

    Its mean is the text-only test (TOT) of Dumpala et al., "SugarCrepe++ Dataset", NeurIPS 2024
    (arXiv 2406.11171).

    Args:
        together: ``[T]`` similarities of the two.
        first: ``[T]`` similarities of the first and the third.
        second: ``[T]`` similarities of the second and the third.

    Example:
        >>> together = torch.tensor([0.9, 0.9, 0.5])
        >>> triplet_order(together, torch.tensor([0.8, 0.9, 0.1]), torch.tensor([0.1, 0.2, 0.6])).tolist()
        [True, False, False]
    """
    return (together > first) & (together > second)


def _check(scores: Tensor, targets: Tensor) -> None:
    if scores.shape != targets.shape or scores.ndim != 1:
        raise ValueError(
            f"scores and targets must be [P] alike, got {list(scores.shape)} and {list(targets.shape)}"
        )
