"""Items, which are a text each or a set of texts each, and the vocabulary of their texts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.text_sets import BLOCK, TextSets, taken
from lit_metric.data.texts import Integers, Texts, distinct

Kind = Literal["text", "set"]

QUERY = "query"
"""The role that the first of two towers encodes. Among the roles of items it always has the number 0."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The distinct texts of a data set; a text's number is its place in ``texts``.

    Roles (query, document, title, ...) may have prompts and maximal lengths of their own, so the same text in
    two roles is two entries.

    Args:
        texts: distinct texts, without prompt, each encodable as UTF-8. :meth:`encode` builds them. A list,
            or :class:`~lit_metric.data.Texts`, which may be on disk.
        roles: ``[V]`` int8, the number in ``role_names`` of each text's role, or None where they have none.
        role_names: the roles' names.

    Example:
        >>> vocabulary, rows = Vocabulary.encode([["red", "round"], ["round"], []])
        >>> vocabulary.texts, rows.tolist()
        (['red', 'round'], [[0, 1], [1], []])
        >>> vocabulary, rows = Vocabulary.encode([["red"], ["red"]], [["query"], ["document"]])
        >>> vocabulary.texts, vocabulary.roles.tolist(), rows.tolist()
        (['red', 'red'], [0, 1], [[0], [1]])
    """

    texts: Sequence[str]
    roles: Tensor | None = None
    role_names: list[str] = field(default_factory=list)

    @classmethod
    def encode(
        cls,
        rows: Sequence[Sequence[str]],
        roles: Sequence[Sequence[str]] | None = None,
        folder: str | Path | None = None,
    ) -> tuple[Vocabulary, Ragged]:
        """Number the distinct texts of ``rows`` by first appearance.

        Args:
            rows: the texts of each item; an item may have none. A list, or
                :class:`~lit_metric.data.text_sets.TextSets`, which may have roles themselves.
            roles: for each item, a list with a role for each of its texts; None if there are no others.
            folder: where texts beyond 64 MB go that are :class:`~lit_metric.data.Texts`.

        Returns:
            The vocabulary, and the rows as vocabulary ids, in the same order.

        Raises:
            TypeError: when something among the texts is not a string.
            DataError: when a text holds a lone surrogate, which no tokenizer can read.
            ValueError: when there are more or fewer roles than texts.
        """
        sets = rows
        if roles is not None or not isinstance(sets, TextSets):
            sets = TextSets.of(rows, roles, repeats=True)
        used, found = sets.numbered()
        names = sets.names
        texts = names.select(used, folder) if isinstance(names, Texts) else taken(names, used)
        vocabulary = cls(texts)
        if sets.roles is not None:
            of_texts = taken(sets.roles, used)
            role_names = list(dict.fromkeys(of_texts))
            vocabulary = cls(texts, numbers_of(of_texts, role_names), role_names)
        vocabulary._refuse_surrogates(rows)
        return vocabulary, Ragged(torch.from_numpy(found), torch.from_numpy(sets.offsets))

    def _refuse_surrogates(self, rows: Sequence[Sequence[str]]) -> None:
        if isinstance(self.texts, Texts):
            return  # it can't hold any
        broken = {text for text in self.texts if surrogate_at(text) is not None}
        if not broken:
            return
        places = [(row, text) for row, texts in enumerate(rows) for text in texts if text in broken]
        row, text = places[0]
        place = surrogate_at(text)
        assert place is not None
        raise DataError(
            f"{len(places)} texts hold a lone surrogate, half of a character; the first is "
            f"U+{ord(text[place]):04X} at character {place} of item {row}. Repair them, for instance by "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        )

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def fingerprints(self) -> Tensor:
        """``[V]`` int64, 64 bits of BLAKE2b of each text's UTF-8 bytes."""
        texts = self.texts if isinstance(self.texts, Texts) else Texts.of(self.texts)
        return torch.from_numpy(texts.fingerprints())

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of all texts in order, each preceded by its length in bytes, and of their roles
        if they have any."""
        state = hashlib.sha256()
        for text in self.texts:
            data = text.encode()
            state.update(len(data).to_bytes(8, "little"))
            state.update(data)
        if self.roles is not None:
            state.update(self.roles.numpy().tobytes())
            state.update(json.dumps(self.role_names).encode())
        return state.hexdigest()


def numbers_of(roles: Sequence[str], names: list[str]) -> Tensor:
    """``[n]`` int8, the place in ``names`` of each of ``roles``.

    Raises:
        TypeError: when a role is not a string.
        DataError: when there are more than 127 names.

    Example:
        >>> numbers_of(["title", "cast", "title"], ["title", "cast"]).tolist()
        [0, 1, 0]
    """
    for place, role in enumerate(roles):
        if not isinstance(role, str):
            raise TypeError(f"role {place} is {role!r:.60}, a {type(role).__name__}; roles are strings")
    if len(names) > torch.iinfo(torch.int8).max:
        raise DataError(f"there are {len(names)} roles ({', '.join(names[:3])}, ...); 127 is the most")
    places = {name: number for number, name in enumerate(names)}
    return torch.tensor([places[role] for role in roles], dtype=torch.int8)


def surrogate_at(text: str) -> int | None:
    """The position of the first lone surrogate in ``text``, or None.

    Example:
        >>> surrogate_at("fine"), surrogate_at("bro" + chr(0xD800))
        (None, 3)
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


