"""Classes of unequal size: anchors of rare classes weigh more."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_metric.losses.base import Loss, LossOutput
from lit_metric.losses.combine import CombinedLoss
from lit_metric.losses.pairs import PairBlock, Pairs


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """The weight of each class, ``(1 − β) / (1 − β^n)``, scaled so that those of all classes add up to their
    number.

    Source: Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR
    2019.

    Args:
        class_counts: ``[classes]`` int64, the number n of training items; a class without any gets weight 1
            and has no part in the scale.
        beta: 0 weighs all alike, towards 1 weights become the inverse of n.

    Returns:
        ``[classes]`` float32.

    Example:
        >>> effective_number_weights(torch.tensor([1, 2, 0]), beta=0.5)  # of 1 and 1.5 items
        tensor([1.2000, 0.8000, 1.0000])
    """
    counts = class_counts.double()
    occurs = counts > 0
    if beta == 0:
        return torch.ones_like(counts).float()
    # 1 − β^n without cancellation, where β is nearly 1.
    weights = torch.where(occurs, (1 - beta) / -torch.expm1(counts.clamp_min(1) * math.log(beta)), 0.0)
    scale = occurs.sum() / weights.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(occurs, weights * scale, 1.0).float()


class WeightedAnchors:
    """Pairs whose positives weigh as much as their anchor does, besides what they weigh already.

    Args:
        pairs: of A anchors.
        weights: ``[A]``, at least 0.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.eye(2, dtype=torch.bool)
        >>> WeightedAnchors(DensePairs(same, ~same), torch.tensor([3.0, 0.5])).rows(0, 2).weight
        tensor([[3.0000, 1.0000],
                [1.0000, 0.5000]])
    """

    def __init__(self, pairs: Pairs, weights: Tensor) -> None:
        self.pairs = pairs
        self.weights = weights

    def rows(self, start: int, stop: int) -> PairBlock:
        """The masks and weights of anchors ``start:stop``."""
        block = self.pairs.rows(start, stop)
        weight = torch.where(block.positive, self.weights[start:stop, None], 1.0)
        return block._replace(weight=weight if block.weight is None else weight * block.weight)

    def targets(self, start: int, stop: int) -> Tensor | None:
        """The targets of anchors ``start:stop``."""
        return self.pairs.targets(start, stop)


class ClassWeightedLoss(CombinedLoss):
    """Any loss between pairs, with positives weighed by their anchor's class: (1 − β)/(1 − β^n) for a class
    of n training items, scaled to a mean of 1 over classes.

    For long tails whose rare classes matter as much as the common ones; a planner that visits them more often
    is the other way::

        model:
          loss:
            class_path: lit_metric.losses.ClassWeightedLoss
            init_args:
              loss: {class_path: lit_metric.losses.InfoNCELoss}

    In the contrastive, triplet, tuplet, N-pair, InfoNCE, pair logistic and angular losses the weight
    multiplies an anchor's terms. In NCA, multi-similarity, circle and lifted structure it multiplies the
    exponential, so that its logarithm is added to the similarity, which does far less.

    Logs what the loss logs.

    Source: Cui et al., CVPR 2019.

    Args:
        loss: between pairs; losses with learned proxies don't look at pairs, and are refused.
        beta: β, in [0, 1). The source takes 0.9 to 0.9999; 0 weighs all alike, near 1 by the inverse of n.

    Raises:
        ValueError: if beta is out of its range, or the loss doesn't look at pairs.

    Example:
        >>> from lit_metric.losses import DensePairs, InfoNCELoss
        >>> loss = ClassWeightedLoss(InfoNCELoss(temperature=1.0), beta=0.5)
        >>> loss.build(class_counts=torch.tensor([1, 2]), dimension=2)
        >>> same = torch.tensor([[True, False]])
        >>> out = loss(torch.tensor([[1.0, 0.0]]), torch.eye(2), DensePairs(same, ~same), torch.tensor([0]))
        >>> out["loss"]  # 1.2 · log(1 + 1/e)
        tensor(0.3759)
    """

    weights: Tensor | None

    def __init__(self, loss: Loss, beta: float = 0.999) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be at least 0 and below 1, not {beta}")
        if loss.needs_classes:
            raise ValueError(
                f"{type(loss).__name__} compares anchors with learned proxies and takes no weights of pairs; "
                "give ClassWeightedLoss a loss between pairs"
            )
        self.loss = loss
        self.beta = beta
        self.combine([loss])
        self.needs_classes = True
        # Made anew from the data, hence not saved.
        self.register_buffer("weights", None, persistent=False)

    def build(self, class_counts: Tensor, dimension: int) -> None:
        """See :meth:`Loss.build`."""
        super().build(class_counts, dimension)
        self.weights = effective_number_weights(class_counts, self.beta)

    def forward(
        self, anchors: Tensor, candidates: Tensor, pairs: Pairs, classes: Tensor | None = None
    ) -> LossOutput:
        """See :meth:`VectorLoss.forward`.

        Args:
            anchors: ``[A, d]`` raw embeddings, this rank's.
            candidates: ``[C, d]`` raw embeddings, those of all ranks.
            pairs: which anchor and candidate belong together.
            classes: ``[A]`` int64 classes of the anchors, -1 for none, which weighs 1.

        Raises:
            ValueError: if there are no classes, or :meth:`build` was not called.
        """
        if classes is None or self.weights is None:
            raise ValueError(
                "ClassWeightedLoss needs the anchors' classes, and build(class_counts, dimension)"
            )
        weights = torch.where(classes < 0, 1.0, self.weights[classes.clamp_min(0)])
        output: LossOutput = self.loss(anchors, candidates, WeightedAnchors(pairs, weights))
        return output

    def extra_repr(self) -> str:
        """The settings."""
        return f"beta={self.beta}"
