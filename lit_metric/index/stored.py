"""An index in a folder: its arrays, and a manifest with their digests that is written last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike, NDArray

from lit_metric.store import MANIFEST, StoredError, damaged, sync_folder, write_manifest
from lit_metric.store import read_array as array_of
from lit_metric.store import read_manifest as manifest_of

_ENTRIES: dict[str, Callable[[Any], Any]] = {"kind": str, "count": int, "dimension": int, "settings": dict}


class StoredIndexError(StoredError):
    """A saved index is missing, damaged, or of another format."""

    remedy = "build the index and save it anew"


def store(folder: Path, write: Callable[[Path], None], entries: Mapping[str, Any]) -> None:
    """Make ``folder``: what ``write`` puts there, and a manifest of it with ``entries``; all or nothing.

    Raises:
        FileExistsError: there is something in ``folder`` already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already and is not an empty folder; name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    unfinished.mkdir()
    try:
        write(unfinished)
        write_manifest(unfinished, entries)
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def read_manifest(folder: Path, verify: bool = True) -> dict[str, Any]:
    """What :func:`store` said of ``folder``: ``kind``, ``count``, ``dimension`` and ``settings``.

    Args:
        folder: that was stored.
        verify: compare the sha256 of each file, which reads all of them.

    Raises:
        StoredIndexError: says which file is wrong and in what way.
    """
    if not (folder / MANIFEST).is_file():
        raise StoredIndexError(f"{folder} holds no {MANIFEST}, so no index was saved there")
    manifest = manifest_of(folder, StoredIndexError, verify=verify)
    try:
        return {name: kind(manifest[name]) for name, kind in _ENTRIES.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder / MANIFEST, error, StoredIndexError) from error


def read_array(
    folder: Path, name: str, dtype: DTypeLike, shape: tuple[int, ...], memory_map: bool = False
) -> NDArray[Any]:
    """``name.npy``, in memory, or left on the disk until it is read.

    Raises:
        StoredIndexError: if it is not an array of ``dtype`` and ``shape``.
    """
    # Copy on write: torch takes no read-only array, and the file stays as it is all the same.
    return array_of(folder, name, dtype, shape, StoredIndexError, "c" if memory_map else None)
