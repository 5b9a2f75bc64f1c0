"""Pairs in which both texts have a counterpart: the edit that made one is carried over to the other."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from lit_metric.data.dataset import Dataset
from lit_metric.data.errors import DataError
from lit_metric.data.formats.base import AUTO, ReadOptions, guess_split, split_named
from lit_metric.data.formats.pairs import Pairs
from lit_metric.data.table import Part, Table

log = logging.getLogger(__name__)

_WORD = re.compile(r"\w+(?:['’]\w+)?")


def transfer_edit(text: str, edited: str, other: str) -> str | None:
    """Make the same edit in another text: ``text`` became ``edited``, and ``other`` says what ``text`` says.

    The words that were replaced or left out are looked up in ``other``, whatever their case. A word that was
    added goes with the word behind it, or before it at the end.

    Args:
        text: before the edit.
        edited: after it.
        other: a text with the same meaning as ``text``.

    Returns:
        None if a replaced word isn't in ``other``, or nothing changes.

    Example:
        >>> transfer_edit("A dog chases a cat.", "A cat chases a dog.", "The cat is chased by the dog.")
        'The dog is chased by the cat.'
        >>> transfer_edit("a red bus", "a big red bus", "The bus that is red")
        'The bus that is big red'
        >>> transfer_edit("a red bus", "a blue bus", "a scarlet coach") is None
        True
    """
    before, after = _WORD.findall(text), _WORD.findall(edited)
    found = list(_WORD.finditer(other))
    words = [match[0].lower() for match in found]
    changes: list[tuple[int, int, str]] = []  # from and to which character of ``other``, and by what
    taken: set[int] = set()
    for start, stop, replacement in _replacements(before, after):
        wanted = [word.lower() for word in before[start:stop]]
        places = range(len(words) - len(wanted) + 1)
        free = [
            place
            for place in places
            if words[place : place + len(wanted)] == wanted
            and not taken & {*range(place, place + len(wanted))}
        ]
        if not free:
            return None
        taken |= {*range(free[0], free[0] + len(wanted))}
        begin, end = found[free[0]].start(), found[free[0] + len(wanted) - 1].end()
        changes.append((begin, end, _cased(replacement, before[start], other[begin:end])))
    made = other
    for begin, end, replacement in sorted(changes, reverse=True):
        made = made[:begin] + replacement + made[end:]
    made = re.sub(r"\s+", " ", made).strip()
    return None if not changes or _same(made, other) else made


def _replacements(before: list[str], after: list[str]) -> list[tuple[int, int, str]]:
    """Which words of ``before`` become what; each span replaces at least one word."""
    own, others = ([word.lower() for word in words] for words in (before, after))
    codes = difflib.SequenceMatcher(None, own, others, False).get_opcodes()
    changed = sum(
        max(stop - start, last - first) for kind, start, stop, first, last in codes if kind != "equal"
    )
    if len(own) == len(others):  # word by word, where two have changed places
        differs = [one != other for one, other in zip(own, others, strict=True)]
        if sum(differs) <= changed:
            groups = [(differ, [*group]) for differ, group in groupby(range(len(own)), differs.__getitem__)]
            ends = [(places[0], places[-1] + 1) for differ, places in groups if differ]
            return [(start, stop, " ".join(after[start:stop])) for start, stop in ends]
    spans = []
    for kind, start, stop, first, last in codes:
        if kind == "insert" and start < len(before):  # with the word behind it
            spans.append((start, stop + 1, " ".join([*after[first:last], before[start]])))
        elif kind == "insert" and start:
            spans.append((start - 1, stop, " ".join([before[start - 1], *after[first:last]])))
        elif kind in ("replace", "delete"):
            spans.append((start, stop, " ".join(after[first:last])))
    return spans


def _cased(words: str, before: str, replaced: str) -> str:
    """``words`` with the capital that the ``replaced`` ones have, or without one that ``before`` had and they
    don't, as at the beginning of a sentence."""
    if replaced[:1].isupper():
        return words[:1].upper() + words[1:]
    return words[:1].lower() + words[1:] if before[:1].isupper() else words


def _same(first: str, second: str) -> bool:
    return first.lower().split() == second.lower().split()


