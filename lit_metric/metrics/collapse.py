"""Watching embeddings for collapse while a model trains."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from lit_metric.metrics.functional import collapse_reason, effective_rank_of_gram


class CollapseMonitor(Metric):
    """Spread of all embeddings seen since the last reset, without keeping them: O(d²) memory.

    `compute` returns float32 scalars over unit vectors: ``effective_rank`` (1..d), ``mean_pairwise_cosine``
    (-1..1, near 1 when all point the same way), ``pairwise_spread`` (``√(1 - mean pairwise cosine)``, 0 at a
    point, 1 around the origin); and ``mean_norm`` of the vectors as given. States are sums, so processes
    add up. See `lit_metric.metrics.functional` for the definitions. The batch-hard triplet loss drives a
    model there more easily the larger the batch and the smaller the dimension (arXiv 2210.11173); a hinge
    that stays at the margin, or a soft margin at ln 2, is the same thing seen in the loss.

    Args:
        dimension: d of the embeddings.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: ``dimension`` is below 1.

    Example:
        >>> monitor = CollapseMonitor(dimension=3)
        >>> monitor.update(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]))
        >>> {name: value.item() for name, value in monitor.compute().items()}
        {'effective_rank': 3.0, 'mean_pairwise_cosine': 0.0, 'pairwise_spread': 1.0, 'mean_norm': 2.0}
        >>> monitor.reason() is None
        True
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    gram: Tensor
    total: Tensor
    square: Tensor
    norm: Tensor
    count: Tensor

    def __init__(self, dimension: int, **kwargs: Any) -> None:
        # As in NeighbourMetrics: no rank may answer from its cache while the others wait for it.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, got {dimension}")
        self.dimension = dimension
        # float64, or rounding in the sums would look like singular values of their own.
        for name, shape in {
            "gram": (dimension, dimension),
            "total": (dimension,),
            "square": (),
            "norm": (),
        }.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self._reach = dimension

    def update(self, embeddings: Tensor) -> None:
        """Add ``embeddings [n, dimension]``, of any float dtype and length.

        Raises:
            ValueError: the shape is another.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dimension:
            raise ValueError(f"embeddings must be [n, {self.dimension}], got {list(embeddings.shape)}")
        with torch.autocast(embeddings.device.type, enabled=False):
            vectors = embeddings.detach().double()
            unit = F.normalize(vectors, dim=1)
            self.gram += unit.T @ unit
            self.total += unit.sum(dim=0)
            self.square += unit.square().sum()
            self.norm += vectors.norm(dim=1).sum()
            self.count += len(vectors)

    def compute(self) -> dict[str, Tensor]:
        """All values by name; NaN where there are fewer than two embeddings, or one is not finite."""
        n = self.count
        # Fewer embeddings than dimensions cannot have a higher rank than their number.
        self._reach = min(self.dimension, int(n))
        cosine = (self.total.square().sum() - self.square) / (n * (n - 1))
        finite = bool(self.gram.isfinite().all())
        values = {
            "effective_rank": effective_rank_of_gram(self.gram) if finite else cosine * torch.nan,
            "mean_pairwise_cosine": cosine,
            "pairwise_spread": (1 - cosine).clamp(min=0).sqrt(),
            "mean_norm": self.norm / n,
        }
        return {name: value.float() for name, value in values.items()}

    def reason(self, min_rank_share: float = 0.02, min_spread: float = 0.05) -> str | None:
        """Why the embeddings count as collapsed, or ``None``; thresholds as in `collapse_reason`.

        In several processes all of them must call this, as it calls `compute`.
        """
        values = self.compute()
        return collapse_reason(
            float(values["effective_rank"]),
            float(values["pairwise_spread"]),
            self._reach,
            min_rank_share,
            min_spread,
        )
