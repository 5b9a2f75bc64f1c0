"""Which anchors and candidates belong together: the masks that a loss reads, one block of anchor rows at a
time."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lit_metric.losses.gather import gather_ids, own_share, rows_before


def any_in_row(mask: Tensor) -> Tensor:
    """``mask.any(dim=1)`` of bool ``[r, C]``, C at least 1; about twenty times as fast on a CPU."""
    return mask.view(torch.uint8).amax(dim=1).bool()


class PairBlock(NamedTuple):
    """The masks of r anchor rows against all C candidates. A pair in neither mask is ignored.

    Attributes:
        positive: ``[r, C]`` bool.
        negative: ``[r, C]`` bool, never true where ``positive`` is.
        weight: ``[r, C]`` float, at least 0, or None for ones everywhere. Each loss says how a weight acts.
            In all of them a weight of 0 takes the pair out, as if neither mask held it.
        target: ``[r, C]`` float, how well a pair belongs together by a score, grade or teacher. NaN where
            nothing is known; −inf is less than any other. None for losses that don't require scores.
        bias: ``[r, C]`` finite float that is added to the similarities, or None.
    """

    positive: Tensor
    negative: Tensor
    weight: Tensor | None = None
    target: Tensor | None = None
    bias: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """:attr:`target`, for a loss that needs it.

        Raises:
            ValueError: if the block has none, because the loss doesn't say ``requires_scores``.
        """
        if self.target is None:
            raise ValueError("this block has no targets; set requires_scores = True in the class of the loss")
        return self.target

    @property
    def known(self) -> Tensor:
        """``[r, C]`` bool, which pairs have a target; raises as :attr:`targets` does."""
        return ~self.targets.isnan()

    @property
    def usable(self) -> Tensor:
        """``[r]`` bool, which anchors have a positive and a negative."""
        return any_in_row(self.positive) & any_in_row(self.negative)


class Pairs(ABC):
    """The masks of this rank's A anchors against the C candidates of all ranks.

    A loss reads the same rows again in the backward pass, so the answer must be the same each time.

    Attributes:
        anchor_ids: ``[A]`` int64 global item ids, or None where they are unknown.
        candidate_ids: ``[C]`` int64, likewise.
        anchor_labels: ``[A]`` int64 classes, -1 for none, or None where they are unknown.
        candidate_labels: ``[C]`` int64, likewise.
    """

    anchor_ids: Tensor | None = None
    candidate_ids: Tensor | None = None
    anchor_labels: Tensor | None = None
    candidate_labels: Tensor | None = None

    @abstractmethod
    def rows(self, start: int, stop: int, targets: bool = False) -> PairBlock:
        """The masks of anchors ``start:stop`` against all candidates.

        Args:
            start: the first row.
            stop: the row after the last.
            targets: include them. Where there are only masks, the block has none, and the loss takes 1 for a
                positive and 0 for a negative.
        """

    @abstractmethod
    def turned(self) -> Pairs:
        """The same pairs with the roles exchanged: candidates become anchors, anchors become candidates.

        Over several ranks the new anchors are this rank's share of the candidates
        (:func:`~lit_metric.losses.own_share`), and the new candidates are the anchors of all ranks in rank
        order. Every rank must call it.
        """


class DensePairs(Pairs):
    """Masks that exist in full.

    Args:
        positive: ``[A, C]`` bool.
        negative: ``[A, C]`` bool.
        weight: ``[A, C]`` float, at least 0, optional.
        target: ``[A, C]`` float, NaN where nothing is known, optional.
        bias: ``[A, C]`` finite float that is added to the similarities, optional.

    Raises:
        ValueError: if shapes differ, a pair is positive and negative at once, a weight is negative or NaN, or
            a bias is not finite.
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
        bias: Tensor | None = None,
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
        for name, values in (("weight", weight), ("target", target), ("bias", bias)):
            if values is not None and values.shape != positive.shape:
                raise ValueError(
                    f"{name} {list(values.shape)} must have the masks' shape {list(positive.shape)}"
                )
        if weight is not None and not (weight >= 0).all():
            raise ValueError("weights must be at least 0; to leave a pair out, give it weight 0")
        if bias is not None and not bias.isfinite().all():
            raise ValueError("a bias must be finite; to leave a pair out, give it weight 0")
        self.positive = positive
        self.negative = negative
        self.weight = weight
        self.target = target
        self.bias = bias

    @classmethod
    def of_scores(cls, scores: Tensor, anchors: int, negatives: int, candidates: int) -> DensePairs:
        """Each anchor with its own positive and negatives, by their scores; all other pairs are ignored.

        Args:
            scores: ``[A]`` of the positives, or ``[A, 1 + k]`` of an anchor's positive and its k negatives.
            anchors: A, those of this rank.
            negatives: A k, those of this rank.
            candidates: C, those of all ranks: in rank order, first a rank's positives, then its negatives.

        Raises:
            ValueError: if there is not one score for each positive and negative.
        """
        each = negatives // max(anchors, 1)
        if scores.shape != (anchors, 1 + each) and (scores.shape != (anchors,) or negatives):
            raise ValueError(
                f"scores {list(scores.shape)} must be [{anchors}, {1 + each}], one for the positive and for "
                "each negative of an anchor"
            )
        first, _ = rows_before(anchors + negatives, scores.device)
        rows = torch.arange(anchors, device=scores.device)[:, None]
        own = torch.arange(each, device=scores.device) + anchors + rows * each
        columns = first + torch.cat([rows, own], dim=1)
        target = scores.new_full((anchors, candidates), torch.nan)
        target = target.scatter(1, columns, scores.reshape(anchors, 1 + each))
        nothing = torch.zeros_like(target, dtype=torch.bool)
        positive = nothing.scatter(1, columns[:, :1], True)
        return cls(positive, nothing.scatter(1, columns[:, 1:], True), target=target)

    def rows(self, start: int, stop: int, targets: bool = False) -> PairBlock:
        """See :meth:`Pairs.rows`; views, nothing is copied."""
        given = self.positive, self.negative, self.weight, self.target if targets else None, self.bias
        return PairBlock(*(None if each is None else each[start:stop] for each in given))  # type: ignore[arg-type]

    def turned(self) -> DensePairs:
        """See :meth:`Pairs.turned`."""
        given = self.positive, self.negative, self.weight, self.target, self.bias
        turned = (None if each is None else gather_ids(each)[:, own_share()].T for each in given)
        return DensePairs(*turned)  # type: ignore[arg-type]


