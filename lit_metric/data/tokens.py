"""A vocabulary's token ids: computed once, kept in a memory-mapped Arrow file."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from lit_metric.data.progress import track
from lit_metric.data.ragged import Ragged
from lit_metric.data.vocabulary import Vocabulary
from lit_metric.store import replacing

logger = logging.getLogger(__name__)

LAYOUT = "1"  # part of the key: files of another layout are never opened
CHUNK = 1024

Chunk = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]  # values, lengths of the rows


class Tokenizer(Protocol):
    """What turns texts into token ids."""

    @property
    def fingerprint(self) -> str:
        """Text that differs whenever the token ids would: vocabulary, prompts and lengths by role, ..."""

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
        self.values, self.offsets, self._digest = _open(self.path)

    @classmethod
    def from_lists(cls, rows: list[list[int]], skip: Tensor | None = None) -> Tokens:
        """Token ids held in memory, without a file."""
        tokens = cls.__new__(cls)
        tokens.path, tokens.skip = None, skip
        tokens.values, tokens.offsets = _flatten([_chunk_of(rows)])
        tokens._digest = _digest(tokens.values, tokens.offsets)
        return tokens

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
        """Whether the token ids are those that were written; reads the whole file."""
        return _digest(self.values, self.offsets) == self._digest

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy() if self.path is None else {"path": self.path, "skip": self.skip}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is not None:
            self.values, self.offsets, self._digest = _open(self.path)


def tokenize(
    vocabulary: Vocabulary, tokenizer: Tokenizer, cache_dir: str | Path | None = None, progress: bool = True
) -> Tokens:
    """Tokenise each text once in its role, or open the file where that was done before.

    The file's name is a SHA-256 over the texts with their roles and the tokenizer's fingerprint, so that
    nothing stale is ever read. It is written under another name, synced, then renamed: processes that race
    each publish a whole file, and a crash publishes none. A damaged file is found by its checksum, reported,
    and written again.

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
    skip = _prompt_tokens(vocabulary, tokenizer)
    if path.exists():
        try:
            tokens = Tokens(path, skip)
            if len(tokens) == len(vocabulary) and tokens.verify():
                return tokens
            problem = "its checksum is wrong"
        except (ValueError, OSError) as error:
            problem = str(error)
        logger.warning("the token cache %s is damaged (%s) and will be written again", path, problem)
    _publish(path, *_flatten(_tokenize_chunks(vocabulary, tokenizer, progress)))
    return Tokens(path, skip)


def default_cache_dir() -> Path:
    """``$LIT_METRIC_CACHE``, else ``$XDG_CACHE_HOME/lit-metric``, else ``~/.cache/lit-metric``."""
    own = os.environ.get("LIT_METRIC_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-metric"


def _prompt_tokens(vocabulary: Vocabulary, tokenizer: Tokenizer) -> Tensor | None:
    if vocabulary.roles is None:
        skip = torch.full((len(vocabulary),), tokenizer.prompt_tokens())
    else:
        of_roles = [tokenizer.prompt_tokens(role) for role in vocabulary.role_names]
        skip = torch.tensor(of_roles, dtype=torch.int64)[vocabulary.roles.long()]
    return skip if bool(skip.any()) else None


def _tokenize_chunks(vocabulary: Vocabulary, tokenizer: Tokenizer, progress: bool) -> list[Chunk]:
    chunks, texts = [], vocabulary.texts
    for start in track(range(0, len(texts), CHUNK), "tokenising", f"{CHUNK} texts", progress):
        chunk = texts[start : start + CHUNK]
        if vocabulary.roles is None:
            rows = _tokenize(chunk, tokenizer)
        else:
            roles = vocabulary.roles[start : start + CHUNK]
            rows = _tokenize_by_role(chunk, roles, vocabulary.role_names, tokenizer)
        chunks.append(_chunk_of(rows))
    return chunks


def _tokenize(texts: list[str], tokenizer: Tokenizer, *role: str) -> list[list[int]]:
    rows = tokenizer.tokenize(texts, *role)
    if len(rows) != len(texts):
        raise ValueError(f"the tokenizer returned {len(rows)} rows for {len(texts)} texts")
    return rows


def _tokenize_by_role(
    texts: list[str], roles: Tensor, names: list[str], tokenizer: Tokenizer
) -> list[list[int]]:
    rows: list[list[int]] = [[]] * len(texts)
    for number in roles.unique().tolist():
        places = (roles == number).nonzero().squeeze(1).tolist()
        of_role = _tokenize([texts[place] for place in places], tokenizer, names[number])
        for place, row in zip(places, of_role, strict=True):
            rows[place] = row
    return rows


def _chunk_of(rows: list[list[int]]) -> Chunk:
    values = np.array([token for row in rows for token in row], dtype=np.int32)
    return values, np.array([len(row) for row in rows], dtype=np.int64)


def _flatten(chunks: list[Chunk]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    values = np.concatenate([np.zeros(0, dtype=np.int32), *(values for values, _ in chunks)])
    lengths = np.concatenate([np.zeros(1, dtype=np.int64), *(lengths for _, lengths in chunks)])
    return values, np.cumsum(lengths)


def _digest(values: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> bytes:
    state = hashlib.sha256(np.ascontiguousarray(offsets).data)
    state.update(np.ascontiguousarray(values).data)
    return state.hexdigest().encode()


def _publish(path: Path, values: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> None:
    rows = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    schema = pa.schema([("tokens", rows.type)], metadata={b"sha256": _digest(values, offsets)})
    with replacing(path) as unfinished, pa.ipc.new_file(str(unfinished), schema) as writer:
        writer.write_batch(pa.record_batch([rows], schema=schema))


def _open(path: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], bytes]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if reader.schema.names != ["tokens"] or reader.num_record_batches != 1:
        raise ValueError(f"{path} is not a token file")
    column = reader.get_batch(0).column(0)
    if column.type != pa.large_list(pa.int32()):
        raise ValueError(f"{path} holds {column.type}, not lists of int32")
    values = column.values.to_numpy(zero_copy_only=True)
    offsets = column.offsets.to_numpy(zero_copy_only=True)
    return values, offsets, (reader.schema.metadata or {}).get(b"sha256", b"")