@dataclass(eq=False)
class CounterpartPairs(Pairs):
    """Pairs with a minimally edited negative, in which both texts get a counterpart.

    A row has an anchor x, a text y that means the same, and a negative x' that was made of x by a small edit.
    The same edit makes y' of y (:func:`transfer_edit`). Then x is paired with y and has the negative y'; and
    x' is paired with y', and has the negative y, in a row that is added to the training table. Rows in which
    the edited words are not in y stay as they are, and a line of the log counts the others. Validation and
    test rows stay as they are, too, unless a share of the training table is held out for validation. With a
    loss in both directions this is TripletCLIP on texts::

        model:
          loss:
            class_path: lit_metric.losses.SymmetricLoss
            init_args: {loss: {class_path: lit_metric.losses.InfoNCELoss}}
        data:
          supervision:
            class_path: lit_metric.data.CounterpartPairs
            init_args: {anchor: caption, positive: caption2, negative: negative}
          planner: {class_path: lit_metric.batching.PairPlanner, init_args: {negatives: 1}}

    Source: Patel et al., "TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic
    Vision-Language Negatives", NeurIPS 2024 (arXiv 2411.02545), where both counterparts are generated.

    Args:
        anchor, positive, negative, group, split, in_batch_negatives, symmetric, positive_from: as of
            :class:`Pairs`; ``negative`` is one column.
        score: not possible.

    Raises:
        DataError: when there is no column of negatives, or there are several, or a score is given.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score or isinstance(self.negative, list):
            raise DataError("CounterpartPairs takes one column of negatives, negative=, and no score")

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        """See :meth:`Pairs.read`."""
        if "train" in tables:
            column = self.split
            if column == AUTO:
                column, _ = guess_split(tables)
            tables = {**tables, "train": self.with_counterparts(tables["train"], column)}
        return super().read(tables, reading)

    def with_counterparts(self, table: Table, split: str | None = None) -> Table:
        """The training table with the counterparts of its rows.

        Args:
            table: the training table.
            split: its column that names the splits; rows of others than ``train`` stay as they are.

        Raises:
            DataError: when there is not one column of negatives.
        """
        chosen, _ = self._choose_columns(table)
        if len(chosen["negative"]) != 1:
            raise DataError(
                f"CounterpartPairs needs one column of negatives: name it with negative=. {table.layout}"
            )
        names = chosen["anchor"], chosen["positive"], chosen["negative"][0]
        parts: list[Part] = []
        added: dict[str, list[Any]] = {name: [] for name in table.columns}
        count = 0
        for part in table.parts:
            rows = [*zip(*(part.load(name) for name in names), strict=True)]
            named = part.load(split) if split in table.columns else ["train"] * len(rows)
            trained = [split_named(value) == "train" for value in named]
            made = [
                transfer_edit(x, edited, y)
                if train and all(isinstance(each, str) and each.strip() for each in (x, y, edited))
                else None
                for (x, y, edited), train in zip(rows, trained, strict=True)
            ]
            count += sum(trained)
            kept = [
                number
                for number, text in enumerate(made)
                if text is not None and not any(_same(text, each) for each in rows[number])
            ]
            negatives = [edited for _, _, edited in rows]
            for number in kept:
                negatives[number] = made[number]
            parts.append(_with_column(part, names[2], negatives))
            values = {name: part.load(name) for name in table.columns if name not in names}
            for name in table.columns:
                if name in values:
                    added[name] += [values[name][number] for number in kept]
            added[names[0]] += [rows[number][2] for number in kept]
            added[names[1]] += [made[number] for number in kept]
            added[names[2]] += [rows[number][1] for number in kept]
        found = len(added[names[0]])
        log.info("%s: %d of %d training rows have a counterpart", table.name, found, count)
        if found:
            more = Part(f"counterparts of {table.name}", found, table.columns, added.__getitem__)
            parts.append(more)
        return Table(parts)


def _with_column(part: Part, name: str, values: list[Any]) -> Part:
    """A part with other values in one column."""

    def load(column: str) -> list[Any]:
        return values if column == name else part.load(column)

    return replace(part, load=load, cut=None)
