"""Many texts without a Python object for each: Arrow blocks, in memory while they are few, else on disk."""

from __future__ import annotations

import bisect
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

IN_MEMORY = 1 << 26
"""Bytes of texts up to which a column stays in memory."""
BLOCK = 1 << 16
"""Texts that are Python strings at the same time."""

Integers = npt.NDArray[np.int64]


def default_cache_dir() -> Path:
    """``$LIT_METRIC_CACHE``, else ``$XDG_CACHE_HOME/lit-metric``, else ``~/.cache/lit-metric``."""
    own = os.environ.get("LIT_METRIC_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-metric"


class Texts(Sequence[str]):
    """A sequence of strings in Arrow blocks. :class:`TextWriter` makes it.

    An index gives a string, and a slice a list of strings. Iteration holds one block of strings at a time.

    Args:
        blocks: arrays of type ``large_string``, without nulls.

    Example:
        >>> texts = Texts.of(["red", "round", "big"])
        >>> texts[1], texts[1:], texts == ["red", "round", "big"]
        ('round', ['round', 'big'], True)
        >>> list(texts.select(np.array([2, 0])))
        ['big', 'red']
    """

    def __init__(self, blocks: Sequence[pa.LargeStringArray]) -> None:
        self._blocks = [block for block in blocks if len(block)]
        self._ends = np.cumsum([len(block) for block in self._blocks], dtype=np.int64).tolist()

    @classmethod
    def of(cls, texts: Iterable[str], folder: str | Path | None = None) -> Texts:
        """The same strings; see :class:`TextWriter`."""
        with TextWriter(folder) as writer:
            for text in texts:
                writer.append(text)
        return writer.texts

    @classmethod
    def joined(cls, parts: Iterable[Texts]) -> Texts:
        """One after the other, without a copy."""
        return cls([block for part in parts for block in part._blocks])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends else 0

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step == 1:
                return [text for part in self._slices(start, stop) for text in part.to_pylist()]
            return self.take(np.arange(start, stop, step))
        if not -len(self) <= place < len(self):
            raise IndexError(f"text {place} of {len(self)}")
        place = int(place) % len(self)
        block = bisect.bisect_right(self._ends, place)
        return str(self._blocks[block][place - self._ends[block]].as_py())

    def __iter__(self) -> Iterator[str]:
        for block in self.blocks():
            yield from block

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str) or len(other) != len(self):
            return False
        return all(own == theirs for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"Texts([{shown}{', ...' if len(self) > 3 else ''}])"

    def _slices(self, start: int, stop: int) -> Iterator[pa.LargeStringArray]:
        first = 0
        for block, end in zip(self._blocks, self._ends, strict=True):
            low, high = max(start, first), min(stop, end)
            if low < high:
                yield block.slice(low - first, high - low)
            first = end

    def blocks(self) -> Iterator[list[str]]:
        """All texts, as lists of at most 65,536."""
        for start in range(0, len(self), BLOCK):
            yield self[start : start + BLOCK]

    def take(self, places: Integers) -> list[str]:
        """The texts at ``places [n]``, in that order; repeats are allowed."""
        found: list[str] = self._gathered(np.asarray(places, dtype=np.int64)).to_pylist()
        return found

    def select(self, places: Integers, folder: str | Path | None = None) -> Texts:
        """The texts at ``places [n]`` as a sequence; without a copy where they are all in their order."""
        places = np.asarray(places, dtype=np.int64)
        if len(places) == len(self) and bool((places == np.arange(len(self))).all()):
            return self
        with TextWriter(folder) as writer:
            for start in range(0, len(places), BLOCK):
                writer.write(self._gathered(places[start : start + BLOCK]))
        return writer.texts

    def _gathered(self, places: Integers) -> pa.LargeStringArray:
        if not len(places):
            return pa.array([], pa.large_string())
        block_of = np.searchsorted(self._ends, places, side="right")
        order = np.argsort(block_of, kind="stable")
        numbers, starts = np.unique(block_of[order], return_index=True)
        parts = [
            self._blocks[number].take(
                pa.array(places[rows] - (self._ends[number] - len(self._blocks[number])))
            )
            for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return (
            pa.concat_arrays(parts).take(pa.array(back)) if len(parts) > 1 else parts[0].take(pa.array(back))
        )

    def fingerprints(self) -> Integers:
        """``[n]``, 64 bits of BLAKE2b of each text's UTF-8 bytes."""
        found = np.empty(len(self), dtype=np.int64)
        start = 0
        for block in self.blocks():
            digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in block)
            found[start : start + len(block)] = np.frombuffer(digests, dtype="<i8")
            start += len(block)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Texts, ([pa.concat_arrays([block]) for block in self._blocks],)


class OneTextEach(Sequence[list[str]]):
    """Texts as rows of one text each.

    Args:
        texts: of the rows.

    Example:
        >>> rows = OneTextEach(Texts.of(["red", "round"]))
        >>> rows[1], rows == [["red"], ["round"]]
        (['round'], True)
    """

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, place: int) -> list[str]: ...

    @overload
    def __getitem__(self, place: slice) -> list[list[str]]: ...

    def __getitem__(self, place: int | slice) -> list[str] | list[list[str]]:
        if isinstance(place, slice):
            return [[text] for text in self.texts[place]]
        return [self.texts[place]]

    def __iter__(self) -> Iterator[list[str]]:
        return ([text] for text in self.texts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(own == theirs for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class TextWriter:
    """Takes texts one by one and makes :class:`Texts` of them, ``with`` it has ended.

    Above 64 MB the texts go to a file without a name. It takes room on the disk of ``folder``, and the system
    removes it with the last process that has it open, however that ends.

    Args:
        folder: of the file; :func:`default_cache_dir` if None.
    """

    texts: Texts

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = folder
        self._waiting: list[str] = []
        self._arrays: list[pa.LargeStringArray] = []
        self._bytes = 0
        self._file: Any = None
        self._stream: Any = None

    def __enter__(self) -> TextWriter:
        return self

    def append(self, text: str) -> None:
        """Add a text.

        Raises:
            UnicodeEncodeError: when it holds a lone surrogate; at the end of the block at the latest.
        """
        self._waiting.append(text)
        if len(self._waiting) == BLOCK:
            self._flush()

    def extend(self, texts: Iterable[str]) -> None:
        """Add texts."""
        for text in texts:
            self.append(text)

    def write(self, texts: pa.LargeStringArray) -> None:
        """Add an array of texts."""
        self._flush()
        self._put(texts)

    def _flush(self) -> None:
        if self._waiting:
            self._put(pa.array(self._waiting, pa.large_string()))
            self._waiting = []

    def _put(self, array: pa.LargeStringArray) -> None:
        self._bytes += array.nbytes
        if self._bytes <= IN_MEMORY:
            self._arrays.append(array)
            return
        if self._file is None:
            folder = default_cache_dir() if self._folder is None else Path(self._folder)
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            self._stream = pa.ipc.new_file(self._file, pa.schema([("text", pa.large_string())]))
            for each in self._arrays:
                self._stream.write_batch(pa.record_batch([each], ["text"]))
            self._arrays = []
        self._stream.write_batch(pa.record_batch([array], ["text"]))

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            if self._file is not None:
                self._file.close()
            return
        self._flush()
        arrays = self._arrays
        if self._file is not None:
            self._stream.close()
            self._file.flush()
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file.close()  # the map keeps its content
            reader = pa.ipc.open_file(pa.py_buffer(mapped))
            arrays = [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]
        self.texts = Texts(arrays)


def by_first_appearance(values: Integers) -> tuple[Integers, Integers]:
    """Number distinct values by first appearance.

    Returns:
        ``[D]`` where each comes first, rising; ``[n]`` the number of each.

    Example:
        >>> [part.tolist() for part in by_first_appearance(np.array([7, 3, 7]))]
        [[0, 1], [0, 1, 0]]
    """
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)]


