"""Texts with excerpts of themselves: pairs that have a direction, made of a column of texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lit_metric.data.dataset import Dataset
from lit_metric.data.formats.base import AUTO, TEXT_NAMES, ReadItems, ReadOptions, Supervision
from lit_metric.data.formats.pairs import Pairs
from lit_metric.data.table import Part, Table

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def excerpt_of(text: str, seed: int = 0) -> str:
    """A part of a text: one of its sentences, or one half of its words if it has a single sentence.

    The choice depends on the text and the seed alone. A text of one word is its own excerpt.

    Example:
        >>> excerpt_of("It rains. We stay at home."), excerpt_of("one two three four")
        ('We stay at home.', 'one two')
    """
    number = int.from_bytes(hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest(), "big")
    sentences = [each for each in _SENTENCE_END.split(text.strip()) if each]
    if len(sentences) > 1:
        return sentences[number % len(sentences)]
    words = text.split()
    half = len(words) // 2
    return " ".join(words[:half] if number % 2 and half else words[half:])


@dataclass(eq=False)
class Excerpts(Supervision):
    """Each text with an excerpt of itself: the excerpt is the anchor, and belongs to its source.

    For "is a part of", which has a direction: see :class:`~lit_metric.losses.NormRatioLoss`. Excerpts have
    the role ``"query"``, texts the role ``"document"``. Excerpts are made by :func:`excerpt_of`.

    Args:
        text: the column of texts; a usual name if None.
        split: as of :class:`Pairs`.
        seed: decides which sentence of a text is taken.
    """

    text: str | None = None
    split: str | None = AUTO
    seed: int = 0

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        """See :meth:`Supervision.read`."""
        first = next(iter(tables.values()))
        text = first.named(self.text, TEXT_NAMES, "text", "texts")
        made = {
            name: table if name == "predict" else self.with_excerpts(table, text)
            for name, table in tables.items()
        }
        excerpt = _column(text)
        pairs = Pairs(excerpt, text, split=self.split, symmetric=False)
        return pairs.read(made, reading)

    def items_to_encode(self, table: Table, other: Table | None = None) -> ReadItems | None:
        """See :meth:`Supervision.items_to_encode`."""
        return Pairs(self.text, symmetric=False).items_to_encode(table, other)

    def with_excerpts(self, table: Table, text: str) -> Table:
        """The table with one more column, of excerpts of the column ``text``."""
        return Table([self._part(part, text) for part in table.parts])

    def _part(self, part: Part, text: str) -> Part:
        name = _column(text)

        def load(column: str) -> list[Any]:
            if column != name:
                return part.load(column)
            # What is wrong with a text is reported in its own column.
            return [excerpt_of(each, self.seed) if isinstance(each, str) else "-" for each in part.load(text)]

        return replace(part, columns=[*part.columns, name], load=load, cut=None)


def _column(text: str) -> str:
    return f"excerpt of {text}"
