"""One class label per item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations.base import Relations, Unlabelled, admitted
from lit_metric.data.relations.lookup import Memo, each_equals


class LabelRelations(Relations):
    """One class label per item: equal labels belong together.

    An unlabelled item (label -1) is neither a positive nor a negative of anything, since it may belong to any
    class; ``unlabelled`` can admit it as a negative. Items of equal content are never negatives of one
    another, whatever their labels.

    Args:
        labels: ``[N]`` int64 class of each item, an index into ``classes``, or -1.
        classes: the classes' names.
        fingerprints: ``[N]`` int64, equal for items of equal content.
        unlabelled: what an unlabelled item is to a labelled one: ``"ignored"``, or a ``"negative"``. No class
            planner puts it into a batch, so it gets there only if a miner proposes it for an anchor and its
            filters let it pass. It is still nobody's positive, nothing is a negative of it, and neither is it
            one where a labelled item has equal content.

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
    def _alike_share_labels(self) -> bool:
        """Whether labelled items of equal content have one label, as the item itself has."""
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
        labels = torch.tensor([numbers.get(name, -1) for name in names], dtype=torch.int64)
        return cls(labels, classes, fingerprints, unlabelled)

    def __len__(self) -> int:
        return len(self.labels)

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self.positive_pairs(anchors[:, None], candidates[None, :])

    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        if anchors.device.type != "cpu":  # which would have to wait for the answers to what is asked below
            return self.excluded_pairs(anchors[:, None], candidates[None, :])
        of_anchors = self.labels[anchors]
        excluded = each_equals(of_anchors, self.labels[candidates])
        if not self._alike_share_labels:
            excluded |= each_equals(self.fingerprints[anchors], self.fingerprints[candidates])
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
