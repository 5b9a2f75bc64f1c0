"""What was read: items, what is known about them, and which of them belong to which split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_metric.data.given import GivenPairs, GivenTriplets
from lit_metric.data.items import Items
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations
from lit_metric.data.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Facts:
    """Judged pairs of items.

    Args:
        anchors: ``[P]`` int64 global ids.
        candidates: ``[P]`` int64 global ids.
        grades: ``[P]`` float32.
    """

    anchors: Tensor
    candidates: Tensor
    grades: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set in one space of global ids.

    Args:
        items: of all splits.
        vocabulary: their distinct texts.
        relations: what belongs together.
        splits: int64 ids by name. ``train``, ``validation``, ``test`` and ``predict`` are the items that are
            planned or asked about. What they are compared with is the split itself where items have labels,
            else ``SPLIT_corpus``, or one ``corpus`` for all.
        pairs: scored pairs of a split, to be measured as they stand.
        triplets: likewise, of an anchor, a positive and a negative.
        facts: the judged pairs that ``relations`` were made of, if they were.
        parts: the data sets of which this is a mixture, by name, each in ids of its own.
        groups: the group of each item, of queries that are measured apart, None for none; or None.
        held_out: whether the validation items were taken from the training data.
        rows: ``[N]`` int64, the row, from 0, that each item stands in, of the source of its split; -1 where
            that is not known.
        row_counts: of each split that is a source of its own, how many rows that has, with those left out.
    """

    items: Items
    vocabulary: Vocabulary
    relations: Relations
    splits: dict[str, Tensor]
    pairs: dict[str, GivenPairs] = field(default_factory=dict)
    triplets: dict[str, GivenTriplets] = field(default_factory=dict)
    facts: Facts | None = None
    parts: dict[str, Dataset] = field(default_factory=dict)
    groups: list[str | None] | None = None
    held_out: bool = False
    rows: Tensor | None = None
    row_counts: dict[str, int] = field(default_factory=dict)

    def corpus_of(self, split: str) -> str | None:
        """The name of the split that holds what ``split`` is compared with, None if that is itself."""
        return next((name for name in (f"{split}_corpus", "corpus") if name in self.splits), None)

    def digest(self, split: str) -> str:
        """32 hexadecimal digits that differ when the items of a split do, or what is known of them."""
        if self.parts:
            own = [
                f"{name} {part.digest(split)}" for name, part in self.parts.items() if split in part.splits
            ]
            return hashlib.sha256("\n".join(own).encode()).hexdigest()[:32]
        ids = self.splits[split]
        corpus = self.corpus_of(split)
        state = hashlib.sha256()
        for part in (ids, *([] if corpus is None else [self.splits[corpus]])):
            state.update(_bytes(part))
            state.update(_bytes(self.items.fingerprints[part]))
        for known in self._known(ids):
            state.update(_bytes(known))
        return state.hexdigest()[:32]

    def _known(self, ids: Tensor) -> list[Tensor]:
        if self.facts is not None:
            own = torch.isin(self.facts.anchors, ids)
            return [self.facts.anchors[own], self.facts.candidates[own], self.facts.grades[own]]
        labels = getattr(self.relations, "labels", None)
        if isinstance(labels, Ragged):
            labels = labels.select(ids)
            return [labels.values, labels.offsets]
        return [] if labels is None else [labels[ids]]


def _bytes(values: Tensor) -> bytes:
    array: npt.NDArray[np.generic] = values.contiguous().numpy()
    return array.tobytes()
