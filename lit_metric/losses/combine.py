"""Losses made of losses: a weighted sum, shortened embeddings, both directions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lit_metric.losses.base import Loss, LossContext, LossOutput
from lit_metric.losses.gather import gather_with_grad, own_share
from lit_metric.losses.pairs import Pairs
from lit_metric.losses.proxies import ProxyLoss


class CombinedLoss(Loss):
    """Base of the losses made of losses: it requires what any of them does, and sets them all up."""

    def combine(self, losses: Iterable[Loss]) -> None:
        """Register its losses, once they are sub-modules."""
        self._made_of = tuple(losses)
        self.requires_labels = any(loss.requires_labels for loss in self._made_of)
        self.requires_scores = any(loss.requires_scores for loss in self._made_of)

    def setup(self, context: LossContext) -> None:
        """See :meth:`Loss.setup`."""
        for loss in self._made_of:
            loss.setup(context)

    def weighted_sum(self, outputs: dict[str, LossOutput], weights: Iterable[float]) -> LossOutput:
        """The sum of named losses; each is logged by its name, without its weight, its parts as
        ``NAME/PART``."""
        terms = [weight * output["loss"] for weight, output in zip(weights, outputs.values(), strict=True)]
        combined = {"loss": torch.stack(terms).sum()}
        for name, output in outputs.items():
            for part, value in output.items():
                combined[name if part == "loss" else f"{name}/{part}"] = value.detach()
        return combined


class SumLoss(CombinedLoss):
    """A weighted sum of losses between the same anchors and candidates, each with its own ``distance``.

    An example is the angular loss with N-pair, as in its paper::

        model:
          loss:
            class_path: lit_metric.losses.SumLoss
            init_args:
              losses:
                n_pair: {class_path: lit_metric.losses.NPairLoss}
                angular:
                  class_path: lit_metric.losses.AngularLoss
                  init_args: {angle: 45}
              weights: {angular: 2}

    Cost: the sum of the losses' costs; the encoder runs once.

    Logs each loss by its name, without its weight, and what it logs as ``NAME/PART``.

    Args:
        losses: by the names under which they are logged.
        weights: by the same names, above 0; 1 for those that are left out. Choose them so that the losses'
            gradients have similar sizes.

    Raises:
        ValueError: if there are no losses, or a name or weight is impossible.

    Example:
        >>> import torch
        >>> from lit_metric.losses import AngularLoss, NPairLoss
        >>> loss = SumLoss({"n_pair": NPairLoss(), "angular": AngularLoss(45.0)}, weights={"angular": 2.0})
        >>> loss(torch.eye(2), torch.eye(2))  # anchors and positives: 0.3143 + 2 · 0.0181
        tensor(0.3506)
    """

    def __init__(self, losses: dict[str, Loss], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        if not losses:
            raise ValueError("a sum needs at least one loss")
        for name in losses:
            if not name.isidentifier() or name == "loss" or hasattr(nn.ModuleDict, name):
                raise ValueError(
                    f"{name!r} can't be the name of a loss: take letters, digits and _, as in far_1"
                )
        if unknown := sorted(weights.keys() - losses.keys()):
            raise ValueError(f"weights name {', '.join(unknown)}, but the losses are {', '.join(losses)}")
        for name, weight in weights.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} must be above 0 and finite, not {weight}")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: weights.get(name, 1.0) for name in losses}
        self.combine(losses.values())

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`."""
        named = zip(self.losses, self._made_of, strict=True)
        outputs = {name: loss.on_pairs(anchors, candidates, pairs) for name, loss in named}
        return self.weighted_sum(outputs, self.weights.values())


class MatryoshkaLoss(CombinedLoss):
    """Any loss, on the first components of the embeddings, for each of several numbers of components, added
    up.

    Embeddings that were trained this way can be cut to these numbers, for less memory and faster search, at
    little loss of quality. Each cut is scaled to unit length again if the loss scales embeddings; learned
    proxies are cut in the same way::

        model:
          loss:
            class_path: lit_metric.losses.MatryoshkaLoss
            init_args:
              loss: {class_path: lit_metric.losses.InfoNCELoss}
              dimensions: [384, 192, 96, 48]

    Cost: that of the loss once for each number; the encoder runs once.

    Logs the loss at each number as ``dimN``, without its weight, and what it logs as ``dimN/PART``.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022.

    Args:
        loss: any.
        dimensions: numbers of components, all different. The whole vector is one of them only if it is named.
        weights: one for each number, above 0; all 1 if None. Choose less for the small ones where the whole
            vector must not suffer.

    Raises:
        ValueError: if a number or weight is impossible, or more than the embeddings have.

    Example:
        >>> import torch
        >>> from lit_metric.losses import InfoNCELoss
        >>> loss = MatryoshkaLoss(InfoNCELoss(temperature=1.0), dimensions=[2, 1])
        >>> anchors, positives = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
        >>> negatives = torch.tensor([[4.0, 3.0]])
        >>> loss(anchors, positives, negatives)  # cosines of 1 and 0.8, then of 1 and 1: 0.5981 + 0.6931
        tensor(1.2913)
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

    def setup(self, context: LossContext) -> None:
        """See :meth:`Loss.setup`."""
        self._check(context.dimension)
        super().setup(replace(context, dimension=max(self.dimensions)))

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`."""
        self._check(anchors.shape[1])
        outputs = {
            f"dim{number}": self.loss.on_pairs(anchors[:, :number], candidates[:, :number], pairs)
            for number in self.dimensions
        }
        return self.weighted_sum(outputs, self.weights)

    def _check(self, dimension: int) -> None:
        if max(self.dimensions) > dimension:
            raise ValueError(
                f"MatryoshkaLoss needs {max(self.dimensions)} components, but embeddings have "
                f"{dimension}; change its dimensions"
            )


class SymmetricLoss(CombinedLoss):
    """The mean of a loss in both directions: anchors find their positives among the candidates, and
    candidates find theirs among the anchors.

    For pairs of two kinds, such as queries and documents, where either may be searched for. Around InfoNCE it
    is the loss of CLIP. Where every item is both anchor and candidate, both directions are the same::

        model:
          loss:
            class_path: lit_metric.losses.SymmetricLoss
            init_args:
              loss: {class_path: lit_metric.losses.InfoNCELoss}

    Cost: twice that of the loss; the encoder runs once.

    Logs the loss of each direction as ``forward`` and ``backward``, and what it logs as ``forward/PART``.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML
    2021, figure 3.

    Args:
        loss: between pairs; losses with learned proxies have only one direction, and are refused.

    Raises:
        ValueError: if the loss doesn't compare pairs.

    Example:
        >>> import torch
        >>> from lit_metric.losses import InfoNCELoss
        >>> anchors, positives = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> loss, one_way = SymmetricLoss(InfoNCELoss(1.0)), InfoNCELoss(1.0)
        >>> loss(anchors, positives), (one_way(anchors, positives) + one_way(positives, anchors)) / 2
        (tensor(0.4489), tensor(0.4489))
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        for each in loss.modules():
            if isinstance(each, ProxyLoss):
                raise ValueError(
                    f"{type(each).__name__} compares anchors with learned proxies, which has one direction; "
                    "give SymmetricLoss a loss between pairs"
                )
        self.loss = loss
        self.combine([loss])

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`."""
        outputs = {
            "forward": self.loss.on_pairs(anchors, candidates, pairs),
            "backward": self.loss.on_pairs(
                candidates[own_share()], gather_with_grad(anchors), pairs.turned()
            ),
        }
        return self.weighted_sum(outputs, [0.5, 0.5])
