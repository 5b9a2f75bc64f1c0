"""Guess by names and content what the columns of a table are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from lit_metric.data import DataError
from lit_metric.data.errors import listed
from lit_metric.data.formats import columns as cells
from lit_metric.data.formats.base import TEXT_NAMES
from lit_metric.data.formats.labels import LABEL_NAMES, LABELS_NAMES, TAG_NAMES
from lit_metric.data.formats.pairs import NEGATIVE, SCORE_NAMES, usual_pair
from lit_metric.data.table import Table

LOOKED_AT = 20_000
"""Cells of a column by which it is judged."""
SEPARATORS = ("|", ";", ",")
Content = Literal["lists", "numbers", "texts", "nothing"]
PAIRED = ("anchor", "positive", "negative", "score")
SEPARATOR_OPTIONS = {"tags": "tag_separator", "labels": "labels_separator"}


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Args:
        name: of the column.
        values: its first cells, without those that are empty.
        empty: how many of these are empty.
    """

    name: str
    values: Sequence[Any]
    empty: int = 0

    @classmethod
    def of(cls, table: Table, name: str) -> Column:
        """Look at the first cells of a column."""
        seen = table.peek(name, LOOKED_AT)
        values = [value for value in seen if not (cells.missing(value) or value in ("", []))]
        return cls(name, values, len(seen) - len(values))

    @cached_property
    def content(self) -> Content:
        """The kind of most cells."""
        if not self.values:
            return "nothing"
        lists = sum(isinstance(value, list) for value in self.values)
        numbers = sum(cells.number(value)[1] is None for value in self.values if not isinstance(value, list))
        most = 0.9 * len(self.values)
        return "lists" if lists > most else "numbers" if numbers > most else "texts"

    @cached_property
    def distinct(self) -> int:
        """How many different cells there are."""
        return len({repr(value) if isinstance(value, list | dict) else value for value in self.values})

    @cached_property
    def words(self) -> float:
        """The mean number of words in a cell."""
        return sum(len(str(value).split()) for value in self.values) / max(len(self.values), 1)

    @cached_property
    def separator(self) -> str | None:
        """What divides strings into short pieces that come again in other rows; None for other columns."""
        for separator in SEPARATORS if self.content == "texts" else ():
            texts = [value for value in self.values if isinstance(value, str)]
            if 2 * sum(separator in text for text in texts) < len(texts):
                continue
            pieces = [piece.strip() for text in texts for piece in text.split(separator) if piece.strip()]
            words = sum(len(piece.split()) for piece in pieces) / max(len(pieces), 1)
            if words <= 3 and 3 * len({*pieces}) <= 2 * len(pieces):
                return separator
        return None

    @property
    def is_list(self) -> bool:
        """Whether cells hold several short texts each."""
        return self.content == "lists" or self.separator is not None

    @property
    def is_label(self) -> bool:
        """Whether cells name classes: strings or whole numbers that come again."""
        if self.content not in ("texts", "numbers") or self.separator is not None:
            return False
        whole = self.content == "texts" or all(float(value).is_integer() for value in self.numbers)
        return whole and self.words <= 6 and 2 <= self.distinct <= len(self.values) / 2

    @property
    def is_text(self) -> bool:
        """Whether cells are texts that mostly differ."""
        if self.content != "texts" or self.separator is not None or self.is_label:
            return False
        return self.words >= 1.5

    @property
    def numbers(self) -> list[float]:
        """Those cells that are numbers."""
        found = [cells.number(value) for value in self.values]
        return [number for number, problem in found if problem is None]

    @property
    def shape(self) -> str:
        """A few words on the cells."""
        if self.content == "lists" or self.separator:
            return "lists" if self.content == "lists" else f"pieces between {self.separator!r}"
        if self.is_label:
            return f"{self.distinct} different values in {len(self.values):,} rows"
        return f"{self.content}, {self.words:.1f} words each" if self.content == "texts" else self.content


@dataclass(frozen=True)
class Choice:
    """The columns of a table, by the options that name them.

    Args:
        columns: by option, as ``lit-metric init`` has them.
        why: for each option that nobody gave, what speaks for the column.
        separators: what divides the tags or labels of a cell, by option.
        symmetric: of pairs, whether either text could be the other.
        unsure: other readings of the table, each with the options to get it.
    """

    columns: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)
    separators: dict[str, str] = field(default_factory=dict)
    symmetric: bool = True
    unsure: list[str] = field(default_factory=list)

    @property
    def paired(self) -> bool:
        """Whether the rows are pairs."""
        return "anchor" in self.columns

    @property
    def what(self) -> str:
        """The kind of data, in words."""
        if self.paired:
            if "negative" in self.columns:
                return "pairs of texts with negatives"
            return "pairs of texts with a score" if "score" in self.columns else "pairs of texts"
        items = "sets of tags" if "tags" in self.columns else "texts"
        return f"{items} with {'several labels' if 'labels' in self.columns else 'one label'} each"


