"""Which anchors and candidates belong together: the masks that a loss reads, a slice of anchor rows at a
time."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class PairBlock(NamedTuple):
    """The masks of r anchor rows against all C candidates. A pair in neither mask is ignored.

    Attributes:
        positive: ``[r, C]`` bool.
        negative: ``[r, C]`` bool, never true where ``positive`` is.
        weight: ``[r, C]`` float, at least 0, or None for ones everywhere. Each loss says how a weight acts;
            in all of them a weight of 0 takes the pair out, as if neither mask held it.
        target: ``[r, C]`` float, how well a pair belongs together by a score, grade or teacher, NaN where
            nothing is known, and perhaps −inf, less than any other; it need not go with the masks. None for
            losses that don't use it.
    """

    positive: Tensor
    negative: Tensor
    weight: Tensor | None = None
    target: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """:attr:`target`, for a loss that needs it.

        Raises:
            ValueError: if the block came without: the loss doesn't say ``uses_targets``.
        """
        if self.target is None:
            raise ValueError("this block has no targets; set uses_targets = True in the class of the loss")
        return self.target

    @property
    def known(self) -> Tensor:
        """``[r, C]`` bool, which pairs have a target; raises as :attr:`targets` does."""
        return ~self.targets.isnan()


class Pairs(Protocol):
    """Whatever can say which pairs are positive and negative for the anchors ``start`` to ``stop``.

    Called again for the same rows in the backward pass, so it must answer the same each time.
    """

    def rows(self, start: int, stop: int) -> PairBlock:
        """The masks of anchors ``start:stop`` against all candidates."""
        ...

    def targets(self, start: int, stop: int) -> Tensor | None:
        """The targets of anchors ``start:stop``, see :class:`PairBlock`; None if there are only masks, and
        then a positive counts as 1, a negative as 0. Asked for by losses that use them, and no others."""
        ...


class DensePairs:
    """Masks that are already there in full.

    Args:
        positive: ``[A, C]`` bool.
        negative: ``[A, C]`` bool.
        weight: ``[A, C]`` float, at least 0, optional.
        target: ``[A, C]`` float, NaN where nothing is known, optional.

    Raises:
        ValueError: if shapes differ, a pair is positive and negative at once, or a weight is negative or NaN.
        TypeError: if a mask is not boolean.

    Example:
        >>> import torch
        >>> same = torch.eye(3, dtype=torch.bool)
        >>> DensePairs(same, ~same).rows(1, 2).negative.tolist()
        [[True, False, True]]
    """

    def __init__(
        self,
        positive: Tensor,
        negative: Tensor,
        weight: Tensor | None = None,
        target: Tensor | None = None,
    ) -> None:
        for name, mask in (("positive", positive), ("negative", negative)):
            if mask.dtype != torch.bool:
                raise TypeError(f"the {name} mask has dtype {mask.dtype}; give a boolean tensor")
        if positive.ndim != 2 or positive.shape != negative.shape:
            raise ValueError(
                f"positive {list(positive.shape)} and negative {list(negative.shape)} must both be "
                "[anchors, candidates]"
            )
        if (positive & negative).any():
            row, column = (positive & negative).nonzero()[0].tolist()
            raise ValueError(f"anchor {row} and candidate {column} are marked positive and negative at once")
        if weight is not None:
            if weight.shape != positive.shape:
                raise ValueError(
                    f"weight {list(weight.shape)} must have the masks' shape {list(positive.shape)}"
                )
            if not (weight >= 0).all():
                raise ValueError("weights must be at least 0; to leave a pair out, give it weight 0")
        if target is not None and target.shape != positive.shape:
            raise ValueError(f"target {list(target.shape)} must have the masks' shape {list(positive.shape)}")
        self.positive = positive
        self.negative = negative
        self.weight = weight
        self.target = target

    def rows(self, start: int, stop: int) -> PairBlock:
        """The masks of anchors ``start:stop``; views, nothing is copied."""
        weight = None if self.weight is None else self.weight[start:stop]
        return PairBlock(self.positive[start:stop], self.negative[start:stop], weight)

    def targets(self, start: int, stop: int) -> Tensor | None:
        """The targets of anchors ``start:stop``, if any were given; a view."""
        return None if self.target is None else self.target[start:stop]


class _Relations(Protocol):
    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor: ...

    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor: ...


class RelationPairs:
    """Masks asked of relations between global item ids, built for one slice of anchors at a time.

    Args:
        relations: answers ``positive`` and ``excluded`` for two lists of ids with an ``[A, C]`` boolean
            tensor; a candidate that is not excluded is a negative. It may answer ``targets`` with ``[A, C]``
            floats, NaN where nothing is known.
        anchor_ids: ``[A]`` int64, this rank's anchors.
        candidate_ids: ``[C]`` int64, the candidates of *all* ranks in rank order (see
            :func:`~lit_metric.losses.gather_ids`): only so are other ranks' positives and duplicates known.
        certain: ``relations`` without guesses: a negative that only ``relations`` admit, such as an item
            without a label, is one of those anchors alone that it was drawn for. None: there are no guesses.
        drawn: ``[A, n]`` int64, the ids drawn for each anchor, -1 for none; None if nothing was.

    Example:
        >>> import torch
        >>> from lit_metric.data import LabelRelations
        >>> names = ["a", "a", "b", None]
        >>> relations = LabelRelations.from_names(names, torch.arange(4), unlabelled="negative")
        >>> ids, drawn = torch.arange(4), torch.tensor([[3], [-1], [0]])
        >>> pairs = RelationPairs(relations, ids[:3], ids, relations.labelled_only(), drawn)
        >>> pairs.rows(0, 3).negative.int().tolist()
        [[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]]
    """

    def __init__(
        self,
        relations: _Relations,
        anchor_ids: Tensor,
        candidate_ids: Tensor,
        certain: _Relations | None = None,
        drawn: Tensor | None = None,
    ) -> None:
        self.relations = relations
        self.anchor_ids = anchor_ids
        self.candidate_ids = candidate_ids
        self.certain = relations if certain is None else certain
        self.drawn = drawn

    def rows(self, start: int, stop: int) -> PairBlock:
        """The masks of anchors ``start:stop``."""
        anchors = self.anchor_ids[start:stop]
        positive = self.relations.positive(anchors, self.candidate_ids)
        negative = ~self.relations.excluded(anchors, self.candidate_ids)
        if self.certain is not self.relations:
            allowed = ~self.certain.excluded(anchors, self.candidate_ids)
            if self.drawn is not None:
                allowed |= (self.drawn[start:stop, :, None] == self.candidate_ids).any(dim=1)
            negative &= allowed
        return PairBlock(positive, negative)

    def targets(self, start: int, stop: int) -> Tensor | None:
        """The targets of anchors ``start:stop``, None if the relations have none."""
        if not hasattr(self.relations, "targets"):
            return None
        targets: Tensor = self.relations.targets(self.anchor_ids[start:stop], self.candidate_ids)
        return targets
