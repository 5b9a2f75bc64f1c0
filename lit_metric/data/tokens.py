"""A vocabulary's token ids: computed once, kept in a memory-mapped Arrow file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from lit_metric.data.items import Vocabulary
from lit_metric.data.progress import Pace, has_bars, track
from lit_metric.data.ragged import Ragged
from lit_metric.data.texts import default_cache_dir
from lit_metric.store import replacing, write_json

logger = logging.getLogger(__name__)

LAYOUT = "1"  # part of the key: files of another layout are never opened
CHUNK = 1024
"""Texts that a tokenizer gets at once."""
BLOCK = 64 * CHUNK
"""Texts whose token ids are written at once. What is lost when tokenising is cut off is less than that."""

Values = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]


class Tokenizer(Protocol):
    """Turns texts into token ids."""

    @property
    def fingerprint(self) -> str:
        """A string that differs whenever the token ids would: by vocabulary, prompts, lengths by role, ..."""

    def tokenize(self, texts: list[str], role: str | None = None) -> list[list[int]]:
        """The token ids of each text, the role's prompt and special tokens included."""

    def prompt_tokens(self, role: str | None = None) -> int:
        """How many leading tokens of a text in this role are kept out of pooling."""


class Tokens:
    """The token ids of all texts of a vocabulary.

    Copies sent to other processes carry the path of the file and open it again there.

    Args:
        path: a file written by :func:`tokenize`.
        skip: ``[V]`` int64, how many leading tokens of each text are kept out of pooling; None for none.

    Raises:
        ValueError: when the file is damaged (``pyarrow.ArrowInvalid`` is a ValueError too).
        OSError: when it cannot be read.
    """

    def __init__(self, path: str | Path, skip: Tensor | None = None) -> None:
        self.path: Path | None = Path(path)
        self.skip = skip
        self._open(self.path)

    @classmethod
    def from_lists(cls, rows: list[list[int]], skip: Tensor | None = None) -> Tokens:
        """Token ids in memory, without a file."""
        tokens = cls.__new__(cls)
        tokens.path, tokens.skip = None, skip
        tokens.values, tokens.offsets = _concatenate([rows])
        tokens._digest = _digest_of(tokens.values, tokens.offsets)
        return tokens

    def _open(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema.names != ["tokens"] or reader.num_record_batches != 1:
            raise ValueError(f"{path} is not a token file")
        column = reader.get_batch(0).column(0)
        if column.type != pa.large_list(pa.int32()):
            raise ValueError(f"{path} holds {column.type}, not lists of int32")
        self.values: Values = column.values.to_numpy(zero_copy_only=True)
        self.offsets: Offsets = column.offsets.to_numpy(zero_copy_only=True)
        self._digest: bytes = (reader.schema.metadata or {}).get(b"sha256", b"")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """``[V]`` int64, the number of tokens of each text."""
        return torch.from_numpy(np.diff(self.offsets))

    def select(self, text_ids: Tensor) -> Ragged:
        """The int64 token ids of the texts numbered ``text_ids [m]``, in that order; repeats are allowed.

        Raises:
            IndexError: when an id is not one of ``0..V-1``.
        """
        ids = text_ids.numpy(force=True)
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self)):
            raise IndexError(f"text ids must be within 0..{len(self) - 1}, got {ids.min()}..{ids.max()}")
        starts = self.offsets[ids]
        lengths = self.offsets[ids + 1] - starts
        offsets = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Ragged(torch.from_numpy(self.values[places].astype(np.int64)), torch.from_numpy(offsets))

    def verify(self) -> bool:
        """Whether the checksum of the token ids is right; reads the whole file."""
        return _digest_of(self.values, self.offsets) == self._digest

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy() if self.path is None else {"path": self.path, "skip": self.skip}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is not None:
            self._open(self.path)


