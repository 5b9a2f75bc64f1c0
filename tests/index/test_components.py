"""Components of a graph against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_rand_score

from lit_metric.index.components import components


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
