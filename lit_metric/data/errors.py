"""Errors of data, with the report of bad rows, and the words that messages share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from lit_metric.store import replacing

SHOWN = 3  # rows that a message names for each problem; it counts the others
KINDS = 6  # problems that a message names
REJECTED = "rejected.parquet"


class DataError(ValueError):
    """Data that cannot be used. The message says what is wrong, where, and what to do about it."""


class Problems:
    """Collects what is wrong with single rows, to report everything at once.

    Args:
        skip: whether to leave out rows with a problem. If False, they are an error.
        option: how to have such rows left out, for the report; empty if there is no such option.

    Example:
        >>> problems = Problems(skip=True)
        >>> problems.add(("a.csv", 3), "text", "empty text", "Fill it in, or drop the row.")
        >>> problems.refuse()
        >>> len(problems), problems.rows()[0]["row"]
        (1, 3)
        >>> problems.report().partition(": column")[0]
        'a.csv: 1 bad row (counted from 1, without a header)'
    """

    def __init__(self, skip: bool = False, option: str = "") -> None:
        self.skip = skip
        self.option = option
        self._rows: dict[tuple[str, str, str, str], dict[int, None]] = defaultdict(dict)
        self._excused: set[tuple[str, int]] = set()

    def add(self, place: tuple[str, int], column: str, problem: str, remedy: str) -> None:
        """Note a problem at ``place``, a file and a row. Problems that differ in the row only are one."""
        if place not in self._excused:
            file, row = place
            self._rows[file, column, problem, remedy][row] = None  # a file may be read twice

    def excuse(self, places: Iterable[tuple[str, int]]) -> None:
        """Forget all problems at these places, earlier and later ones: somebody has left these rows out.

        Example:
            >>> problems = Problems()
            >>> problems.add(("a.csv", 3), "text", "empty text", "Fill it in, or drop the row.")
            >>> problems.excuse([("a.csv", 3)])
            >>> len(problems)
            0
        """
        self._excused.update(places)
        for kind, rows in [*self._rows.items()]:
            for row in [row for row in rows if (kind[0], row) in self._excused]:
                del rows[row]
            if not rows:
                del self._rows[kind]

    def __len__(self) -> int:
        """The number of rows, of all files, that have a problem."""
        return sum(map(len, self._rows_by_file().values()))

    def _rows_by_file(self) -> dict[str, set[int]]:
        files: dict[str, set[int]] = defaultdict(set)
        for (file, *_), rows in self._rows.items():
            files[file].update(rows)
        return files

    def rows(self) -> list[dict[str, Any]]:
        """Every problem as ``file``, ``row`` (from 1, without a header), ``column``, ``problem``, ``remedy``,
        in the order of files and rows."""
        files = {file: number for number, file in enumerate(self._rows_by_file())}
        found = [
            {"file": file, "row": row, "column": column, "problem": problem, "remedy": remedy}
            for (file, column, problem, remedy), rows in self._rows.items()
            for row in rows
        ]
        return sorted(found, key=lambda each: (files[each["file"]], each["row"]))

    def refuse(self) -> None:
        """Raise :class:`BadRows` with every problem, if there are any and none may be skipped."""
        if self._rows and not self.skip:
            raise BadRows(self)

    @property
    def shortened(self) -> bool:
        """Whether the report names fewer rows than there are."""
        return len(self._rows) > KINDS or any(len(rows) > SHOWN for rows in self._rows.values())

    def report(self) -> str:
        """One line: how many rows of which files, and for each problem the first of them, with the remedy."""
        files = self._rows_by_file()
        counts = [f"{file}: {len(rows)} bad row{'s' * (len(rows) > 1)}" for file, rows in files.items()]
        by_remedy: dict[str, list[str]] = defaultdict(list)
        for (file, column, problem, remedy), rows in [*self._rows.items()][:KINDS]:
            where = [f"column {column!r}"] * bool(column) + [file] * (len(files) > 1)
            of = f"{' of '.join(where)}: " if where else ""
            by_remedy[remedy].append(f"{of}{problem} in {listed_rows([*rows])}")
        sentences = [f"{'; '.join(problems)}. {remedy}" for remedy, problems in by_remedy.items()]
        sentences[1:] = [f"{each[0].upper()}{each[1:]}" for each in sentences[1:]]
        if rest := sum(map(len, [*self._rows.values()][KINDS:])):
            sentences.append(f"Besides, {rest} problem{'s' * (rest > 1)} of other kinds.")
        if self.option and not self.skip:
            sentences.append(f"Or {self.option}.")
        return f"{', '.join(counts)} (counted from 1, without a header): {' '.join(sentences)}"

    def write(self, folder: Path) -> Path:
        """Write ``rejected.parquet`` into ``folder``, with a row for each problem, and return its path.

        It has the columns of :meth:`rows`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts = [(name, pa.string()) for name in ("column", "problem", "remedy")]
        schema = pa.schema([("file", pa.string()), ("row", pa.int64()), *texts])
        path = folder / REJECTED
        with replacing(path) as unfinished:
            pq.write_table(pa.Table.from_pylist(self.rows(), schema), unfinished, compression="zstd")
        return path


class BadRows(DataError):
    """Rows that cannot be used. The message names the first; ``problems.rows()`` has all.

    Args:
        problems: what is wrong with which rows.
        prefix: what the message begins with.
    """

    def __init__(self, problems: Problems, prefix: str = "") -> None:
        super().__init__(prefix + problems.report())
        self.problems = problems


def listed(names: Sequence[str], limit: int = 30) -> str:
    """Names in quotes for a message, the first ``limit``.

    Example:
        >>> listed(["text", "label"]), listed([])
        ("'text', 'label'", 'nothing')
    """
    shown = ", ".join(map(repr, names[:limit]))
    return (shown + (f" and {len(names) - limit} more" if len(names) > limit else "")) or "nothing"


def listed_rows(rows: Sequence[int]) -> str:
    """Numbers of rows for a message, the first three.

    Example:
        >>> listed_rows([4]), listed_rows([1, 2, 3, 5])
        ('row 4', 'rows 1, 2, 3 and 1 more')
    """
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:SHOWN]))}{more}"


def listed_files(names: Sequence[str]) -> str:
    """Names of files for a message, the first three.

    Example:
        >>> listed_files(["a.csv", "b.csv"]), listed_files(["a", "b", "c", "d"])
        ('a.csv and b.csv', 'a, b, c and 1 more')
    """
    if len(names) > SHOWN:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def most_similar(names: Iterable[str], wanted: str) -> list[str]:
    """Names by their similarity to ``wanted``; of two equally similar, the first comes first.

    Example:
        >>> most_similar(["label", "text"], "txt")
        ['text', 'label']
    """
    return sorted(names, key=lambda name: -SequenceMatcher(None, name, wanted).ratio())