def tokenize(
    vocabulary: Vocabulary, tokenizer: Tokenizer, cache_dir: str | Path | None = None, progress: bool = True
) -> Tokens:
    """Tokenise each text once in its role, or open the file of an earlier call.

    The file's name is a SHA-256 of the texts, their roles and the tokenizer's fingerprint, so no stale file
    is read. A file is written under another name, synced, then renamed: processes that race each publish a
    whole file, and a crash publishes none. A damaged file is found by its checksum, logged, and replaced.

    More than 65,536 texts are tokenised in blocks of that size, by one process of a machine while the others
    wait for it. Each block is on disk before the next one begins, so memory doesn't grow with the number of
    texts, and the next call goes on where one was cut off.

    Args:
        vocabulary: the distinct texts.
        tokenizer: see :class:`Tokenizer`; called with up to 1,024 texts at a time.
        cache_dir: where the file lives; by default :func:`default_cache_dir`.
        progress: show a progress bar where there is much to do, or log how far it is.

    Raises:
        ValueError: when the tokenizer returns another number of rows than it was given.
    """
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    key = hashlib.sha256("\n".join([LAYOUT, vocabulary.digest, tokenizer.fingerprint]).encode()).hexdigest()
    path = folder / f"tokens-{key[:32]}.arrow"
    prompt = _prompt_tokens(vocabulary, tokenizer)
    if (tokens := _open_finished(path, prompt, len(vocabulary))) is not None:
        return tokens
    starts = range(0, len(vocabulary), CHUNK)
    if len(vocabulary) <= BLOCK:
        shown = track(starts, "tokenising", f"{CHUNK} texts", progress)
        values, offsets = _concatenate(_tokenize_chunk(vocabulary, tokenizer, start) for start in shown)
        _write(path, values, offsets)
        return Tokens(path, prompt)
    with _unfinished_folder(path) as unfinished:
        if (tokens := _open_finished(path, prompt, len(vocabulary))) is not None:  # another process made it
            return tokens
        blocks = _Blocks(unfinished)
        if done := blocks.rows:
            logger.info("tokenising goes on after the %d texts that are on disk", done)
        shown = track(starts[done // CHUNK :], "tokenising", f"{CHUNK} texts", progress)
        pace = Pace(len(vocabulary) - done, "texts", shown=progress and not has_bars())
        rows: list[list[int]] = []
        for start in shown:
            rows += _tokenize_chunk(vocabulary, tokenizer, start)
            pace.advance(CHUNK)
            if len(rows) == BLOCK:
                blocks.append(rows)
                rows = []
        blocks.append(rows)
        _write(path, *blocks.arrays())
    return Tokens(path, prompt)


def tokenize_in_memory(vocabulary: Vocabulary, tokenizer: Tokenizer) -> Tokens:
    """The same for texts that are needed only once: without a file."""
    starts = range(0, len(vocabulary), CHUNK)
    rows = [row for start in starts for row in _tokenize_chunk(vocabulary, tokenizer, start)]
    return Tokens.from_lists(rows, _prompt_tokens(vocabulary, tokenizer))


def _prompt_tokens(vocabulary: Vocabulary, tokenizer: Tokenizer) -> Tensor | None:
    """``[V]`` int64, how many leading tokens of each text are kept out of pooling; None for none."""
    if vocabulary.roles is None:
        count = tokenizer.prompt_tokens()
        return torch.full((len(vocabulary),), count) if count and len(vocabulary) else None
    by_role = torch.tensor([tokenizer.prompt_tokens(role) for role in vocabulary.role_names])
    skip = by_role[vocabulary.roles.long()]
    return skip if bool(skip.any()) else None


def _open_finished(path: Path, skip: Tensor | None, texts: int) -> Tokens | None:
    """The token ids of a whole file, or None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        tokens = Tokens(path, skip)
        if len(tokens) == texts and tokens.verify():
            return tokens
        problem = "its checksum is wrong"
    except (ValueError, OSError) as error:
        problem = str(error)
    logger.warning("the token cache %s is damaged (%s) and will be written again", path, problem)
    return None


@contextmanager
def _unfinished_folder(path: Path) -> Iterator[Path]:
    """The folder of the blocks from which ``path`` is made, for one process at a time.

    It stays after an error, so that the next call goes on, and is removed when ``path`` is complete.
    """
    from filelock import FileLock

    folder, lock = (path.with_name(f"{path.name}.{kind}") for kind in ("unfinished", "lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # some systems don't remove an open file
            lock.unlink()  # whoever gets it later finds ``path`` complete


class _Blocks:
    """Token ids on their way to a file: blocks of texts, of which a later process can use those before it.

    Args:
        folder: holds ``tokens`` and ``lengths``, int32 and int64 end to end, and ``blocks``, which has the
            number of texts, the number of tokens and a checksum of each block. A block counts once it is
            listed there and its checksum is right.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = self.tokens = 0
        listed = folder / "blocks"
        entries = np.zeros((0, 3), dtype=np.int64)
        if listed.exists():
            numbers = np.fromfile(listed, dtype=np.int64)
            entries = numbers[: len(numbers) // 3 * 3].reshape(-1, 3)
        good = 0
        for rows, tokens, checksum in entries.tolist():
            if rows != BLOCK or self._checksum(rows, tokens) != checksum:
                break
            self.rows, self.tokens, good = self.rows + rows, self.tokens + tokens, good + 1
        for name, size in (("blocks", 24 * good), ("lengths", 8 * self.rows), ("tokens", 4 * self.tokens)):
            (folder / name).touch()
            os.truncate(folder / name, size)

    def _read(self, name: str, dtype: Any, start: int, count: int) -> npt.NDArray[Any]:
        path, size = self.folder / name, np.dtype(dtype).itemsize
        if not path.exists() or path.stat().st_size < (start + count) * size:
            return np.zeros(0, dtype=dtype)
        return np.fromfile(path, dtype=dtype, count=count, offset=start * size)

    def _checksum(self, rows: int, tokens: int) -> int:
        """Of the next ``rows`` texts on disk; -1 if they aren't all there."""
        lengths = self._read("lengths", np.int64, self.rows, rows)
        values = self._read("tokens", np.int32, self.tokens, tokens)
        if len(lengths) != rows or len(values) != tokens or int(lengths.sum()) != tokens:
            return -1
        return zlib.crc32(values.tobytes(), zlib.crc32(lengths.tobytes()))

    def append(self, rows: list[list[int]]) -> None:
        """Write a block."""
        values, offsets = _concatenate([rows])
        lengths = np.diff(offsets)
        checksum = zlib.crc32(values.tobytes(), zlib.crc32(lengths.tobytes()))
        entry = np.array([len(rows), len(values), checksum], dtype=np.int64)
        for name, array in (("tokens", values), ("lengths", lengths), ("blocks", entry)):
            with (self.folder / name).open("ab") as file:
                file.write(array.tobytes())
        self.rows, self.tokens = self.rows + len(rows), self.tokens + len(values)

    def arrays(self) -> tuple[Values, Offsets]:
        """All token ids, in memory mapped from the file, and where each text begins."""
        offsets = np.zeros(self.rows + 1, dtype=np.int64)
        np.cumsum(np.fromfile(self.folder / "lengths", dtype=np.int64), out=offsets[1:])
        if not self.tokens:
            return np.zeros(0, dtype=np.int32), offsets
        return np.memmap(self.folder / "tokens", dtype=np.int32, mode="r"), offsets


def count_truncated(vocabulary: Vocabulary, tokens: Tokens, tokenizer: Tokenizer) -> dict[int, list[int]]:
    """How many texts were longer than the tokenizer's limit, and of how many, by limit.

    Texts with as many tokens as the limit are tokenised once more, whole: only some of them were cut. The
    result is kept next to the file of token ids.

    Args:
        vocabulary, tokens, tokenizer: the arguments and the result of :func:`tokenize`. A tokenizer without
            ``max_length_of`` and ``tokenize_and_count`` cuts nothing.
    """
    limit_of = getattr(tokenizer, "max_length_of", None)
    count = getattr(tokenizer, "tokenize_and_count", None)
    if limit_of is None or count is None:
        return {}
    kept = tokens.path.with_suffix(".cut.json") if tokens.path else None
    if kept is not None and kept.exists():
        with suppress(ValueError, OSError, AttributeError):
            return {int(limit): [*map(int, each)] for limit, each in json.loads(kept.read_text()).items()}
    counts: dict[int, list[int]] = {}
    lengths, roles = tokens.lengths, vocabulary.roles
    for number, role in enumerate(vocabulary.role_names) if roles is not None else [(None, None)]:
        own = torch.arange(len(lengths))[slice(None) if roles is None else roles == number]
        limit = int(limit_of(role))
        full = own[lengths[own] >= limit].tolist()
        found = counts.setdefault(limit, [0, 0])
        found[1] += len(own)
        for start in track(range(0, len(full), CHUNK), "counting long texts", f"{CHUNK} texts"):
            found[0] += count([vocabulary.texts[place] for place in full[start : start + CHUNK]], role)[1]
    if kept is not None:
        with suppress(OSError):
            write_json(kept, {str(limit): each for limit, each in counts.items()})
    return counts


def _tokenize_chunk(vocabulary: Vocabulary, tokenizer: Tokenizer, start: int) -> list[list[int]]:
    """The token ids of up to ``CHUNK`` texts, each in its role."""

    def tokenize(texts: list[str], *role: str) -> list[list[int]]:
        rows = tokenizer.tokenize(texts, *role)
        if len(rows) != len(texts):
            raise ValueError(f"the tokenizer returned {len(rows)} rows for {len(texts)} texts")
        return rows

    texts = list(vocabulary.texts[start : start + CHUNK])
    if vocabulary.roles is None:
        return tokenize(texts)
    roles = vocabulary.roles[start : start + CHUNK]
    rows: list[list[int]] = [[]] * len(texts)
    for number in roles.unique().tolist():
        places = (roles == number).nonzero().squeeze(1).tolist()
        found = tokenize([texts[place] for place in places], vocabulary.role_names[number])
        for place, row in zip(places, found, strict=True):
            rows[place] = row
    return rows


def _concatenate(chunks: Iterable[list[list[int]]]) -> tuple[Values, Offsets]:
    """All rows end to end, and where each begins."""
    values, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)]
    for rows in chunks:
        values.append(np.array([token for row in rows for token in row], dtype=np.int32))
        lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
    return np.concatenate(values), np.cumsum(np.concatenate(lengths))


def _write(path: Path, values: Values, offsets: Offsets) -> None:
    rows = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    schema = pa.schema([("tokens", rows.type)], metadata={b"sha256": _digest_of(values, offsets)})
    with replacing(path) as unfinished, pa.ipc.new_file(str(unfinished), schema) as writer:
        writer.write_batch(pa.record_batch([rows], schema=schema))


def _digest_of(values: Values, offsets: Offsets) -> bytes:
    state = hashlib.sha256(np.ascontiguousarray(offsets).data)
    state.update(np.ascontiguousarray(values).data)
    return state.hexdigest().encode()
