"""Classes of unequal size: anchors of rare classes weigh more."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_metric.losses.base import Loss, LossContext, LossOutput
from lit_metric.losses.combine import CombinedLoss
from lit_metric.losses.pairs import PairBlock, Pairs, PairsWrapper


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """The weight of each class, ``(1 − β) / (1 − β^n)``, scaled so that those of all classes add up to their
    number.

    Source: Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR
    2019.

    Args:
        class_counts: ``[classes]`` int64, the number n of training items; a class without any gets weight 1
            and has no part in the scale.
        beta: with 0 all weigh the same, towards 1 weights become the inverse of n.

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


class ClassWeightedLoss(CombinedLoss):
    """Any loss between pairs, with positives weighted by their anchor's class: (1 − β)/(1 − β^n) for a class
    of n training items, scaled to a mean of 1 over classes.

    For long tails whose rare classes matter as much as the common ones. A planner that visits rare classes
    more often is the alternative::

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
        loss: between pairs; losses with learned proxies don't compare pairs, and are refused.
        beta: β, in [0, 1). The source takes 0.9 to 0.9999. With 0 all classes weigh the same, near 1 by the
            inverse of n.

    Raises:
        ValueError: if beta is out of its range, or the loss doesn't compare pairs.

    Example:
        >>> from lit_metric.losses import InfoNCELoss, LossContext
        >>> loss = ClassWeightedLoss(InfoNCELoss(temperature=1.0), beta=0.5)
        >>> loss.setup(LossContext(dimension=2, class_counts=torch.tensor([1, 2])))
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> loss(embeddings, labels=torch.tensor([0, 0, 1]))  # 1.2 · log(1 + 1/e)
        tensor(0.3759)
    """

    weights: Tensor | None

    def __init__(self, loss: Loss, beta: float = 0.999) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be at least 0 and below 1, not {beta}")
        if loss.requires_labels:
            raise ValueError(
                f"{type(loss).__name__} compares anchors with learned proxies and takes no weights of pairs; "
                "give ClassWeightedLoss a loss between pairs"
            )
        self.loss = loss
        self.beta = beta
        self.combine([loss])
        self.requires_labels = True
        # Computed from the data, hence not saved.
        self.register_buffer("weights", None, persistent=False)

    def setup(self, context: LossContext) -> None:
        """See :meth:`Loss.setup`.

        Raises:
            ValueError: if there are no class counts.
        """
        if context.class_counts is None:
            raise ValueError("ClassWeightedLoss needs class_counts of the LossContext")
        super().setup(context)
        self.weights = effective_number_weights(context.class_counts, self.beta)

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`; an anchor without a class weighs 1.

        Raises:
            ValueError: if there are no labels, or :meth:`setup` was not called.
        """
        if self.weights is None:
            raise ValueError(
                "ClassWeightedLoss has no weights: call setup(LossContext(dimension, class_counts)) first"
            )
        return self.loss.on_pairs(anchors, candidates, PairsWrapper(pairs, self._weigh))

    def _weigh(self, block: PairBlock, pairs: Pairs, start: int, stop: int) -> PairBlock:
        if self.weights is None or pairs.anchor_labels is None:
            raise ValueError(
                "ClassWeightedLoss needs the anchors' classes: call loss(embeddings, labels=labels)"
            )
        labels = pairs.anchor_labels[start:stop]
        weights = torch.where(labels < 0, 1.0, self.weights[labels.clamp_min(0)])
        weight = torch.where(block.positive, weights[:, None], 1.0)
        return block._replace(weight=weight if block.weight is None else weight * block.weight)
