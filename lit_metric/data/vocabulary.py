"""Distinct texts, numbered once for the whole data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The distinct texts of a data set; a text's number is its place in ``texts``.

    Args:
        texts: distinct texts, without prompt, each encodable as UTF-8. Use :meth:`encode` to build it.

    Example:
        >>> vocabulary, rows = Vocabulary.encode([["red", "round"], ["round"], []])
        >>> vocabulary.texts, rows.tolist()
        (['red', 'round'], [[0, 1], [1], []])
    """

    texts: list[str]

    @classmethod
    def encode(cls, rows: Sequence[Sequence[str]]) -> tuple[Vocabulary, Ragged]:
        """Number the distinct texts of ``rows`` by first appearance.

        Args:
            rows: the texts of each item; an item may have none.

        Returns:
            The vocabulary, and the rows as vocabulary ids, in the same order.

        Raises:
            TypeError: when something among the texts is not a string.
            DataError: when a text holds a lone surrogate, which no tokenizer can read.
        """
        numbers: dict[str, int] = {}
        ids: list[int] = []
        for row, texts in enumerate(rows):
            if isinstance(texts, str):
                raise TypeError(
                    f"item {row} is the string {texts!r:.60}; give a list of texts, such as [text]"
                )
            for text in texts:
                if not isinstance(text, str):
                    raise TypeError(
                        f"item {row} holds {text!r:.60}, a {type(text).__name__}; texts are strings"
                    )
                ids.append(numbers.setdefault(text, len(numbers)))
        vocabulary = cls(list(numbers))
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
        """Hexadecimal SHA-256 of all texts in order, each preceded by its length in bytes."""
        state = hashlib.sha256()
        for text in self.texts:
            data = text.encode()
            state.update(len(data).to_bytes(8, "little"))
            state.update(data)
        return state.hexdigest()


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
