"""Groups of points: k-means, and halves of halves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.index import Similarity, similarities, top_k
from lit_metric.renamed import refuse_old_names

_BLOCK = 65536
_SAMPLED = 4096
_ROUNDS = 6
GRID = 2048
"""Steps of the grid between 0 and 1. Products of unit vectors on it are whole multiples of ``GRID ** -2``, of
which float32 holds all below 4. So sums of them are exact, in any order of addition."""


def k_means(
    vectors: Tensor, clusters: int, similarity: Similarity = "cosine", seed: int = 0, iterations: int = 25
) -> Tensor:
    """The centres of ``clusters`` groups of points, by FAISS's k-means, started by k-means++ (Arthur and
    Vassilvitskii, SODA 2007).

    Args:
        vectors: ``[n, d]`` float; of unit length for the cosine, whose centres are then so, too (spherical
            k-means).
        clusters: at least 1; if there are fewer points, each is a centre.
        similarity: ``"cosine"``, or ``"dot"``, where the points are grouped by their Euclidean distance.
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
        spherical=similarity == "cosine",
        min_points_per_centroid=1,
    )
    means.train(points, init_centroids=_far_apart(points, clusters, seed))
    return torch.from_numpy(np.array(means.centroids, dtype=np.float32))


def _far_apart(points: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.float32]:
    """Points, each drawn in proportion to its squared distance from those before; from a sample if many."""
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
    vectors: Tensor, centres: Tensor, similarity: Similarity = "cosine", count: int = 1
) -> Tensor:
    """The ``count`` centres nearest to each point, nearest first; of equally near ones the lower number.

    Args:
        vectors: ``[n, d]``.
        centres: ``[k, d]``.
        similarity: as for :func:`k_means`.
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
        if similarity != "cosine":  # the nearer, the larger 2 v·c − |c|²
            scores = 2 * scores - centres.square().sum(dim=1)
        found.append(top_k(scores, count)[1])
    return torch.cat(found) if found else torch.empty(0, min(count, len(centres)), dtype=torch.int64)


def on_grid(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """``vectors`` of unit length, each component rounded to a multiple of ``1 / 2048``.

    Products of such vectors are exact in float32, so they don't depend on the order of summation, which
    differs between processors and with the number of threads. The rounding is about that of float16.

    Example:
        >>> (on_grid(np.array([0.6, 0.8], dtype=np.float32)) * 2048).tolist()
        [1229.0, 1638.0]
    """
    return np.rint(vectors * np.float32(GRID)) / np.float32(GRID)


def directions(sums: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows ``[n, d]``, or one row ``[d]``, scaled to unit length and put on the grid; 0 where they are 0."""
    norms = np.sqrt(np.square(sums).sum(axis=-1, keepdims=True))
    return on_grid((sums / np.where(norms == 0, 1, norms)).astype(np.float32))


Read = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def balanced_clusters(
    read: Read, count: int, largest: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Clusters of equal size by balanced 2-means, as NGAME makes them (WSDM 2023, arXiv 2207.04452).

    All points are cut into two halves, each of these again, until none holds more than ``largest``. A cut
    starts from two random points as centres, sorts the others by how much nearer they are to the second one,
    gives each centre its half, and takes the halves' mean directions as new centres, a few times over. Halves
    of many points are found by a sample. Sizes and numbers of clusters depend on ``count`` only.

    Memory besides the result is that of a block of vectors.

    Args:
        read: gives the vectors ``[n, d]`` of points ``[n]`` in ``0..count - 1``, of unit length and on the
            grid (:func:`on_grid`), so that the clusters are the same on any machine.
        count: of points, at least 1.
        largest: the largest size of a cluster, at least 1.
        random: for the points to start from, and for the order of equals.

    Returns:
        The points of each cluster; sizes differ by at most one.

    Raises:
        ValueError: if a number is below 1.

    Example:
        >>> points = on_grid(np.array([[1, 0], [0, 1], [0.98, 0.199], [0.199, 0.98]], dtype=np.float32))
        >>> clusters = balanced_clusters(lambda rows: points[rows], 4, 2, np.random.default_rng(0))
        >>> sorted(sorted(cluster.tolist()) for cluster in clusters)
        [[0, 2], [1, 3]]
    """
    if count < 1 or largest < 1:
        raise ValueError(f"count={count} and largest={largest} must be at least 1")
    cuts = 0
    while -(-count // 2**cuts) > largest:
        cuts += 1
    return _cut(read, random.permutation(count), cuts, random)


def _cut(
    read: Read, points: NDArray[np.int64], cuts: int, random: np.random.Generator, held: bool = False
) -> list[NDArray[np.int64]]:
    """``points [n]`` halved ``cuts`` times; read once when they are few, unless they are ``held`` already."""
    if not cuts or len(points) < 2:
        return [points]
    if len(points) <= _SAMPLED and not held:
        vectors = read(points)
        within = _cut(lambda rows: vectors[rows], np.arange(len(points)), cuts, random, held=True)
        return [points[part] for part in within]
    halves = np.array_split(points[_order(read, points, random)], 2)
    return [part for half in halves for part in _cut(read, half, cuts - 1, random, held)]


def _order(read: Read, points: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """``[n]`` places of ``points [n]``, from those nearest to one of two centres to those nearest to the
    other; the centres are the mean directions of the two halves, or of those of a sample."""
    many = len(points) > _SAMPLED
    vectors = read(random.choice(points, _SAMPLED, replace=False) if many else points)
    first, second = random.choice(len(vectors), 2, replace=False)
    towards = vectors[second] - vectors[first]
    total, chosen = vectors.sum(axis=0, dtype=np.float64), np.empty(0, dtype=bool)
    for _ in range(_ROUNDS):
        before = chosen
        chosen = np.zeros(len(vectors), dtype=bool)
        chosen[np.argsort(vectors @ towards, kind="stable")[(len(vectors) + 1) // 2 :]] = True
        if np.array_equal(chosen, before):
            break
        nearer = (chosen.astype(np.float32) @ vectors).astype(np.float64)
        towards = directions(nearer) - directions(total - nearer)
    if not many:
        return np.argsort(vectors @ towards, kind="stable")
    blocks = np.array_split(points, -(-len(points) // _BLOCK))
    return np.argsort(np.concatenate([read(block) @ towards for block in blocks]), kind="stable")


refuse_old_names(__name__)
