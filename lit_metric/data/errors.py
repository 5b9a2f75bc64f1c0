"""The one exception of reading and arranging data."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used as given; the message says what is wrong, where, and what to do about it."""
