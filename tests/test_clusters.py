"""k-means against scikit-learn, components against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from lit_metric.clusters import components, k_means, nearest_centres
from tests.mining.cases import blobs


def test_centres_of_well_parted_groups_are_those_of_scikit_learn() -> None:
    points, labels = blobs(300, 4, spread=0.05)
    centres = k_means(points, 4, metric="dot", seed=1)
    expected = KMeans(4, n_init=5, random_state=0).fit(points.numpy())
    own = nearest_centres(points, centres, metric="dot")[:, 0]
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


@pytest.mark.parametrize("seed", range(6))
def test_components_are_those_of_scipy(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = 400
    first, second = torch.randint(count, (2, 60 + 60 * seed), generator=generator)
    found = components(first, second, count)
    graph = coo_array((np.ones(len(first)), (first.numpy(), second.numpy())), shape=(count, count))
    _, expected = connected_components(graph, directed=False)
    assert adjusted_rand_score(expected, found.numpy()) == 1.0
    assert all(int(found[node]) == min(np.flatnonzero(expected == expected[node])) for node in range(count))


def test_a_long_chain_is_one_component() -> None:
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    assert components(order[:-1], order[1:], 2000).unique().tolist() == [0]
