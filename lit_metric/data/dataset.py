"""A data set: items, what is known about them, and which of them belong to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.items import Items, Vocabulary, numbers_of
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations, UnionRelations
from lit_metric.data.text_sets import TextSets
from lit_metric.data.texts import Texts

Plans = Literal["classes", "pairs", "scores"]
SPLITS = ("train", "validation", "test", "predict")


@dataclass(frozen=True, eq=False)
class GivenPairs:
    """Judged pairs of items.

    Args:
        anchors: ``[P]`` int64 global ids.
        candidates: ``[P]`` int64 global ids.
        targets: ``[P]`` float32, how well each pair belongs together: a score, a grade, or 0 and 1.

    Raises:
        DataError: when the lengths differ, or a target is NaN or infinite.

    Example:
        >>> pairs = GivenPairs(torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4.5, 0.0]))
        >>> len(pairs), pairs.ids.tolist()
        (2, [0, 1, 2, 3])
    """

    anchors: Tensor
    candidates: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        _check_lengths("pairs", anchors=self.anchors, candidates=self.candidates, targets=self.targets)
        if len(self.targets) and not bool((finite := self.targets.isfinite()).all()):
            raise DataError(f"the target of pair {int((~finite).nonzero()[0])} is not a finite number")

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def ids(self) -> Tensor:
        """The distinct ids of all pairs, ascending: the items to encode."""
        return torch.cat([self.anchors, self.candidates]).unique()


@dataclass(frozen=True, eq=False)
class GivenTriplets:
    """Triplets of items: an anchor, an item that belongs to it, and one that doesn't.

    Args:
        anchors: ``[T]`` int64 global ids.
        positives: ``[T]`` int64 global ids.
        negatives: ``[T]`` int64 global ids.
        groups: ``[T]`` names of the groups that are measured apart, or None.

    Raises:
        DataError: when the lengths differ.
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    groups: list[str] | None = None

    def __post_init__(self) -> None:
        _check_lengths("triplets", anchors=self.anchors, positives=self.positives, negatives=self.negatives)
        if self.groups is not None and len(self.groups) != len(self.anchors):
            raise DataError(f"{len(self.groups)} groups were given for {len(self.anchors)} triplets")

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def ids(self) -> Tensor:
        """The distinct ids of all triplets, ascending: the items to encode."""
        return torch.cat([self.anchors, self.positives, self.negatives]).unique()


