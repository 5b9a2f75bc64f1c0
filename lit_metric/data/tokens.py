"""A vocabulary's token ids: computed once, kept in a memory-mapped Arrow file."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from lit_metric.data.items import Vocabulary
from lit_metric.data.progress import track
from lit_metric.data.ragged import Ragged
from lit_metric.store import replacing

logger = logging.getLogger(__name__)

LAYOUT = "1"  # part of the key: files of another layout are never opened
CHUNK = 1024

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

    Args:
        vocabulary: the distinct texts.
        tokenizer: see :class:`Tokenizer`; called with up to 1,024 texts at a time.
        cache_dir: where the file lives; by default :func:`default_cache_dir`.
        progress: show a progress bar where there is much to do.

    Raises:
        ValueError: when the tokenizer returns another number of rows than it was given.
    """
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    key = hashlib.sha256("\n".join([LAYOUT, vocabulary.digest, tokenizer.fingerprint]).encode()).hexdigest()
    path = folder / f"tokens-{key[:32]}.arrow"
    if vocabulary.roles is None:
        skip = torch.full((len(vocabulary),), tokenizer.prompt_tokens())
    else:
        by_role = [tokenizer.prompt_tokens(role) for role in vocabulary.role_names]
        skip = torch.tensor(by_role, dtype=torch.int64)[vocabulary.roles.long()]
    prompt = skip if bool(skip.any()) else None
    if path.exists():
        try:
            tokens = Tokens(path, prompt)
            if len(tokens) == len(vocabulary) and tokens.verify():
                return tokens
            problem = "its checksum is wrong"
        except (ValueError, OSError) as error:
            problem = str(error)
        logger.warning("the token cache %s is damaged (%s) and will be written again", path, problem)
    starts = track(range(0, len(vocabulary), CHUNK), "tokenising", f"{CHUNK} texts", progress)
    values, offsets = _concatenate(_tokenize_chunk(vocabulary, tokenizer, start) for start in starts)
    _write(path, values, offsets)
    return Tokens(path, prompt)


def log_truncation(vocabulary: Vocabulary, tokens: Tokens, tokenizer: Tokenizer) -> None:
    """Log how many texts have as many tokens as fit, for each maximal length that the tokenizer knows."""
    limit_of = getattr(tokenizer, "max_length_of", None)
    if limit_of is None:
        return
    counts: dict[int, int] = {}
    lengths, roles = tokens.lengths, vocabulary.roles
    for number, role in enumerate(vocabulary.role_names) if roles is not None else [(None, None)]:
        own = lengths if roles is None else lengths[roles == number]
        limit = int(limit_of(role))
        counts[limit] = counts.get(limit, 0) + int((own >= limit).sum())
    for limit, count in counts.items():
        if count:
            logger.info(
                "%d of %d texts have max_length=%d tokens or more; tokens beyond that are cut off",
                count,
                len(vocabulary),
                limit,
            )


def default_cache_dir() -> Path:
    """``$LIT_METRIC_CACHE``, else ``$XDG_CACHE_HOME/lit-metric``, else ``~/.cache/lit-metric``."""
    own = os.environ.get("LIT_METRIC_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-metric"


def _tokenize_chunk(vocabulary: Vocabulary, tokenizer: Tokenizer, start: int) -> list[list[int]]:
    """The token ids of up to ``CHUNK`` texts, each in its role."""

    def tokenize(texts: list[str], *role: str) -> list[list[int]]:
        rows = tokenizer.tokenize(texts, *role)
        if len(rows) != len(texts):
            raise ValueError(f"the tokenizer returned {len(rows)} rows for {len(texts)} texts")
        return rows

    texts = vocabulary.texts[start : start + CHUNK]
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
