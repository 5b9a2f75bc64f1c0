"""Embeddings that may be cut short: a loss on the first components of the vectors, for several lengths."""

from __future__ import annotations

import math

from torch import Tensor

from lit_metric.losses.base import Loss, LossOutput
from lit_metric.losses.combine import CombinedLoss, evaluate, weighted_sum
from lit_metric.losses.pairs import Pairs


class MatryoshkaLoss(CombinedLoss):
    """Any loss, on the first components of the embeddings, for each of several numbers of components, added
    up.

    Embeddings that were trained so can be cut to these numbers, for less memory and faster search, at little
    loss of quality. Each cut is scaled to unit length anew where the loss does so; learned proxies are cut
    alike::

        model:
          loss:
            class_path: lit_metric.losses.MatryoshkaLoss
            init_args:
              loss: {class_path: lit_metric.losses.InfoNCELoss}
              dimensions: [384, 192, 96, 48]

    Cost: that of the loss once for each number, the encoder aside.

    Logs the loss at each number as ``dimN``, without its weight, and what it logs as ``dimN/PART``.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022.

    Args:
        loss: any.
        dimensions: numbers of components, all different. The whole vector is one of them only if it is named.
        weights: as many, above 0; 1 for each if None. Take less for the small ones where the whole vector
            must not suffer.

    Raises:
        ValueError: if a number or weight is impossible, or more than the embeddings have.

    Example:
        >>> import torch
        >>> from lit_metric.losses import DensePairs, InfoNCELoss
        >>> loss = MatryoshkaLoss(InfoNCELoss(temperature=1.0), dimensions=[2, 1])
        >>> same = torch.tensor([[True, False]])
        >>> candidates = torch.tensor([[3.0, 0.0], [4.0, 3.0]])
        >>> out = loss(torch.tensor([[1.0, 0.0]]), candidates, DensePairs(same, ~same))
        >>> out["dim2"], out["dim1"]  # cosines of 1 and 0.8; cut to one component, of 1 and 1
        (tensor(0.5981), tensor(0.6931))
    """

    def __init__(self, loss: Loss, dimensions: list[int], weights: list[float] | None = None) -> None:
        super().__init__()
        if not dimensions or min(dimensions) < 1 or len(set(dimensions)) < len(dimensions):
            raise ValueError(f"dimensions must be different numbers above 0, not {dimensions}")
        weights = [1.0] * len(dimensions) if weights is None else weights
        if len(weights) != len(dimensions) or not all(0 < weight < math.inf for weight in weights):
            raise ValueError(
                f"weights must be {len(dimensions)} finite numbers above 0, one a dimension, not {weights}"
            )
        self.loss = loss
        self.dimensions = dimensions
        self.weights = weights
        self.combine([loss])

    def build(self, class_counts: Tensor, dimension: int) -> None:
        """See :meth:`Loss.build`."""
        self._check(dimension)
        super().build(class_counts, max(self.dimensions))

    def forward(
        self, anchors: Tensor, candidates: Tensor, pairs: Pairs, classes: Tensor | None = None
    ) -> LossOutput:
        """See :meth:`VectorLoss.forward`; ``classes`` are for a loss that needs them."""
        self._check(anchors.shape[1])
        outputs = {
            f"dim{number}": evaluate(self.loss, anchors[:, :number], candidates[:, :number], pairs, classes)
            for number in self.dimensions
        }
        return weighted_sum(outputs, dict(zip(outputs, self.weights, strict=True)))

    def _check(self, dimension: int) -> None:
        if max(self.dimensions) > dimension:
            raise ValueError(
                f"MatryoshkaLoss is to take {max(self.dimensions)} components, but embeddings have "
                f"{dimension}; change its dimensions"
            )

    def extra_repr(self) -> str:
        """The settings."""
        return f"dimensions={self.dimensions}, weights={self.weights}"