def _check_lengths(what: str, **columns: Tensor) -> None:
    shapes = {name: list(column.shape) for name, column in columns.items()}
    length = len(next(iter(columns.values())))
    if any(shape != [length] for shape in shapes.values()):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"the columns of {what} must be vectors of one length, got {found}")


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set in one space of global ids.

    Args:
        items: of all splits.
        vocabulary: their distinct texts.
        relations: which items belong together.
        splits: int64 ids by name. ``train``, ``validation``, ``test`` and ``predict`` hold the items that are
            planned or evaluated. Items with labels are compared with their own split; other items with
            ``SPLIT_corpus``, or with one ``corpus`` for all splits.
        pairs: scored pairs of a split, to be measured as they stand.
        triplets: triplets of a split, to be measured as they stand.
        judgements: the judged pairs of which ``relations`` were made; None for other relations.
        parts: the data sets of which this is a mixture, by name, each in ids of its own.
        groups: the group of each item, None for none. Queries of each group are measured apart. None: there
            are no groups.
        held_out: whether the validation items were taken from the training data.
        rows: ``[N]`` int64, the row, from 0, of each item in the source of its split; -1 if it is unknown.
        row_counts: the number of rows of each split that is a source of its own, bad rows included.
        planned: what batches are made of unless a planner is given: classes, positive pairs, or scored pairs.
    """

    items: Items
    vocabulary: Vocabulary
    relations: Relations
    splits: dict[str, Tensor]
    pairs: dict[str, GivenPairs] = field(default_factory=dict)
    triplets: dict[str, GivenTriplets] = field(default_factory=dict)
    judgements: GivenPairs | None = None
    parts: dict[str, Dataset] = field(default_factory=dict)
    groups: list[str | None] | None = None
    held_out: bool = False
    rows: Tensor | None = None
    row_counts: dict[str, int] = field(default_factory=dict)
    planned: Plans = "classes"

    def corpus_of(self, split: str) -> str | None:
        """The split that the items of ``split`` are compared with; None for ``split`` itself."""
        return next((name for name in (f"{split}_corpus", "corpus") if name in self.splits), None)

    def digest(self, split: str) -> str:
        """32 hexadecimal digits, which differ when the items of a split or their relations differ."""
        state = hashlib.sha256()
        if self.parts:
            lines = [
                f"{name} {part.digest(split)}" for name, part in self.parts.items() if split in part.splits
            ]
            state.update("\n".join(lines).encode())
            return state.hexdigest()[:32]
        ids, corpus = self.splits[split], self.corpus_of(split)
        arrays = []
        for some in (ids, *([] if corpus is None else [self.splits[corpus]])):
            arrays += [some, self.items.fingerprints[some]]
        labels = getattr(self.relations, "labels", None)
        if self.judgements is not None:
            own = torch.isin(self.judgements.anchors, ids)
            judged = self.judgements
            arrays += [judged.anchors[own], judged.candidates[own], judged.targets[own]]
        elif isinstance(labels, Ragged):
            labels = labels.select(ids)
            arrays += [labels.values, labels.offsets]
        elif labels is not None:
            arrays.append(labels[ids])
        for array in arrays:
            state.update(array.contiguous().numpy().tobytes())
        return state.hexdigest()[:32]


def check_names(names: Iterable[str]) -> None:
    """Refuse names of data sets that cannot stand between the slashes of names of metrics and splits.

    Raises:
        DataError: names one, and what to call it.
    """
    for name in names:
        if not name or "/" in name:
            raise DataError(
                f"mixture= has a data set called {name!r}: its metrics are called val/NAME/METRIC; give it "
                f"a name without slashes, such as {name.strip('/').replace('/', '_') or 'first'!r}"
            )


def union(parts: Mapping[str, Dataset], folder: str | None = None) -> Dataset:
    """Lay data sets end to end; across them nothing is known.

    Args:
        parts: by name; all of texts or all of sets.
        folder: where texts beyond 64 MB go; see :class:`~lit_metric.data.texts.TextWriter`.

    Returns:
        The whole. A split ``NAME/SPLIT`` for each split of a part, and the splits of all parts together;
        ``train_corpus``, if any part has one, holds what training items are compared with.

    Raises:
        DataError: when some items are texts and others are sets.
    """
    kinds = {name: part.items.kind for name, part in parts.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise DataError(f"one encoder takes texts or sets, but the data sets of the mixture are {found}")
    items, vocabulary = _union_of_items([*parts.values()], folder)
    relations = UnionRelations([part.relations for part in parts.values()])
    splits: dict[str, Tensor] = {}
    for (name, part), start in zip(parts.items(), relations.offsets.tolist(), strict=False):
        splits |= {f"{name}/{split}": ids + start for split, ids in part.splits.items()}
    if any(part.corpus_of("train") for part in parts.values()):
        corpora = [f"{name}/{part.corpus_of('train') or 'train'}" for name, part in parts.items()]
        splits["train_corpus"] = torch.cat([splits[name] for name in corpora if name in splits])
    for split in SPLITS:
        own = [splits[f"{name}/{split}"] for name in parts if f"{name}/{split}" in splits]
        if own:
            splits[split] = torch.cat(own)
    places, counts = _rows(parts)
    return Dataset(
        items,
        vocabulary,
        relations,
        splits,
        parts=dict(parts),
        held_out=any(part.held_out for part in parts.values()),
        rows=places,
        row_counts=counts,
    )


def _rows(parts: Mapping[str, Dataset]) -> tuple[Tensor, dict[str, int]]:
    """The rows of all items, and of each split, as if its sources were one after the other."""
    rows = [
        torch.full([len(part.items)], -1) if part.rows is None else part.rows.clone()
        for part in parts.values()
    ]
    counts: dict[str, int] = {}
    for split in SPLITS:
        own = [(part, each) for part, each in zip(parts.values(), rows, strict=True) if split in part.splits]
        if not own or any(split not in part.row_counts for part, _ in own):
            continue
        counts[split] = 0
        for part, each in own:
            each[part.splits[split]] += counts[split]
            counts[split] += part.row_counts[split]
    return torch.cat(rows), counts


def _union_of_items(parts: Sequence[Dataset], folder: str | None) -> tuple[Items, Vocabulary]:
    """The items of all parts, with one vocabulary."""
    kind = parts[0].items.kind
    keys: list[str] | None = None
    if any(part.items.keys is not None for part in parts):
        keys = [key for part in parts for key in part.items.keys or [""] * len(part.items)]
        keys = keys if any(keys) else None
    if kind == "text" and (roles := _item_roles(parts)) is not None:
        starts = np.cumsum([0, *(len(part.vocabulary) for part in parts)]).tolist()
        texts = Texts.joined(_as_texts(part.vocabulary.texts) for part in parts)
        places = [part.items.texts.values.numpy() + at for part, at in zip(parts, starts, strict=False)]
        return Items.of_texts(texts, np.concatenate(places), keys, *roles, folder=folder)
    sets = TextSets.joined([_as_sets(part) for part in parts], folder)
    if all(part.items.roles is None for part in parts):
        return Items.encode(sets, kind, keys, folder=folder)
    names = [name for part in parts for name in _names(part.items)]
    return Items.encode(sets, kind, keys, roles=names, weights=sets.weight_rows())


def _as_texts(texts: Sequence[str]) -> Texts:
    return texts if isinstance(texts, Texts) else Texts.of(texts)


def _as_sets(part: Dataset) -> TextSets:
    """The texts of all items, with the roles of texts and the weights."""
    items, vocabulary = part.items, part.vocabulary
    return TextSets(
        vocabulary.texts,
        items.texts.values.numpy().astype(np.int32),
        items.texts.offsets.numpy(),
        None if vocabulary.roles is None else _names(vocabulary),
        None if items.weights is None else items.weights.numpy(),
    )


def _item_roles(parts: Sequence[Dataset]) -> tuple[npt.NDArray[np.int8] | None, list[str]] | None:
    """``[N]`` int8 a role for each item, and the roles' names; no array if no text has a role. None if texts
    have roles, and items don't."""
    if all(part.vocabulary.roles is None for part in parts):
        return None, []
    if all(part.items.roles is None for part in parts):
        return None
    names = [*dict.fromkeys(name for part in parts for name in part.items.role_names or [""])]
    numbers = []
    for part in parts:
        roles = part.items.roles
        if roles is None:
            roles = torch.zeros(len(part.items), dtype=torch.int8)
        numbers.append(numbers_of(part.items.role_names or [""], names)[roles.long()])
    return torch.cat(numbers).numpy(), names


def _names(part: Items | Vocabulary) -> list[str]:
    """The role of each item or text, ``""`` where there are none."""
    if part.roles is None:
        return [""] * len(part)
    return [part.role_names[number] for number in part.roles.tolist()]
