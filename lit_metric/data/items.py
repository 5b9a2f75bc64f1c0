"""Items: a text each, or a set of texts each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.vocabulary import Vocabulary, numbers_of

Kind = Literal["text", "set"]

QUERY = "query"
"""The role that the first of two towers encodes; as a role of items it has the number 0, used or not."""


@dataclass(frozen=True, eq=False)
class Items:
    """All items of a data set, whatever their split; an item's global id is its place here.

    Args:
        texts: ``[N]`` rows of vocabulary ids; one per item of kind ``"text"``, any number for a ``"set"``.
        kind: what an item is.
        fingerprints: ``[N]`` int64, equal for items of equal content: the same text, or the same set of texts
            in any order. Taken from the raw texts, without any prompt, role or weight.
        keys: ``[N]`` names to show to people, or None.
        roles: ``[N]`` int8, the number in ``role_names`` of each item's role, or None where items have none.
        role_names: names of the roles of items, ``"query"`` first.
        weights: ``[total]`` float32 > 0, how much each of the texts counts in its item, or None.

    Example:
        >>> items, vocabulary = Items.encode([["red", "round"], ["round", "red"], ["red"]], kind="set")
        >>> items.texts.tolist(), (items.fingerprints[0] == items.fingerprints).tolist()
        ([[0, 1], [1, 0], [0]], [True, True, False])
    """

    texts: Ragged
    kind: Kind
    fingerprints: Tensor
    keys: list[str] | None = None
    roles: Tensor | None = None
    role_names: list[str] = field(default_factory=list)
    weights: Tensor | None = None

    @classmethod
    def encode(
        cls,
        rows: Sequence[Sequence[str]],
        kind: Kind = "text",
        keys: list[str] | None = None,
        roles: Sequence[str] | Sequence[Sequence[str]] | None = None,
        weights: Sequence[Sequence[float]] | None = None,
    ) -> tuple[Items, Vocabulary]:
        """Number the distinct texts of ``rows`` and take each row's fingerprint.

        Args:
            rows: the texts of each item. Repeats within a set, in the same role, are dropped.
            kind: ``"text"`` or ``"set"``.
            keys: names of the items, or None.
            roles: one role for each item, which all its texts have too; or for each item a list with a role
                for each of its texts, and items then have none.
            weights: for each item a list with a weight > 0 for each of its texts, for kind ``"set"``; of
                repeats the largest is kept.

        Raises:
            DataError: when an item of kind ``"text"`` does not have exactly one text, when there are more or
                fewer ``keys``, ``roles`` or ``weights`` than ``rows`` or texts, when a weight is not a number
                above 0, or when a text is no valid Unicode.
            TypeError: when something among the texts is not a string.

        Example:
            >>> items, _ = Items.encode([["red"], ["red"]], roles=["document", "query"])
            >>> items.roles.tolist(), items.role_names, items.texts.tolist()
            ([1, 0], ['query', 'document'], [[0], [1]])
        """
        if kind not in ("text", "set"):
            raise ValueError(f"kind must be 'text' or 'set', not {kind!r}")
        if weights is not None and kind != "set":
            raise ValueError("weights say how much each text of a set counts; kind='text' has one text each")
        for name, given in (("keys", keys), ("roles", roles), ("weights", weights)):
            if given is not None and len(given) != len(rows):
                raise DataError(f"{len(given)} {name} were given for {len(rows)} items")
        of_items, of_texts = cls._roles_of(rows, roles)
        if weights is not None:
            cls._check_weights(rows, weights)
        if kind == "set":
            rows, of_texts, weights = without_repeats(rows, of_texts, weights)
        vocabulary, texts = Vocabulary.encode(rows, of_texts)
        if kind == "text" and not bool((texts.lengths == 1).all()):
            row = int((texts.lengths != 1).nonzero()[0])
            raise DataError(
                f"item {row} has {int(texts.lengths[row])} texts; an item of kind 'text' has exactly one. "
                "Use kind='set' for items described by several texts"
            )
        role_names = [] if of_items is None else list(dict.fromkeys([QUERY, *of_items]))
        items = cls(
            texts,
            kind,
            cls._fingerprints(texts, vocabulary, kind),
            keys,
            None if of_items is None else numbers_of(of_items, role_names),
            role_names,
            None
            if weights is None
            else torch.tensor([w for row in weights for w in row], dtype=torch.float32),
        )
        return items, vocabulary

    def __len__(self) -> int:
        return len(self.texts)

    @staticmethod
    def _check_weights(rows: Sequence[Sequence[str]], weights: Sequence[Sequence[float]]) -> None:
        for row, (texts, given) in enumerate(zip(rows, weights, strict=True)):
            if len(texts) != len(given):
                raise DataError(f"item {row} has {len(texts)} texts and {len(given)} weights for them")
            for text, weight in zip(texts, given, strict=True):
                if not (math.isfinite(weight) and weight > 0):
                    raise DataError(
                        f"item {row}: the weight of {text!r:.60} is {weight}; it has to be above 0"
                    )

    @staticmethod
    def _roles_of(
        rows: Sequence[Sequence[str]], roles: Sequence[str] | Sequence[Sequence[str]] | None
    ) -> tuple[list[str] | None, Sequence[Sequence[str]] | None]:
        """One role for each item, or None; and for each item one for each of its texts, or None."""
        if roles is None:
            return None, None
        of_items = [role for role in roles if isinstance(role, str)]
        if len(of_items) == len(rows):
            return of_items, [[role] * len(row) for role, row in zip(of_items, rows, strict=True)]
        for number, (row, given) in enumerate(zip(rows, roles, strict=True)):
            if isinstance(given, str):
                raise TypeError(
                    f"the roles of item {number} are the string {given!r:.60}; give one for each text"
                )
            if len(given) != len(row):
                raise DataError(f"item {number} has {len(row)} texts and {len(given)} roles for them")
        return None, list(roles)

    @staticmethod
    def _fingerprints(texts: Ragged, vocabulary: Vocabulary, kind: Kind) -> Tensor:
        """``[N]`` int64 content fingerprints of items whose ``texts`` are ids into ``vocabulary``.

        That of a text is 64 bits of BLAKE2b of its bytes. That of a set is made of its members' sorted
        distinct fingerprints, so neither order, repetition nor the numbering of the vocabulary matters.
        """
        of_texts = vocabulary.fingerprints
        if kind == "text":
            return of_texts[texts.values]
        members = [sorted(set(row)) for row in Ragged(of_texts[texts.values], texts.offsets).tolist()]
        hashed = (hashlib.blake2b(np.array(row, dtype="<i8").tobytes(), digest_size=8) for row in members)
        digests = b"".join(state.digest() for state in hashed)
        return torch.from_numpy(np.frombuffer(digests, dtype="<i8").astype(np.int64))


def without_repeats(
    rows: Sequence[Sequence[str]],
    roles: Sequence[Sequence[str]] | None,
    weights: Sequence[Sequence[float]] | None,
) -> tuple[Sequence[Sequence[str]], Sequence[Sequence[str]] | None, Sequence[Sequence[float]] | None]:
    """Keep each (role, text) of a row once, where it is first, with the largest of its weights.

    Args:
        rows: the texts of each item.
        roles: for each item, a role for each of its texts, or None.
        weights: for each item, a weight for each of its texts, or None.

    Example:
        >>> without_repeats([["a", "b", "a"]], None, [[1.0, 2.0, 3.0]])
        ([['a', 'b']], None, [[3.0, 2.0]])
    """
    if roles is None and weights is None:
        return [row if isinstance(row, str) else list(dict.fromkeys(row)) for row in rows], None, None
    kept: list[dict[tuple[str, str], float]] = []
    for number, row in enumerate(rows):
        names = [""] * len(row) if roles is None else roles[number]
        largest: dict[tuple[str, str], float] = {}
        for place, pair in enumerate(zip(names, row, strict=True)):
            weight = 1.0 if weights is None else weights[number][place]
            largest[pair] = max(weight, largest.get(pair, 0.0))
        kept.append(largest)
    return (
        [[text for _, text in row] for row in kept],
        None if roles is None else [[role for role, _ in row] for row in kept],
        None if weights is None else [list(row.values()) for row in kept],
    )