class ColumnGuesser:
    """Chooses the columns of a table.

    Args:
        table: to look at.
        given: columns by option, ``tag_separator`` and ``labels_separator``; None for what nobody has named.

    Raises:
        DataError: when a named column doesn't exist, or options contradict each other.
    """

    def __init__(self, table: Table, given: dict[str, Any]) -> None:
        self.table = table
        known = {option: value for option, value in given.items() if value is not None}
        self.separators = {
            option: known.pop(name) for option, name in SEPARATOR_OPTIONS.items() if name in known
        }
        self.given = known
        if unknown := [name for name in names_in(known.values()) if name not in table.columns]:
            raise DataError(f"there is no column {listed(unknown)}; {table.layout}")
        self.found = {name: Column.of(table, name) for name in table.columns}
        labelled = [option for option in self.given if option not in PAIRED]
        if labelled and len(labelled) < len(self.given):
            raise DataError(
                f"--{labelled[0]} is of items with labels and --{next(o for o in PAIRED if o in self.given)} "
                "of pairs; give the options of one of the two"
            )

    def choose(self) -> Choice:
        """The columns that were given, and guesses for the others.

        Raises:
            DataError: when no column says what belongs together.
        """
        if any(option in PAIRED for option in self.given):
            return self._pairs(*self._two_texts())
        if self.given:
            return self._labelled()
        usual = usual_pair(self.table)
        if usual is not None:
            return self._pairs(usual[0], usual[1], symmetric=usual[2], why="by its name")
        texts = [name for name, each in self.found.items() if each.is_text]
        labelled = self.table.guess((*LABEL_NAMES, *LABELS_NAMES)) or next(
            (name for name, each in self.found.items() if each.is_label and each.content == "texts"), None
        )
        if len(texts) >= 2 and not labelled and not any(each.is_list for each in self.found.values()):
            choice = self._pairs(texts[0], texts[1])
            if len(texts) > 2 and "negative" not in choice.columns:
                more = listed(texts[2:])
                choice.unsure.append(f"{more} could be texts that don't belong to {texts[0]!r}: --negative")
            return choice
        return self._labelled()

    def _two_texts(self) -> tuple[str, str]:
        """Anchor and positive, where one of them may be given."""
        taken = names_in(self.given.values())
        usual = usual_pair(self.table) or ()
        texts = [*usual[:2], *(name for name, each in self.found.items() if each.is_text)]
        free = [str(name) for name in dict.fromkeys(texts) if name not in taken]
        anchor = self.given.get("anchor") or (free.pop(0) if free else "")
        positive = self.given.get("positive") or (free.pop(0) if free else "")
        if not (anchor and positive):
            raise DataError(
                f"{self.table.layout}: no two columns of texts; name them with --anchor and --positive"
            )
        return anchor, positive

    def _pairs(self, anchor: str, positive: str, symmetric: bool | None = None, why: str = "") -> Choice:
        columns: dict[str, Any] = {"anchor": anchor, "positive": positive}
        reasons = {name: why or self.found[column].shape for name, column in columns.items()}
        others = [name for name in self.found if name not in (anchor, positive)]
        negatives = [name for name in others if NEGATIVE.fullmatch(name.lower())]
        score = next((name for name in others if name.lower() in SCORE_NAMES), None)
        numeric = [name for name in others if self.found[name].content == "numbers"]
        if self.given.get("negative"):
            columns["negative"] = self.given["negative"]
        elif self.given.get("score"):
            columns["score"] = self.given["score"]
        elif negatives:
            columns["negative"] = negatives[0] if len(negatives) == 1 else negatives
            reasons["negative"] = "by its name"
        elif score and self.found[score].content == "numbers":
            columns["score"], reasons["score"] = score, "by its name"
        elif len(numeric) == 1 and self.found[numeric[0]].distinct < len(self.found[numeric[0]].values):
            columns["score"], reasons["score"] = numeric[0], "the only column of numbers"
        if "score" in columns and len({*self.found[columns["score"]].numbers}) == 1:
            del columns["score"]  # all belong together
        if symmetric is None:  # a question and its answer differ in length
            short, long = sorted(self.found[name].words for name in (anchor, positive))
            symmetric = long < 2 * short
        why_guessed = {name: reason for name, reason in reasons.items() if name not in self.given}
        return Choice(columns, why_guessed, symmetric=symmetric)

    def _labelled(self) -> Choice:
        order = ("text", "tags", "label", "labels")
        columns: dict[str, Any] = {option: self.given[option] for option in order if option in self.given}
        why: dict[str, str] = {}
        used = {*names_in(columns.values())}
        if not ({"label", "labels"} & columns.keys()):
            option, name, reason = self._guess_label(used)
            columns[option], why[option] = name, reason
            used.add(name)
        unsure: list[str] = []
        if not ({"text", "tags"} & columns.keys()):
            option, name, reason, others = self._guess_item(used)
            columns[option], why[option] = name, reason
            if others:
                unsure.append(f"{listed(others)} could be the texts, too: --text")
        separators: dict[str, str] = {
            option: separator
            for option in ("tags", "labels")
            if option in columns
            and (separator := self.separators.get(option) or self.found[columns[option]].separator)
        }
        ordered = {option: columns[option] for option in order if option in columns}
        return Choice(ordered, why, separators, unsure=unsure)

    def _guess_label(self, used: set[str]) -> tuple[str, str, str]:
        """The option, the column and what speaks for it."""
        free = {name: each for name, each in self.found.items() if name not in used}
        lower = {name.lower(): name for name in reversed(free)}
        for name in (lower[each] for each in (*LABEL_NAMES, *LABELS_NAMES) if each in lower):
            if free[name].is_list:
                return "labels", name, "by its name"
            if free[name].content in ("texts", "numbers"):
                return "label", name, "by its name"
        texts = [name for name, each in free.items() if each.is_text or name.lower() in TEXT_NAMES]
        labels = [name for name, each in free.items() if each.is_label and name not in texts]
        labels.sort(key=lambda name: free[name].content == "numbers")
        lists = [name for name, each in free.items() if each.is_list]
        if labels:
            return "label", labels[0], free[labels[0]].shape
        has_item = bool(texts) or bool({"text", "tags"} & self.given.keys()) or len(lists) > 1
        if lists and has_item:
            lists.sort(key=lambda name: name.lower() in TAG_NAMES and not texts)
            return "labels", lists[0], free[lists[0]].shape
        raise DataError(
            f"{self.table.layout}, and nothing there says what belongs together: no column has values that "
            "come again, as classes do, and no two columns hold texts. Name one with --label, --labels, or "
            "--anchor and --positive"
        )

    def _guess_item(self, used: set[str]) -> tuple[str, str, str, list[str]]:
        """The option, the column, what speaks for it, and other columns of texts."""
        free = {name: each for name, each in self.found.items() if name not in used}
        texts = sorted(
            (name for name, each in free.items() if each.is_text), key=lambda name: -free[name].words
        )
        usual = next(
            (
                name
                for wanted in TEXT_NAMES
                for name in free
                if name.lower() == wanted and not free[name].is_list
            ),
            None,
        )
        if usual is not None and free[usual].content == "texts":
            return "text", usual, "by its name", [name for name in texts if name != usual]
        if texts:
            return "text", texts[0], free[texts[0]].shape, texts[1:]
        lists = sorted(
            (name for name, each in free.items() if each.is_list), key=lambda n: n.lower() not in TAG_NAMES
        )
        if lists:
            return "tags", lists[0], free[lists[0]].shape, []
        words = [name for name, each in free.items() if each.content == "texts"]
        if words:
            most = max(words, key=lambda name: free[name].distinct)
            return "text", most, free[most].shape, [name for name in words if name != most]
        raise DataError(
            f"{self.table.layout}, and none of them holds texts or tags; name one with --text or --tags"
        )


def names_in(values: Iterable[Any]) -> list[str]:
    """Names of columns, out of options that have one or a list of them.

    Example:
        >>> names_in(["a", ["b", "c"]])
        ['a', 'b', 'c']
    """
    return [name for value in values for name in ([value] if isinstance(value, str) else value)]


def repeated(values: Sequence[Any]) -> int:
    """How many values are copies of an earlier one.

    Example:
        >>> repeated(["a", "b", "a", "a"])
        2
    """
    return sum(count - 1 for count in Counter(values).values())
