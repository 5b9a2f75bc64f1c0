"""Items with class labels: one each, or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations.base import Relations, Unlabelled
from lit_metric.data.relations.lookup import Memo, PairSet, in_order_of, spread


def admitted(labelled: Tensor, fingerprints: Tensor, unlabelled: Unlabelled) -> Tensor:
    """``[N]`` bool: which items may be negatives, by labels.

    Labelled items may. Other items may if ``unlabelled`` says so, unless a labelled item has equal content:
    then they belong to its class, too.

    Args:
        labelled: ``[N]`` bool.
        fingerprints: ``[N]`` int64, equal for items of equal content.
        unlabelled: what an item without a label is to a labelled one.

    Raises:
        ValueError: when ``unlabelled`` has another value.
    """
    if unlabelled not in ("ignored", "negative"):
        raise ValueError(f"unlabelled must be 'ignored' or 'negative', not {unlabelled!r}")
    if unlabelled == "ignored":
        return labelled
    return labelled | ~torch.isin(fingerprints, fingerprints[labelled])


class LabelRelations(Relations):
    """One class label per item: equal labels belong together.

    An unlabelled item (label -1) is neither a positive nor a negative of anything, since it may belong to any
    class; ``unlabelled`` can admit it as a negative. Items of equal content are never negatives of each
    other, whatever their labels.

    Args:
        labels: ``[N]`` int64 class of each item, an index into ``classes``, or -1.
        classes: the classes' names.
        fingerprints: ``[N]`` int64, equal for items of equal content.
        unlabelled: what an unlabelled item is to a labelled one: ``"ignored"``, or a ``"negative"``. No class
            planner puts it into a batch. It gets there only if a miner proposes it for an anchor and its
            filters accept it. It has no positives and no negatives of its own, and it is no negative if a
            labelled item has equal content.

    Raises:
        ValueError: when ``unlabelled`` is neither.
        DataError: when the lengths differ, or a label is outside ``-1..len(classes) - 1``.

    Example:
        >>> relations = LabelRelations.from_names(["a", "b", "a", None], torch.tensor([1, 1, 2, 3]))
        >>> ids = torch.arange(4)
        >>> relations.positive(ids[:1], ids).tolist(), relations.negative(ids[:2], ids).tolist()
        ([[False, False, True, False]], [[False, False, False, False], [False, False, True, False]])
    """

    def __init__(
        self,
        labels: Tensor,
        classes: list[str],
        fingerprints: Tensor,
        unlabelled: Unlabelled = "ignored",
    ) -> None:
        if labels.shape != fingerprints.shape or labels.dim() != 1:
            raise DataError(
                f"labels {tuple(labels.shape)} and fingerprints {tuple(fingerprints.shape)} must both be [N]"
            )
        if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < len(classes):
            raise DataError(
                f"labels must be within -1..{len(classes) - 1}, got {int(labels.min())}..{int(labels.max())}"
            )
        self.labels = labels.to(torch.int64)
        self.classes = classes
        self.fingerprints = fingerprints
        self.unlabelled: Unlabelled = unlabelled
        self._admitted = admitted(self.labels >= 0, fingerprints, unlabelled)
        self._by_class = Memo[Ragged]()

    @cached_property
    def _duplicates_share_labels(self) -> bool:
        """Whether labelled items of equal content always have the same label."""
        labelled = self.labels >= 0
        contents, labels = self.fingerprints[labelled], self.labels[labelled]
        order = contents.argsort()
        contents, labels = contents[order], labels[order]
        return not bool(((contents[1:] == contents[:-1]) & (labels[1:] != labels[:-1])).any())

    @classmethod
    def from_names(
        cls, names: Sequence[str | None], fingerprints: Tensor, unlabelled: Unlabelled = "ignored"
    ) -> LabelRelations:
        """Number the distinct ``names`` in sorted order; None is unlabelled."""
        classes = sorted({name for name in names if name is not None})
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
        labels = np.fromiter((numbers.get(name, -1) for name in names), dtype=np.int64, count=len(names))
        return cls(torch.from_numpy(labels), classes, fingerprints, unlabelled)

    def __len__(self) -> int:
        return len(self.labels)

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self.positive_pairs(anchors[:, None], candidates[None, :])

    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        if anchors.device.type != "cpu":  # where the conditions below would wait for the device
            return self.excluded_pairs(anchors[:, None], candidates[None, :])

        def equal(values: Tensor) -> Tensor:
            # Torch compares a column with a row element by element, which takes several times as long.
            return torch.from_numpy(np.equal(values[anchors].numpy()[:, None], values[candidates].numpy()))

        of_anchors = self.labels[anchors]
        excluded = equal(self.labels)
        if not self._duplicates_share_labels:
            excluded |= equal(self.fingerprints)
        excluded |= ~self._admitted[candidates]
        if bool((unlabelled := of_anchors < 0).any()):
            excluded |= unlabelled[:, None]
        return excluded

    def positive_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        of_anchors = self.labels[anchors]
        together = of_anchors == self.labels[candidates]
        return together.logical_and_(of_anchors >= 0).logical_and_(anchors != candidates)

    def excluded_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        of_anchors, of_candidates = self.labels[anchors], self.labels[candidates]
        excluded = of_anchors == of_candidates
        excluded |= of_anchors < 0
        excluded |= ~self._admitted[candidates]
        # The item itself is among those of equal content.
        excluded |= self.fingerprints[anchors] == self.fingerprints[candidates]
        return excluded

    def positives(self, anchors: Tensor, among: Tensor) -> Ragged:
        by_class = self._by_class.of(among, self._group)
        nothing = len(self.classes)
        of_anchors = self.labels[anchors]
        same = by_class.select(torch.where(of_anchors < 0, nothing, of_anchors))
        rows = same.segment_ids
        other = same.values != anchors[rows]
        return Ragged.from_lengths(same.values[other], torch.bincount(rows[other], minlength=len(anchors)))

    def blocks(self, anchors: Tensor, among: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        by_class = self._by_class.of(among, self._group)
        labels = self.labels[anchors]
        order = labels.argsort(stable=True)
        for rows in order[labels[order] >= 0].split(size):
            yield rows, by_class.select(labels[rows].unique()).values

    def _group(self, among: Tensor) -> Ragged:
        """The ids ``among [M]`` by class, and an empty row more, for anchors without a label."""
        labels = self.labels[among]
        among, labels = among[labels >= 0], labels[labels >= 0]
        return Ragged.from_lengths(
            among[labels.argsort(stable=True)], torch.bincount(labels, minlength=len(self.classes) + 1)
        )

    def to(self, device: torch.device | str) -> LabelRelations:
        labels, fingerprints = self.labels.to(device), self.fingerprints.to(device)
        return LabelRelations(labels, self.classes, fingerprints, self.unlabelled)

    def labelled_only(self) -> LabelRelations:
        if self.unlabelled == "ignored":
            return self
        return LabelRelations(self.labels, self.classes, self.fingerprints)


class MultiLabelRelations(Relations):
    """Any number of class labels per item: items that share some belong together.

    The overlap of two items is the Jaccard index of their classes: the number in common over the number in
    either. Any overlap makes them positive, or an overlap of at least ``overlap`` if that is given; items
    that overlap less are negatives. An item without labels is neither a positive nor a negative of anything,
    since it may belong to any class; ``unlabelled`` can admit it as a negative. Items of equal content are
    never negatives of each other, whatever their labels.

    Args:
        labels: ``N`` rows of classes, indices into ``classes``, in any order; repeats count once.
        classes: the classes' names.
        fingerprints: ``[N]`` int64, equal for items of equal content.
        overlap: the least Jaccard index of a positive pair, in [0, 1]; 0: one class in common is enough.
        unlabelled: what an item without labels is to one that has some; see
            :class:`~lit_metric.data.LabelRelations`.

    Raises:
        DataError: when the lengths differ, or a label is outside of ``0..len(classes) - 1``.
        ValueError: when ``overlap`` is out of range, or ``unlabelled`` is none of its values.

    Example:
        >>> labels = Ragged.from_lists([[0, 1], [1], [2], []])
        >>> relations = MultiLabelRelations(labels, ["comedy", "drama", "western"], torch.arange(4))
        >>> ids = torch.arange(4)
        >>> relations.positive(ids[:1], ids).tolist(), relations.negative(ids[:1], ids).tolist()
        ([[False, True, False, False]], [[False, False, True, False]])
        >>> relations.targets(ids[:1], ids).tolist()
        [[nan, 0.5, 0.0, nan]]
    """

    def __init__(
        self,
        labels: Ragged,
        classes: list[str],
        fingerprints: Tensor,
        overlap: float = 0.0,
        unlabelled: Unlabelled = "ignored",
    ) -> None:
        if not 0 <= overlap <= 1:
            raise ValueError(f"overlap={overlap}: a Jaccard index lies in [0, 1]")
        if len(labels) != len(fingerprints):
            raise DataError(f"{len(labels)} rows of labels for {len(fingerprints)} items: give one for each")
        values = labels.values
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < len(classes):
            raise DataError(
                f"labels must be within 0..{len(classes) - 1}, got {int(values.min())}..{int(values.max())}"
            )
        # Keys need one base for rows and columns.
        self._has = PairSet.of(labels.segment_ids, values.long(), max(len(labels), len(classes)))
        items, numbers = self._has.pairs()
        self.labels = Ragged.from_lengths(numbers, torch.bincount(items, minlength=len(labels)))
        self.classes = classes
        self.fingerprints = fingerprints
        self.overlap = overlap
        self.unlabelled: Unlabelled = unlabelled
        self._admitted = admitted(self.labels.lengths > 0, fingerprints, unlabelled)
        self._by_class = Memo[Ragged]()

    def __len__(self) -> int:
        return len(self.fingerprints)

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self._together(self._jaccard(anchors, candidates)) & (anchors[:, None] != candidates)

    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        excluded = self._together(self._jaccard(anchors, candidates))
        return excluded.logical_or_(self._incomparable(anchors[:, None], candidates[None, :]))

    def positive_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self._together(self._jaccard_pairs(anchors, candidates)) & (anchors != candidates)

    def excluded_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        excluded = self._together(self._jaccard_pairs(anchors, candidates))
        return excluded.logical_or_(self._incomparable(anchors, candidates))

    def positives(self, anchors: Tensor, among: Tensor) -> Ragged:
        by_class = self._by_class.of(among, self._group)  # of positions within `among`
        own = self.labels.select(anchors)
        reached = by_class.select(own.values)
        # A candidate is reached once for each class in common.
        keys = own.segment_ids[reached.segment_ids] * max(len(among), 1) + reached.values
        keys, shared = keys.unique(return_counts=True)
        rows, columns = keys // max(len(among), 1), keys % max(len(among), 1)
        lengths = self.labels.lengths
        either = lengths[anchors][rows] + lengths[among][columns] - shared
        kept = self._together(shared.float() / either) & (anchors[rows] != among[columns])
        return in_order_of(columns[kept], rows[kept], len(anchors), among)

    def blocks(self, anchors: Tensor, among: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        by_class = self._by_class.of(among, self._group)
        own = self.labels.select(anchors)
        labelled = (own.lengths > 0).nonzero().squeeze(1)
        # Items with the same first class share many other items.
        first = own.values[own.offsets[labelled]]
        for rows in labelled[first.argsort(stable=True)].split(size):
            yield rows, among[by_class.select(own.select(rows).values.unique()).values.unique()]

    def targets(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[A]`` and ``[C]`` ids to a float32 ``[A, C]``: the Jaccard index of their classes.

        It is NaN for an item with itself, and where either has no label.
        """
        unknown = self._without(anchors)[:, None] | self._without(candidates)
        unknown |= anchors[:, None] == candidates
        return self._jaccard(anchors, candidates).float().masked_fill_(unknown, torch.nan)

    def to(self, device: torch.device | str) -> MultiLabelRelations:
        labels, fingerprints = self.labels.to(device), self.fingerprints.to(device)
        return MultiLabelRelations(labels, self.classes, fingerprints, self.overlap, self.unlabelled)

    def labelled_only(self) -> MultiLabelRelations:
        if self.unlabelled == "ignored":
            return self
        return MultiLabelRelations(self.labels, self.classes, self.fingerprints, self.overlap)

    def _together(self, jaccard: Tensor) -> Tensor:
        return jaccard > 0 if self.overlap == 0 else jaccard >= self.overlap

    def _without(self, ids: Tensor) -> Tensor:
        return self.labels.lengths[ids] == 0

    def _incomparable(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        # The item itself is among those of equal content.
        same = self.fingerprints[anchors] == self.fingerprints[candidates]
        return same | self._without(anchors) | ~self._admitted[candidates]

    def _jaccard(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[A, C]`` float32, 0 where either has no label.

        A product of indicators, of the anchors' classes only: few, however many there are in all.
        """
        own, others = self.labels.select(anchors), self.labels.select(candidates)
        classes, columns = own.values.unique(return_inverse=True)
        shared = torch.zeros(len(anchors), len(candidates), dtype=torch.float32, device=anchors.device)
        if len(classes):
            places = torch.searchsorted(classes, others.values).clamp_(max=len(classes) - 1)
            hit = classes[places] == others.values
            left = shared.new_zeros(len(anchors), len(classes))
            right = shared.new_zeros(len(classes), len(candidates))
            left[own.segment_ids, columns] = 1
            right[places[hit], others.segment_ids[hit]] = 1
            # Counts above 256 do not survive the half precision of an autocast around this.
            with torch.autocast(anchors.device.type, enabled=False):
                shared = left @ right
        return shared / (own.lengths[:, None] + others.lengths - shared).clamp_(min=1)

    def _jaccard_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Element by element, float32; shapes are broadcast."""
        anchors, candidates = torch.broadcast_tensors(anchors, candidates)
        starts, lengths = self.labels.offsets[:-1], self.labels.lengths
        flat = anchors.reshape(-1)
        pairs, places = spread(starts[flat], lengths[flat])
        hit = self._has.contains(candidates.reshape(-1)[pairs], self.labels.values[places])
        shared = torch.bincount(pairs[hit], minlength=len(flat)).reshape(anchors.shape)
        either = lengths[anchors] + lengths[candidates] - shared
        return shared.float() / either.clamp_(min=1)

    def _group(self, among: Tensor) -> Ragged:
        """Positions within ``among [M]``, ascending, of the members of each class."""
        own = self.labels.select(among)
        order = own.values.argsort(stable=True)
        return Ragged.from_lengths(
            own.segment_ids[order], torch.bincount(own.values, minlength=len(self.classes))
        )