def distinct(
    texts: Texts, fingerprints: Integers, places: Integers, *others: npt.NDArray[Any]
) -> tuple[Integers, Integers]:
    """Number distinct texts by first appearance.

    Args:
        texts: which are compared.
        fingerprints: of ``texts``.
        places: ``[n]`` in ``texts``, which are numbered.
        others: ``[n]`` small numbers each, such as of a role. Texts are distinct where any differs.

    Returns:
        ``[D]`` where in ``places`` each distinct text comes first, rising; ``[n]`` the number of each.

    Example:
        >>> texts = Texts.of(["a", "b", "a"])
        >>> first, numbers = distinct(texts, texts.fingerprints(), np.arange(3))
        >>> first.tolist(), numbers.tolist()
        ([0, 1], [0, 1, 0])
    """
    keys = fingerprints[places]
    for other in others:
        keys = (keys ^ other) * np.int64(-7046029254386353131)  # spreads the small numbers over all bits
    first, numbers = by_first_appearance(keys)
    again = np.flatnonzero(first[numbers] != np.arange(len(numbers)))
    same = all(np.array_equal(other[again], other[first[numbers[again]]]) for other in others)
    for start in range(0, len(again), BLOCK) if same else ():
        some = again[start : start + BLOCK]
        own, earlier = places[some], places[first[numbers[some]]]
        differ = own != earlier
        same = same and texts.take(own[differ]) == texts.take(earlier[differ])
    if same:
        return first, numbers
    # Two texts have the same 64 bits, which happens in one of 10⁵ data sets of 10⁷ texts.
    known: dict[Any, int] = {}
    rows = zip((texts[int(place)] for place in places), *(other.tolist() for other in others), strict=True)
    numbers = np.array([known.setdefault(row, len(known)) for row in rows], dtype=np.int64)
    return np.unique(numbers, return_index=True)[1], numbers
