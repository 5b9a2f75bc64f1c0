"""The error of stored versions of tables."""

from __future__ import annotations

from lit_metric.store import StoredError


class TableError(StoredError):
    """A stored version is missing, unfinished, damaged, or belongs to something else."""

    remedy = "mine it anew"