class LabelPairs(Pairs):
    """Equal labels are positive, different ones negative, and -1 is neither.

    Args:
        anchor_labels: ``[A]`` int64.
        candidate_labels: ``[C]`` int64.
        anchor_items: ``[A]`` int64 numbers; an item is not its own positive. None if no item is on both
            sides.
        candidate_items: ``[C]`` int64, likewise.

    Example:
        >>> pairs = LabelPairs(torch.tensor([1, -1]), torch.tensor([0, 1, -1])).rows(0, 2)
        >>> pairs.positive.tolist(), pairs.negative.tolist()
        ([[False, True, False], [False, False, False]], [[True, False, False], [False, False, False]])
    """

    anchor_labels: Tensor
    candidate_labels: Tensor

    def __init__(
        self,
        anchor_labels: Tensor,
        candidate_labels: Tensor,
        anchor_items: Tensor | None = None,
        candidate_items: Tensor | None = None,
    ) -> None:
        self.anchor_labels, self.candidate_labels = anchor_labels, candidate_labels
        self.anchor_items, self.candidate_items = anchor_items, candidate_items

    def rows(self, start: int, stop: int, targets: bool = False) -> PairBlock:
        """See :meth:`Pairs.rows`."""
        anchors, candidates = self.anchor_labels[start:stop], self.candidate_labels
        # Without a label: numbers that differ on both sides.
        positive = anchors.clamp_min(-1)[:, None] == torch.where(candidates < 0, -2, candidates)
        negative = ~positive
        negative &= candidates >= 0
        negative[anchors < 0] = False  # on a CPU faster than a mask over all columns
        if self.anchor_items is not None and self.candidate_items is not None:
            items = self.anchor_items[start:stop]
            if items.device.type == "cpu":  # there, a matrix of comparisons takes longer than to look them up
                row, column = _equal(items, self.candidate_items)
                positive[row, column] = False
            else:
                positive &= items[:, None] != self.candidate_items
        return PairBlock(positive, negative)

    def turned(self) -> LabelPairs:
        """See :meth:`Pairs.turned`."""
        labels = _exchanged(self.anchor_labels, self.candidate_labels)
        return LabelPairs(*labels, *_exchanged(self.anchor_items, self.candidate_items))  # type: ignore[arg-type]


class ItemRelations(Protocol):
    """What losses read of relations between global item ids: ``[A, C]`` bool for two lists of ids."""

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Which pairs belong together."""
        ...

    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Which pairs must not be negatives; positives are among them."""
        ...