@dataclass(frozen=True, eq=False)
class Items:
    """All items of a data set, of all splits. An item's global id is its place here.

    Args:
        texts: ``[N]`` rows of vocabulary ids; one per item of kind ``"text"``, any number for a ``"set"``.
        kind: what an item is.
        fingerprints: ``[N]`` int64, equal for items of equal content: the same text, or the same set of texts
            in any order. Prompts, roles and weights make no difference.
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
    keys: Sequence[str] | None = None
    roles: Tensor | None = None
    role_names: list[str] = field(default_factory=list)
    weights: Tensor | None = None

    @classmethod
    def encode(
        cls,
        rows: Sequence[Sequence[str]],
        kind: Kind = "text",
        keys: Sequence[str] | None = None,
        roles: Sequence[str] | Sequence[Sequence[str]] | None = None,
        weights: Sequence[Sequence[float]] | None = None,
        folder: str | Path | None = None,
    ) -> tuple[Items, Vocabulary]:
        """Number the distinct texts of ``rows`` and take each row's fingerprint.

        Args:
            rows: the texts of each item. Repeats within a set, in the same role, are dropped.
                :class:`~lit_metric.data.text_sets.TextSets` may have roles and weights themselves.
            kind: ``"text"`` or ``"set"``.
            keys: names of the items, or None.
            roles: one role for each item, which its texts have, too. Or for each item a list with a role for
                each of its texts; the items then have no roles.
            weights: for each item a list with a weight > 0 for each of its texts, for kind ``"set"``.
                Repeated texts keep their largest weight.
            folder: as in :meth:`Vocabulary.encode`.

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
        if kind == "set" and not (isinstance(rows, TextSets) and of_texts is None and weights is None):
            rows, of_texts = TextSets.of(rows, of_texts, weights), None
        vocabulary, texts = Vocabulary.encode(rows, of_texts, folder)
        of_sets = rows.weights if isinstance(rows, TextSets) else None
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
            None if of_sets is None else torch.from_numpy(of_sets),
        )
        return items, vocabulary

    @classmethod
    def of_texts(
        cls,
        texts: Texts,
        places: Integers | None = None,
        keys: Sequence[str] | None = None,
        roles: npt.NDArray[np.int8] | None = None,
        role_names: Sequence[str] = (),
        fingerprints: Integers | None = None,
        folder: str | Path | None = None,
    ) -> tuple[Items, Vocabulary]:
        """The same as :meth:`encode` for items of one text each, without a Python object for each.

        Args:
            texts: of all items.
            places: ``[n]`` in ``texts``, the text of each item; all in their order if None.
            keys: names of the items, or None.
            roles: ``[n]`` a place in ``role_names`` for each item, or None.
            role_names: names of roles, in any order.
            fingerprints: of ``texts``, if they are known already.
            folder: where texts beyond 64 MB go; see :class:`~lit_metric.data.texts.TextWriter`.

        Example:
            >>> items, vocabulary = Items.of_texts(Texts.of(["red", "round", "red"]))
            >>> items.texts.tolist(), list(vocabulary.texts)
            ([[0], [1], [0]], ['red', 'round'])
        """
        places = np.arange(len(texts)) if places is None else places
        known = texts.fingerprints() if fingerprints is None else fingerprints
        first, numbers = distinct(texts, known, places, *(() if roles is None else (roles,)))
        own = texts.select(places[first], folder)
        vocabulary, of_items, names = Vocabulary(own), None, [QUERY]
        if roles is not None:
            # Names by first appearance, those of items with that of queries before.
            used = [int(number) for number in dict.fromkeys(roles[first].tolist())]
            names = list(dict.fromkeys([QUERY, *(role_names[number] for number in used)]))
            of_texts, of_roles = np.zeros((2, len(role_names)), dtype=np.int8)
            of_texts[used] = np.arange(len(used))
            of_roles[used] = [names.index(role_names[number]) for number in used]
            vocabulary = Vocabulary(
                own, torch.from_numpy(of_texts[roles[first]]), [role_names[number] for number in used]
            )
            of_items = torch.from_numpy(of_roles[roles])
        items = cls(
            Ragged(torch.from_numpy(numbers), torch.arange(len(numbers) + 1)),
            "text",
            torch.from_numpy(known[places]),
            keys,
            of_items,
            [] if roles is None else names,
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
        """A role for each item, or None; and for each item a role for each of its texts, or None."""
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
        digests = bytearray()
        for start in range(0, len(texts), BLOCK):
            some = texts.select(torch.arange(start, min(start + BLOCK, len(texts))))
            for row in Ragged(of_texts[some.values], some.offsets).tolist():
                content = np.array(sorted(set(row)), dtype="<i8").tobytes()
                digests += hashlib.blake2b(content, digest_size=8).digest()
        return torch.from_numpy(np.frombuffer(digests, dtype="<i8").astype(np.int64))
