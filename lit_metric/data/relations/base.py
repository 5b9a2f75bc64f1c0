"""Which items belong together, and which must never be pushed apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged

Self = TypeVar("Self", bound="Relations")
Unlabelled = Literal["ignored", "negative"]


class Relations(ABC):
    """Answers, for any lists of global item ids, which pairs are positive and which may be negative.

    Ids are int64 tensors on the same device as the relations. A pair may be neither: duplicates of one text
    under two labels, or pairs about which nothing is known, teach nothing either way.
    """

    @abstractmethod
    def __len__(self) -> int:
        """The number of items."""

    @abstractmethod
    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[A]`` and ``[C]`` ids to a boolean ``[A, C]``: belong together. Never an item with itself."""

    @abstractmethod
    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[A]`` and ``[C]`` ids to a boolean ``[A, C]``: must not serve as negatives.

        These are the positives, the item itself, items of equal content, and ignored pairs.
        """

    @abstractmethod
    def positive_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """:meth:`positive` element by element: ids ``[P]`` and ``[P]`` to a boolean ``[P]``."""

    @abstractmethod
    def excluded_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """:meth:`excluded` element by element: ids ``[P]`` and ``[P]`` to a boolean ``[P]``."""

    @abstractmethod
    def positives(self, anchors: Tensor, among: Tensor) -> Ragged:
        """The positives of each of ``anchors [A]`` out of the ids ``among [M]``.

        Row ``a`` holds those ids for which :meth:`positive` is true, in the order (and as often) as they
        stand in ``among``.
        """

    def blocks(self, anchors: Tensor, among: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Anchors that share positives, to be compared with those in one matrix product.

        Args:
            anchors: ``[A]`` ids.
            among: ``[M]`` distinct ids of which positives are asked.
            size: anchors of a block at most.

        Yields:
            Places in ``anchors``, and distinct ids out of ``among`` that hold all positives of these anchors,
            and others. Anchors without positives may be in no block, all others are in one.
        """
        first = anchors.clone()
        for rows in torch.arange(len(anchors), device=anchors.device).split(size):
            found = self.positives(anchors[rows], among)
            first[rows] = first[rows].scatter_reduce(0, found.segment_ids, found.values, "amin")
        for rows in first.argsort(stable=True).split(size):
            yield rows, self.positives(anchors[rows], among).values.unique()

    @abstractmethod
    def to(self: Self, device: torch.device | str) -> Self:
        """A copy on ``device``."""

    def labelled_only(self) -> Relations:
        """The same without negatives that only a miner's filters make likely, such as items without labels.

        What is drawn without looking at scores is drawn by these, and in a batch they hold for all pairs that
        were not drawn for one another.
        """
        return self

    def negative(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[A]`` and ``[C]`` ids to a boolean ``[A, C]``: may serve as negatives."""
        return ~self.excluded(anchors, candidates)

    def negative_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """:meth:`negative` element by element: ids ``[P]`` and ``[P]`` to a boolean ``[P]``."""
        return ~self.excluded_pairs(anchors, candidates)

    def targets(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[A]`` and ``[C]`` ids to a float32 ``[A, C]``: how much they belong together, or NaN.

        NaN says that nothing is known. Where nothing finer than :meth:`positive` is known, a positive has 1
        and all else NaN.
        """
        positive = self.positive(anchors, candidates)
        unknown = torch.full(positive.shape, torch.nan, dtype=torch.float32, device=positive.device)
        return unknown.masked_fill_(positive, 1.0)


def admitted(labelled: Tensor, fingerprints: Tensor, unlabelled: Unlabelled) -> Tensor:
    """``[N]`` bool: which items may be negatives at all, by labels.

    Those are the labelled ones, and the others if ``unlabelled`` says so; but not where a labelled item has
    equal content, since they then belong to its class, too.

    Args:
        labelled: ``[N]`` bool.
        fingerprints: ``[N]`` int64, equal for items of equal content.
        unlabelled: what an item without a label may be.

    Raises:
        ValueError: when ``unlabelled`` is none of its values.
    """
    if unlabelled not in ("ignored", "negative"):
        raise ValueError(f"unlabelled must be 'ignored' or 'negative', not {unlabelled!r}")
    if unlabelled == "ignored":
        return labelled
    return labelled | ~torch.isin(fingerprints, fingerprints[labelled])
