"""One data set of several in a run."""

from __future__ import annotations

from dataclasses import dataclass

from lit_metric.batching.plan import BatchPlanner
from lit_metric.data.formats import Supervision
from lit_metric.data.readers import Source


@dataclass
class MixturePart:
    """A data set of a mixture; see :class:`~lit_metric.MetricDataModule`.

    Args:
        train: a file, pattern, hub id, DataFrame, or another source of rows; see
            :func:`~lit_metric.data.read_table`.
        validation: likewise; split off ``train`` if None.
        test: likewise, or None.
        predict: items to encode by ``lit-metric predict``, or None. Needs no labels.
        supervision: what its rows say; guessed from the names of the columns if None.
        planner: who meets whom in its batches; what suits the supervision if None.
        weight: its share of the batches, relative to the others', above 0; with ``strategy: weighted``.
    """

    train: Source | None = None
    validation: Source | None = None
    test: Source | None = None
    predict: Source | None = None
    supervision: Supervision | None = None
    planner: BatchPlanner | None = None
    weight: float = 1.0
