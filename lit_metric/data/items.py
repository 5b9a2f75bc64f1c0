"""Items: a text each, or a set of texts each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.vocabulary import Vocabulary

Kind = Literal["text", "set"]


@dataclass(frozen=True, eq=False)
class Items:
    """All items of a data set, whatever their split; an item's global id is its place here.

    Args:
        texts: ``[N]`` rows of vocabulary ids; one per item of kind ``"text"``, any number for a ``"set"``.
        kind: what an item is.
        fingerprints: ``[N]`` int64, equal for items of equal content: the same text, or the same set of texts
            in any order. Taken from the raw texts, without any prompt.
        keys: ``[N]`` names to show to people, or None.

    Example:
        >>> items, vocabulary = Items.encode([["red", "round"], ["round", "red"], ["red"]], kind="set")
        >>> items.texts.tolist(), (items.fingerprints[0] == items.fingerprints).tolist()
        ([[0, 1], [1, 0], [0]], [True, True, False])
    """

    texts: Ragged
    kind: Kind
    fingerprints: Tensor
    keys: list[str] | None = None

    @classmethod
    def encode(
        cls, rows: Sequence[Sequence[str]], kind: Kind = "text", keys: list[str] | None = None
    ) -> tuple[Items, Vocabulary]:
        """Number the distinct texts of ``rows`` and take each row's fingerprint.

        Args:
            rows: the texts of each item. Repeats within a set are dropped.
            kind: ``"text"`` or ``"set"``.
            keys: names of the items, or None.

        Raises:
            DataError: when an item of kind ``"text"`` does not have exactly one text, when there are more or
                fewer ``keys`` than ``rows``, or when a text is no valid Unicode.
            TypeError: when something among the texts is not a string.
        """
        if kind not in ("text", "set"):
            raise ValueError(f"kind must be 'text' or 'set', not {kind!r}")
        if keys is not None and len(keys) != len(rows):
            raise DataError(f"{len(keys)} keys were given for {len(rows)} items")
        if kind == "set":
            rows = [row if isinstance(row, str) else list(dict.fromkeys(row)) for row in rows]
        vocabulary, texts = Vocabulary.encode(rows)
        if kind == "text" and not bool((texts.lengths == 1).all()):
            row = int((texts.lengths != 1).nonzero()[0])
            raise DataError(
                f"item {row} has {int(texts.lengths[row])} texts; an item of kind 'text' has exactly one. "
                "Use kind='set' for items described by several texts"
            )
        return cls(texts, kind, fingerprints_of(texts, vocabulary, kind), keys), vocabulary

    def __len__(self) -> int:
        return len(self.texts)


def fingerprints_of(texts: Ragged, vocabulary: Vocabulary, kind: Kind) -> Tensor:
    """``[N]`` int64 content fingerprints of items whose ``texts`` are ids into ``vocabulary``.

    A text's is 64 bits of BLAKE2b of its bytes; a set's is that of its members' sorted distinct fingerprints,
    so that neither order, repetition nor the numbering of the vocabulary matters.
    """
    of_texts = vocabulary.fingerprints
    if kind == "text":
        return of_texts[texts.values]
    members = [sorted(set(row)) for row in Ragged(of_texts[texts.values], texts.offsets).tolist()]
    hashed = (hashlib.blake2b(np.array(row, dtype="<i8").tobytes(), digest_size=8) for row in members)
    digests = b"".join(state.digest() for state in hashed)
    return torch.from_numpy(np.frombuffer(digests, dtype="<i8").astype(np.int64))


def concatenate(
    splits: Mapping[str, Sequence[Sequence[str]]],
) -> tuple[list[Sequence[str]], dict[str, Tensor]]:
    """Lay the rows of several splits end to end, in one space of global ids.

    Returns:
        All rows, and for each split the int64 ids of its rows.

    Example:
        >>> rows, splits = concatenate({"train": [["a"], ["b"]], "test": [["c"]]})
        >>> rows, splits["test"].tolist()
        ([['a'], ['b'], ['c']], [2])
    """
    rows: list[Sequence[str]] = []
    ids: dict[str, Tensor] = {}
    for name, split in splits.items():
        ids[name] = torch.arange(len(rows), len(rows) + len(split))
        rows.extend(split)
    return rows, ids
