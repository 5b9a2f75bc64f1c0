"""k-means against scikit-learn, balanced halves against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from lit_metric.clusters import balanced_clusters, k_means, nearest_centres, on_grid
from tests.mining.cases import blobs


def test_centres_of_well_parted_groups_are_those_of_scikit_learn() -> None:
    points, labels = blobs(300, 4, spread=0.05)
    centres = k_means(points, 4, similarity="dot", seed=1)
    expected = KMeans(4, n_init=5, random_state=0).fit(points.numpy())
    own = nearest_centres(points, centres, similarity="dot")[:, 0]
    assert adjusted_rand_score(expected.labels_, own.numpy()) == 1.0
    assert adjusted_rand_score(labels.numpy(), own.numpy()) == 1.0
    order = nearest_centres(torch.from_numpy(expected.cluster_centers_).float(), centres, "dot")[:, 0]
    np.testing.assert_allclose(centres[order], expected.cluster_centers_, atol=1e-4)


def test_spherical_centres_are_means_of_directions() -> None:
    points, _ = blobs(200, 3, spread=0.1)
    unit = torch.nn.functional.normalize(points * torch.rand(200, 1).add(0.1), dim=1)
    centres = k_means(unit, 3)
    own = nearest_centres(unit, centres)[:, 0]
    for number in range(3):
        mean = torch.nn.functional.normalize(unit[own == number].mean(dim=0), dim=0)
        torch.testing.assert_close(centres[number], mean, rtol=0, atol=1e-4)


def test_the_same_seed_finds_the_same_centres() -> None:
    points, _ = blobs(500, 3)
    assert torch.equal(k_means(points, 10, seed=3), k_means(points, 10, seed=3))
    assert not torch.equal(k_means(points, 10, seed=3), k_means(points, 10, seed=4))


def test_fewer_points_than_clusters_are_their_own_centres() -> None:
    points = torch.eye(3)
    assert torch.equal(k_means(points, 5), points)
    assert nearest_centres(points, points, count=5).tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    with pytest.raises(ValueError, match="clusters=0"):
        k_means(points, 0)


def test_nearest_centres_by_euclidean_distance_count_the_centres_lengths() -> None:
    centres = torch.tensor([[1.0, 0.0], [4.0, 0.0]])
    assert nearest_centres(torch.tensor([[2.0, 0.0], [3.0, 0.0]]), centres, "dot").tolist() == [[0], [1]]


def directions_of(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return on_grid(points / np.linalg.norm(points, axis=1, keepdims=True))


def halves(
    points: np.ndarray, members: list[int], largest: int, random: np.random.Generator
) -> list[list[int]]:
    """Balanced 2-means point by point, in double precision."""
    if len(members) <= largest:
        return [members]
    x = points[members].astype(np.float64)
    first, second = random.choice(len(members), 2, replace=False)
    centres = [x[first], x[second]]
    for _ in range(7):
        nearer = [row @ centres[1] - row @ centres[0] for row in x]
        order = sorted(range(len(members)), key=lambda place: (nearer[place], place))
        parts = order[: -(-len(members) // 2)], order[-(-len(members) // 2) :]
        means = [x[part].mean(axis=0) for part in parts]
        centres = [np.rint(mean / np.linalg.norm(mean) * 2048) / 2048 for mean in means]
    return [
        half for part in parts for half in halves(points, [members[place] for place in part], largest, random)
    ]


@pytest.mark.parametrize(("count", "largest"), [(24, 3), (40, 5), (64, 16), (100, 100)])
def test_halves_of_halves_are_those_of_a_loop(count: int, largest: int) -> None:
    points = directions_of(count)
    for seed in range(5):
        own = balanced_clusters(lambda rows: points[rows], count, largest, np.random.default_rng(seed))
        random = np.random.default_rng(seed)
        expected = halves(points, random.permutation(count).tolist(), largest, random)
        assert [cluster.tolist() for cluster in own] == expected


@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize("largest", [1, 2, 7])
def test_balanced_clusters_hold_everything_once_in_equal_parts(count: int, largest: int) -> None:
    points = directions_of(count)
    clusters = balanced_clusters(lambda rows: points[rows], count, largest, np.random.default_rng(0))
    sizes = {len(cluster) for cluster in clusters}
    assert sorted(np.concatenate(clusters).tolist()) == list(range(count))
    assert max(sizes) <= largest
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) * 2 > min(largest, count)


def test_many_points_are_halved_by_a_sample_and_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_metric.clusters._SAMPLED", 64)
    monkeypatch.setattr("lit_metric.clusters._BLOCK", 100)
    points, labels = blobs(1000, 4, spread=0.05)
    unit = on_grid(torch.nn.functional.normalize(points, dim=1).numpy())
    reads = []

    def read(rows: np.ndarray) -> np.ndarray:
        reads.append(len(rows))
        return unit[rows]

    clusters = balanced_clusters(read, 1000, 16, np.random.default_rng(0))
    assert max(reads) <= 100
    assert sorted(np.concatenate(clusters).tolist()) == list(range(1000))
    pure = [len({*labels[cluster].tolist()}) == 1 for cluster in clusters]
    assert np.mean(pure) > 0.9  # but for those at the three seams of four groups


def test_points_that_are_all_alike_are_halved_all_the_same() -> None:
    points = on_grid(np.ones((9, 4), dtype=np.float32) / 2)
    clusters = balanced_clusters(lambda rows: points[rows], 9, 2, np.random.default_rng(0))
    assert sorted(np.concatenate(clusters).tolist()) == list(range(9))
    with pytest.raises(ValueError, match="count=0 and largest=2"):
        balanced_clusters(lambda rows: points[rows], 0, 2, np.random.default_rng(0))


def test_products_on_the_grid_are_exact_in_any_order() -> None:
    x, y = directions_of(200, 384), directions_of(100, 384, seed=1)
    exact = x.astype(np.float64) @ y.astype(np.float64).T
    order = np.random.default_rng(0).permutation(384)
    assert np.array_equal(x @ y.T, exact)
    assert np.array_equal(x[:, order] @ y[:, order].T, exact)
    assert not np.array_equal(x / np.float32(3) @ y.T, exact / 3)  # as it is without the grid
