"""Which items belong together, and which must never be pushed apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged, offsets_of
from lit_metric.data.relations.lookup import Memo

Self = TypeVar("Self", bound="Relations")
Unlabelled = Literal["ignored", "negative"]


class Relations(ABC):
    """Answers, for any lists of global item ids, which pairs are positive and which may be negative.

    Ids are int64 tensors on the same device as the relations. A pair may be neither positive nor negative,
    such as duplicates of one text under two labels, or pairs about which nothing is known.
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

        Row ``a`` holds the ids for which :meth:`positive` is true, in the order of ``among``, repeats
        included.
        """

    def blocks(self, anchors: Tensor, among: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of anchors that share positives, so that one matrix product compares them.

        Args:
            anchors: ``[A]`` ids.
            among: ``[M]`` distinct ids, the possible positives.
            size: the largest number of anchors of a block.

        Yields:
            Positions in ``anchors``, and distinct ids out of ``among`` that include all positives of these
            anchors. Each anchor with positives is in one block.
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
        """The same relations without negatives that only a miner's filters make likely, such as items without
        labels.

        Random negatives are drawn by these relations. In a batch they hold for all pairs but an anchor and
        the negatives that were mined for it.
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

        NaN means that nothing is known. Relations without grades give 1 to positives, and NaN to all else.
        """
        positive = self.positive(anchors, candidates)
        unknown = torch.full(positive.shape, torch.nan, dtype=torch.float32, device=positive.device)
        return unknown.masked_fill_(positive, 1.0)


Question = Callable[[Relations, Tensor, Tensor], Tensor]


class UnionRelations(Relations):
    """Several data sets end to end, each with relations of its own; nothing is known across them.

    Items of two parts are neither positives nor negatives of each other. Each part numbers its items from 0.

    Args:
        parts: the parts' relations.

    Attributes:
        offsets: ``[parts + 1]``, the first id of each part, and the number of all items.

    Example:
        >>> from lit_metric.data import LabelRelations
        >>> part = LabelRelations.from_names(["a", "b", "a"], torch.arange(3))
        >>> relations, ids = UnionRelations([part, part]), torch.arange(6)
        >>> relations.positive(ids[:1], ids).tolist(), relations.negative(ids[:1], ids).tolist()
        ([[False, False, True, False, False, False]], [[False, True, False, False, False, False]])
    """

    def __init__(self, parts: Sequence[Relations]) -> None:
        self.parts = list(parts)
        self.offsets = offsets_of(torch.tensor([len(part) for part in self.parts], dtype=torch.int64))
        self._split = Memo[list[tuple[Tensor, Tensor]]]()

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def part_of(self, ids: Tensor) -> Tensor:
        """The number of the part that each of ``ids``, of any shape, belongs to."""
        return torch.searchsorted(self.offsets.to(ids.device), ids.contiguous(), right=True) - 1

    def own(self, part: int, ids: Tensor) -> Tensor:
        """The ``ids`` that belong to ``part``, as it numbers them."""
        return ids[self.part_of(ids) == part] - self.offsets[part].to(ids.device)

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        answer = torch.zeros(len(anchors), len(candidates), dtype=torch.bool, device=anchors.device)
        return self._matrix(answer, anchors, candidates, lambda part, a, c: part.positive(a, c))

    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        answer = torch.ones(len(anchors), len(candidates), dtype=torch.bool, device=anchors.device)
        return self._matrix(answer, anchors, candidates, lambda part, a, c: part.excluded(a, c))

    def targets(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[A]`` and ``[C]`` ids to a float32 ``[A, C]``: the targets of each part, NaN across parts."""
        answer = torch.full(
            (len(anchors), len(candidates)), torch.nan, dtype=torch.float32, device=anchors.device
        )
        return self._matrix(answer, anchors, candidates, lambda part, a, c: part.targets(a, c))

    def positive_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self._elements(False, anchors, candidates, lambda part, a, c: part.positive_pairs(a, c))

    def excluded_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self._elements(True, anchors, candidates, lambda part, a, c: part.excluded_pairs(a, c))

    def positives(self, anchors: Tensor, among: Tensor) -> Ragged:
        rows, found = [], []
        split = zip(self.parts, self._by_part(anchors), self._split.of(among, self._by_part), strict=True)
        for number, (part, (places, own), (_, others)) in enumerate(split):
            answer = part.positives(own, others)
            rows.append(places)
            found.append(Ragged(answer.values + self.offsets[number].to(anchors.device), answer.offsets))
        joined = Ragged.from_lengths(
            torch.cat([each.values for each in found]), torch.cat([each.lengths for each in found])
        )
        return joined.select(torch.cat(rows).argsort())

    def to(self, device: torch.device | str) -> UnionRelations:
        return UnionRelations([part.to(device) for part in self.parts])

    def labelled_only(self) -> UnionRelations:
        parts = [part.labelled_only() for part in self.parts]
        if all(sure is part for sure, part in zip(parts, self.parts, strict=True)):
            return self
        return UnionRelations(parts)

    def _by_part(self, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each part, the positions of its ids within ``ids [n]``, and those ids as it numbers them."""
        part_of = self.part_of(ids)
        places = [(part_of == number).nonzero()[:, 0] for number in range(len(self.parts))]
        return [(rows, ids[rows] - start) for rows, start in zip(places, self.offsets.tolist(), strict=False)]

    def _matrix(self, answer: Tensor, anchors: Tensor, candidates: Tensor, ask: Question) -> Tensor:
        columns = self._split.of(candidates, self._by_part)
        for part, (rows, own), (places, others) in zip(
            self.parts, self._by_part(anchors), columns, strict=True
        ):
            if len(rows) and len(places):
                answer[rows[:, None], places] = ask(part, own, others)
        return answer

    def _elements(self, across: bool, anchors: Tensor, candidates: Tensor, ask: Question) -> Tensor:
        anchors, candidates = torch.broadcast_tensors(anchors, candidates)
        of_anchors, same = self.part_of(anchors), self.part_of(anchors) == self.part_of(candidates)
        answer = torch.full(anchors.shape, across, device=anchors.device)
        for number, (part, start) in enumerate(zip(self.parts, self.offsets.tolist(), strict=False)):
            here = same & (of_anchors == number)
            answer[here] = ask(part, anchors[here] - start, candidates[here] - start)
        return answer
