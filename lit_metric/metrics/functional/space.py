"""How embeddings lie in their space: alignment, uniformity, hubs, clusters.

Distances are taken in float32, sums in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ELEMENTS = 2**24


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0) -> Tensor:
    """Mean of ``‖x − y‖^alpha`` over positive pairs of unit vectors, 0 at best (Wang and Isola,
    "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",
    ICML 2020).

    Args:
        first: ``[p, d]`` of length 1.
        second: ``[p, d]`` their positives.
        alpha: above 0.

    Returns:
        Scalar float64, in 0..4 for an ``alpha`` of 2; NaN of no pairs.

    Example:
        >>> round(alignment(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item(), 5)
        1.0
    """
    return (first - second).norm(dim=1).double().pow(alpha).mean()


def uniformity(vectors: Tensor, t: float = 2.0) -> Tensor:
    """``log mean exp(−t ‖x − y‖²)`` over all pairs of different unit vectors, the lower the more evenly they
    are spread (Wang and Isola, as `alignment`).

    Args:
        vectors: ``[n, d]`` of length 1; worked through in blocks.
        t: above 0.

    Returns:
        Scalar float64, at most 0; NaN of fewer than two.

    Example:
        >>> uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item()  # −2 · 2²
        -8.0
    """
    n = len(vectors)
    if n < 2:
        return torch.full((), torch.nan, dtype=torch.float64, device=vectors.device)
    total = torch.zeros((), dtype=torch.float64, device=vectors.device)
    for rows in torch.arange(n, device=vectors.device).split(max(1, _ELEMENTS // n)):
        # Not from products: of close vectors little would be left.
        squared = torch.cdist(vectors[rows], vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
        near = (-t * squared).double().exp()
        near[torch.arange(len(rows), device=rows.device), rows] = 0.0
        total += near.sum()
    return (total / (n * (n - 1))).log()


def occurrence_skewness(neighbours: Tensor, corpus: int) -> Tensor:
    """Skewness of how often each item is among others' nearest: 0 where all are equally often, large where
    few hubs are near to everything (Radovanović, Nanopoulos and Ivanović, JMLR 2010).

    Args:
        neighbours: ``[q, k]`` int64, positions of the k nearest items within the corpus.
        corpus: its size.

    Returns:
        Scalar float64, the third standardised moment, not corrected for bias; 0 where all are equally often.

    Example:
        >>> occurrence_skewness(torch.tensor([[1], [0], [0], [0]]), corpus=4).item()  # 3, 1, 0 and 0 times
        0.8164...
    """
    counts = torch.bincount(neighbours.flatten(), minlength=corpus).double()
    centred = counts - counts.mean()
    variance = centred.square().mean()
    return torch.where(variance > 0, centred.pow(3).mean() / variance.clamp_min(1e-300).pow(1.5), 0.0)


def normalized_mutual_information(labels: Tensor, clusters: Tensor) -> Tensor:
    """``I(labels; clusters)`` over the mean of their entropies: 1 where each cluster is a class, 0 where they
    have nothing to do with each other.

    Args:
        labels: ``[n]`` non-negative integers.
        clusters: ``[n]`` likewise.

    Returns:
        Scalar float64 in 0..1; 1 where both are one group; NaN of no items.

    Raises:
        ValueError: lengths differ.

    Example:
        >>> normalized_mutual_information(torch.tensor([0, 0, 1, 1]), torch.tensor([5, 5, 3, 3])).item()
        1.0
    """
    if labels.shape != clusters.shape:
        raise ValueError(f"labels {list(labels.shape)} and clusters {list(clusters.shape)} differ in length")
    _, first = labels.unique(return_inverse=True)
    _, second = clusters.unique(return_inverse=True)
    n = len(labels)
    if not n:
        return torch.full((), torch.nan, dtype=torch.float64)
    both = first * (int(second.max()) + 1) + second
    of_first, of_second, of_both = (
        torch.special.entr(each.unique(return_counts=True)[1].double() / n).sum()
        for each in (first, second, both)
    )
    mean = (of_first + of_second) / 2
    if mean <= 0:
        return torch.ones_like(mean)
    return ((of_first + of_second - of_both) / mean).clamp(0.0, 1.0)
