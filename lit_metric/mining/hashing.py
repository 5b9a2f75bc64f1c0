"""Random numbers that depend on given integers alone, and on no generator's state.

A draw for an anchor may depend on the seed, the epoch, the step and the anchor only, and not on the rank, the
worker or the other anchors of the batch. So every number is a hash of those integers.

Source: splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_ROUNDS = 8
UInts = NDArray[np.uint64]


def mix(x: UInts) -> UInts:
    """The splitmix64 finaliser: a bijection of 64-bit integers, elementwise.

    Example:
        >>> hex(mix(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))[0])
        '0xe220a8397b1dcdaf'
    """
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def hashed(*parts: Any) -> UInts:
    """One 64-bit hash per element of ``parts``, integers or integer arrays that broadcast together.

    The order of the parts matters. The result has at least one dimension.
    """
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = mix((state ^ np.atleast_1d(np.asarray(part, dtype=np.int64)).view(np.uint64)) + _GOLDEN)
    return state


def uniform(*parts: Any) -> NDArray[np.float64]:
    """:func:`hashed` as numbers strictly between 0 and 1."""
    return ((hashed(*parts) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def permuted(keys: UInts, slots: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The places of ``slots`` under a random permutation of ``0..size-1``, one permutation for each key.

    A Feistel network permutes the next even power of two, and is repeated until the result is below ``size``.
    So the places for one key are distinct, and no table is needed.

    Args:
        keys: hashes, broadcast against ``slots``.
        slots: integers in ``0..size-1``.
        size: number of things to permute, at least 1.

    Example:
        >>> sorted(permuted(hashed(7), np.arange(5), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    keys, slots = np.broadcast_arrays(keys, slots)
    shape = slots.shape
    keys, places = keys.reshape(-1), slots.reshape(-1).astype(np.uint64)
    outside = np.arange(places.size)
    while outside.size:
        key, left, right = keys[outside], places[outside] >> bits, places[outside] & mask
        for _ in range(_ROUNDS):
            key = key + _GOLDEN
            left, right = right, left ^ (mix(key ^ right) & mask)
        places[outside] = (left << bits) | right
        outside = outside[places[outside] >= size]
    return places.astype(np.int64).reshape(shape)
