"""Distinct texts, numbered once for the whole data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The distinct texts of a data set; a text's number is its place in ``texts``.

    Where texts play roles (query, document, title, ...), each with its own prompt and maximal length, the
    same text in two roles is two entries.

    Args:
        texts: distinct texts, without prompt, each encodable as UTF-8. Use :meth:`encode` to build it.
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

    texts: list[str]
    roles: Tensor | None = None
    role_names: list[str] = field(default_factory=list)

    @classmethod
    def encode(
        cls, rows: Sequence[Sequence[str]], roles: Sequence[Sequence[str]] | None = None
    ) -> tuple[Vocabulary, Ragged]:
        """Number the distinct texts of ``rows`` by first appearance.

        Args:
            rows: the texts of each item; an item may have none.
            roles: for each item, a list with a role for each of its texts; None if there are no roles.

        Returns:
            The vocabulary, and the rows as vocabulary ids, in the same order.

        Raises:
            TypeError: when something among the texts is not a string.
            DataError: when a text holds a lone surrogate, which no tokenizer can read.
            ValueError: when there are more or fewer roles than texts.
        """
        numbers: dict[tuple[str, str], int] = {}
        ids: list[int] = []
        for row, texts in enumerate(rows):
            if isinstance(texts, str):
                raise TypeError(
                    f"item {row} is the string {texts!r:.60}; give a list of texts, such as [text]"
                )
            names = [""] * len(texts) if roles is None else roles[row]
            for text, name in zip(texts, names, strict=True):
                if not isinstance(text, str):
                    raise TypeError(
                        f"item {row} holds {text!r:.60}, a {type(text).__name__}; texts are strings"
                    )
                ids.append(numbers.setdefault((name, text), len(numbers)))
        vocabulary = cls([text for _, text in numbers])
        if roles is not None:
            role_names = list(dict.fromkeys(name for name, _ in numbers))
            vocabulary = cls(
                vocabulary.texts, numbers_of([name for name, _ in numbers], role_names), role_names
            )
        vocabulary._refuse_surrogates(rows)
        lengths = torch.tensor([len(texts) for texts in rows], dtype=torch.int64)
        return vocabulary, Ragged.from_lengths(torch.tensor(ids, dtype=torch.int64), lengths)

    def _refuse_surrogates(self, rows: Sequence[Sequence[str]]) -> None:
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
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in self.texts)
        return torch.from_numpy(np.frombuffer(digests, dtype="<i8").astype(np.int64))

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
    """The place of the first lone surrogate in ``text``, or None.

    Example:
        >>> surrogate_at("fine"), surrogate_at("bro" + chr(0xD800))
        (None, 3)
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
