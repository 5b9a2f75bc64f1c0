"""Groups of points: k-means, and what hangs together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.index import Similarity, similarities, top_k

_BLOCK = 65536
_SAMPLED = 4096


def k_means(
    vectors: Tensor, clusters: int, metric: Similarity = "cosine", seed: int = 0, iterations: int = 25
) -> Tensor:
    """The centres of ``clusters`` groups of points, by FAISS's k-means, started by k-means++ (Arthur and
    Vassilvitskii, SODA 2007).

    Args:
        vectors: ``[n, d]`` float; of unit length for the cosine, whose centres are then so, too (spherical
            k-means).
        clusters: at least 1; if there are fewer points, each is a centre.
        metric: ``"cosine"``, or ``"dot"``, where the points are grouped by their Euclidean distance.
        seed: for the points to start from.
        iterations: at least 1.

    Returns:
        ``[min(clusters, n), d]`` float32 on the CPU.

    Raises:
        ValueError: if a number is out of range or there are no points.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> sorted(k_means(points, clusters=2).tolist())
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if clusters < 1 or iterations < 1 or not len(vectors):
        raise ValueError(
            f"clusters={clusters} and iterations={iterations} must be at least 1, and so must the number of "
            f"points, {len(vectors)}"
        )
    points = np.ascontiguousarray(vectors.detach().float().cpu().numpy())
    if clusters >= len(points):
        return torch.from_numpy(points.copy())
    import faiss

    means = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        seed=seed & 0x7FFFFFFF,
        spherical=metric == "cosine",
        min_points_per_centroid=1,
    )
    means.train(points, init_centroids=_far_apart(points, clusters, seed))
    return torch.from_numpy(np.array(means.centroids, dtype=np.float32))


def _far_apart(points: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.float32]:
    """Points each drawn in proportion to the squared distance to those before; out of a sample, if many."""
    random = np.random.default_rng(np.random.SeedSequence(seed & 0xFFFFFFFFFFFFFFFF))
    some = random.permutation(len(points))[: max(_SAMPLED, 8 * clusters)]
    points = points[some]
    chosen = [0]
    least = np.square(points - points[0]).sum(axis=1)
    while len(chosen) < clusters:
        reached = np.cumsum(least, dtype=np.float64)
        # Where fewer points differ than there are to be clusters, some are chosen twice.
        place = int(np.searchsorted(reached, random.random() * reached[-1], side="right"))
        chosen.append(min(place, len(points) - 1))
        least = np.minimum(least, np.square(points - points[chosen[-1]]).sum(axis=1))
    return points[chosen]


def nearest_centres(
    vectors: Tensor, centres: Tensor, metric: Similarity = "cosine", count: int = 1
) -> Tensor:
    """The ``count`` centres nearest to each point, nearest first; of equally near ones the lower number.

    Args:
        vectors: ``[n, d]``.
        centres: ``[k, d]``.
        metric: as :func:`k_means` was told.
        count: at least 1.

    Returns:
        ``[n, min(count, k)]`` int64 on the CPU.

    Example:
        >>> nearest_centres(torch.tensor([[0.9, 0.1]]), torch.eye(2), count=2).tolist()
        [[0, 1]]
    """
    found = []
    for block in vectors.split(_BLOCK):
        scores = similarities(block.cpu(), centres)
        if metric != "cosine":  # the nearer, the larger 2 v·c − |c|²
            scores = 2 * scores - centres.square().sum(dim=1)
        found.append(top_k(scores, count)[1])
    return torch.cat(found) if found else torch.empty(0, min(count, len(centres)), dtype=torch.int64)


def components(first: Tensor, second: Tensor, count: int) -> Tensor:
    """The connected components of a graph: what chains of edges join has one number.

    Args:
        first: ``[E]`` int64 nodes below ``count``.
        second: ``[E]`` the nodes that they are joined to.
        count: of nodes.

    Returns:
        ``[count]`` int64, the lowest node of each node's component.

    Example:
        >>> components(torch.tensor([3, 1]), torch.tensor([1, 4]), count=5).tolist()
        [0, 1, 2, 1, 1]
    """
    roots = torch.arange(count)
    while True:
        low = torch.minimum(roots[first], roots[second])
        hooked = roots.clone()
        for end in (first, second):
            hooked.scatter_reduce_(0, roots[end], low, "amin")
        while not torch.equal(shorter := hooked[hooked], hooked):
            hooked = shorter
        if torch.equal(hooked, roots):
            return roots
        roots = hooked