class RelationPairs(Pairs):
    """Masks from relations between global item ids, built for one block of anchors at a time.

    Args:
        relations: a candidate that they don't exclude is a negative. They may have a method ``targets`` that
            returns ``[A, C]`` floats, NaN where nothing is known.
        anchor_ids: ``[A]`` int64, this rank's anchors.
        candidate_ids: ``[C]`` int64, the candidates of *all* ranks in rank order (see
            :func:`~lit_metric.losses.gather_ids`): positives and duplicates on other ranks count.
        labelled_relations: relations by known labels only. An unlabelled item is a negative only for the
            anchors it was mined for. None: use ``relations`` for all.
        mined_negatives: ``[A, n]`` int64, the ids mined for each anchor, -1 for none; None if nothing was.
        anchor_labels: ``[A]`` int64 classes for losses that require them, -1 for none.
        candidate_labels: ``[C]`` int64, likewise.
        bias: returns for two lists of ids the ``[A, C]`` floats that are added to their similarities.

    Example:
        >>> import torch
        >>> from lit_metric.data import LabelRelations
        >>> names = ["a", "a", "b", None]
        >>> relations = LabelRelations.from_names(names, torch.arange(4), unlabelled="negative")
        >>> ids, mined = torch.arange(4), torch.tensor([[3], [-1], [0]])
        >>> pairs = RelationPairs(relations, ids[:3], ids, relations.labelled_only(), mined)
        >>> pairs.rows(0, 3).negative.int().tolist()
        [[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]]
    """

    anchor_ids: Tensor
    candidate_ids: Tensor

    def __init__(
        self,
        relations: ItemRelations,
        anchor_ids: Tensor,
        candidate_ids: Tensor,
        labelled_relations: ItemRelations | None = None,
        mined_negatives: Tensor | None = None,
        anchor_labels: Tensor | None = None,
        candidate_labels: Tensor | None = None,
        bias: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.relations = relations
        self.labelled_relations = relations if labelled_relations is None else labelled_relations
        self.mined_negatives = mined_negatives
        self.anchor_ids, self.candidate_ids = anchor_ids, candidate_ids
        self.anchor_labels, self.candidate_labels = anchor_labels, candidate_labels
        self.bias = bias
        self._turned = False

    def rows(self, start: int, stop: int, targets: bool = False) -> PairBlock:
        """See :meth:`Pairs.rows`."""
        anchors, candidates, mined = self.anchor_ids[start:stop], self.candidate_ids, self.mined_negatives
        if self._turned:  # relations and mined negatives know the pairs from the other side
            anchors, candidates = candidates, anchors
        elif mined is not None:
            mined = mined[start:stop]
        positive = self.relations.positive(anchors, candidates)
        negative = ~self.relations.excluded(anchors, candidates)
        if self.labelled_relations is not self.relations:
            allowed = ~self.labelled_relations.excluded(anchors, candidates)
            if mined is not None:
                allowed |= (mined[:, :, None] == candidates).any(dim=1)
            negative &= allowed
        find = getattr(self.relations, "targets", None) if targets else None
        target = None if find is None else find(anchors, candidates)
        bias = None if self.bias is None else self.bias(anchors, candidates)
        block = positive, negative, None, target, bias
        if self._turned:
            return PairBlock(*(None if each is None else each.T for each in block))  # type: ignore[arg-type]
        return PairBlock(*block)

    def turned(self) -> RelationPairs:
        """See :meth:`Pairs.turned`."""
        other = copy.copy(self)
        labels = _exchanged(self.anchor_labels, self.candidate_labels)
        other.anchor_labels, other.candidate_labels = labels
        ids = _exchanged(self.anchor_ids, self.candidate_ids)
        other.anchor_ids, other.candidate_ids = ids  # type: ignore[assignment]
        if self.mined_negatives is not None:
            mined = self.mined_negatives
            other.mined_negatives = mined[own_share()] if self._turned else gather_ids(mined)
        other._turned = not self._turned
        return other


class PairsWrapper(Pairs):
    """Pairs whose blocks are changed by a function; ids and labels stay, and it can be turned round.

    Args:
        pairs: of A anchors and C candidates.
        change: takes a block, the pairs that the block belongs to, and the block's bounds. It returns another
            block. Turned pairs are passed to it turned, so its rules for anchors then hold for candidates.

    Example:
        >>> same = torch.eye(2, dtype=torch.bool)
        >>> def without_negatives(block: PairBlock, *_: object) -> PairBlock:
        ...     return block._replace(negative=torch.zeros_like(block.negative))
        >>> PairsWrapper(DensePairs(same, ~same), without_negatives).turned().rows(0, 1).negative
        tensor([[False, False]])
    """

    def __init__(self, pairs: Pairs, change: Callable[[PairBlock, Pairs, int, int], PairBlock]) -> None:
        self.pairs = pairs
        self.change = change
        self.anchor_ids, self.candidate_ids = pairs.anchor_ids, pairs.candidate_ids
        self.anchor_labels, self.candidate_labels = pairs.anchor_labels, pairs.candidate_labels

    def rows(self, start: int, stop: int, targets: bool = False) -> PairBlock:
        """See :meth:`Pairs.rows`."""
        return self.change(self.pairs.rows(start, stop, targets), self.pairs, start, stop)

    def turned(self) -> PairsWrapper:
        """See :meth:`Pairs.turned`."""
        return PairsWrapper(self.pairs.turned(), self.change)


def _equal(anchors: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and the columns ``[n]`` at which two lists of numbers are equal, by a search."""
    known, order = candidates.sort()
    first = torch.searchsorted(known, anchors)
    counts = torch.searchsorted(known, anchors, right=True) - first
    row = torch.arange(len(anchors), device=anchors.device).repeat_interleave(counts)
    within = torch.arange(len(row), device=anchors.device) - (counts.cumsum(0) - counts)[row]
    return row, order[first[row] + within]


def _exchanged(anchors: Tensor | None, candidates: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Figures of the turned pairs' anchors and candidates."""
    share = None if candidates is None else candidates[own_share()]
    return share, None if anchors is None else gather_ids(anchors)
