"""The LightningModule that trains a tower for queries and one for documents."""

from __future__ import annotations

from typing import Any

from lit_metric.encoders import Encoder, TwoTowerEncoder
from lit_metric.losses import Loss
from lit_metric.modules.learner import MetricLearner


class TwoTowerLearner(MetricLearner):
    """Trains two encoders into one space, so that queries lie near the documents that answer them.

    Items in the role "query" go through the first, all others through the second; the loss sees their vectors
    as it does those of one encoder. A frozen tower is a ``TextEncoder`` with ``freeze: true``, which encodes
    each text once. One backbone for both, with a prompt for each role, is the work of a
    :class:`~lit_metric.modules.MetricLearner`.

    Args:
        query: encodes queries.
        document: encodes documents; of the same dimension.
        loss: between anchors and candidates; see :class:`~lit_metric.modules.MetricLearner`.
        options: the other arguments of :class:`~lit_metric.modules.MetricLearner`; names of parts in
            ``lr_scale`` start with ``encoder.query`` or ``encoder.document``.

    Raises:
        ValueError: if the towers don't fit each other, or a number is out of range.
    """

    def __init__(self, query: Encoder, document: Encoder, loss: Loss | None = None, **options: Any) -> None:
        super().__init__(TwoTowerEncoder(query, document), loss, **options)

    @classmethod
    def encoder_arguments(cls, encoder: Encoder) -> dict[str, Any]:
        """See :meth:`~lit_metric.modules.checkpoint.CheckpointedModule.encoder_arguments`."""
        assert isinstance(encoder, TwoTowerEncoder)
        return {"query": encoder.query, "document": encoder.document}
