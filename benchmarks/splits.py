"""Splits that depend on names alone, so that no seed changes what is tested."""

from __future__ import annotations

import hashlib


def bucket(name: str, buckets: int) -> int:
    """A number from 0 to ``buckets - 1``: the sha256 of the name as an integer, modulo ``buckets``.

    Example:
        >>> bucket("a", 5), bucket("b", 5)
        (4, 0)
    """
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % buckets
