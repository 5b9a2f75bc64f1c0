"""Hashes against published values, and the distributions that are built on them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lit_metric.mining.hashing import hashed, mix, permuted, uniform


def test_mix_gives_the_published_sequence_of_splitmix64_from_seed_0() -> None:
    golden = 0x9E3779B97F4A7C15
    states = np.array([golden * turn % 2**64 for turn in range(1, 5)], dtype=np.uint64)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert mix(states).tolist() == published


def test_every_part_and_their_order_matter() -> None:
    parts = [(1, 2, 3), (3, 2, 1), (1, 2), (1, 2, 3, 0), (-1, 2, 3), (0, 1, 2, 3)]
    assert len({int(hashed(*each)[0]) for each in parts}) == 6


def test_parts_broadcast_to_the_hash_of_each_combination() -> None:
    table = hashed(5, np.array([[1], [2]]), np.array([[7, 8, 9]]))
    assert table.shape == (2, 3)
    assert table[1, 2] == hashed(5, 2, 9)[0]


def test_uniform_numbers_are_uniform() -> None:
    ids = np.arange(20_000)
    assert stats.kstest(uniform(3, ids), "uniform").pvalue > 0.01
    # Neighbouring ids and neighbouring seeds have nothing to do with each other.
    assert abs(np.corrcoef(uniform(3, ids)[1:], uniform(3, ids)[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(uniform(3, ids), uniform(4, ids))[0, 1]) < 0.02


@pytest.mark.parametrize("size", [*range(1, 20), 64, 65, 1000])
def test_permuted_slots_are_a_permutation(size: int) -> None:
    for key in range(3):
        assert sorted(permuted(hashed(key), np.arange(size), size).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [5, 16, 23])
def test_every_slot_goes_everywhere_equally_often(size: int) -> None:
    places = permuted(hashed(1, np.arange(6000))[:, None], np.arange(size)[None], size)
    for slot in range(size):
        assert stats.chisquare(np.bincount(places[:, slot], minlength=size)).pvalue > 1e-4
    # And two slots together: each ordered pair of different places equally often.
    pairs = np.bincount(places[:, 0] * size + places[:, 1], minlength=size * size)
    different = pairs[~np.eye(size, dtype=bool).ravel()]
    assert different.sum() == 6000
    assert stats.chisquare(different).pvalue > 1e-4
