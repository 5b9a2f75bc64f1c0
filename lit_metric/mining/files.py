"""Versions of a file set on disk: whole or not there at all, never overwritten, never pickled.

A version is a folder ``v000001`` whose ``manifest.json`` names every file with its sha256. The manifest is
written last, so a folder without one is not a version, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lit_metric import store
from lit_metric.store import MANIFEST, StoredError, sync_folder, write_array

SAMPLE = "sample.json"
finish = store.write_manifest


class TableError(StoredError):
    """A stored version is missing, unfinished, damaged, or belongs to something else."""

    remedy = "mine it anew"


def folder_of(root: str | Path, version: int) -> Path:
    """Where ``version`` is kept under ``root``."""
    return Path(root) / f"v{version:06d}"


def versions(root: str | Path) -> list[int]:
    """The finished versions under ``root``, oldest first."""
    return [number for number in _names(root) if (folder_of(root, number) / MANIFEST).is_file()]


def claim(root: str | Path) -> int:
    """Make the folder of a version that never was before, and say its number, from 1."""
    Path(root).mkdir(parents=True, exist_ok=True)
    number = max(_names(root), default=0) + 1
    try:
        folder_of(root, number).mkdir()
    except FileExistsError:
        return claim(root)  # Someone else took the name between the look and the claim.
    sync_folder(Path(root))
    return number


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write each of ``arrays`` as ``name.npy``, durably."""
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)


def read_manifest(folder: Path, names: Iterable[str], verify: bool = True) -> dict[str, Any]:
    """The manifest of a finished version.

    Args:
        folder: of the version.
        names: the files it must list.
        verify: whether to compare every listed file's sha256, which reads all of them.

    Raises:
        TableError: says which file is wrong and in what way.
    """
    if not (folder / MANIFEST).is_file():
        what = "was never finished or has been collected" if folder.is_dir() else "does not exist"
        raise TableError(f"{folder} {what}; finished versions: {versions(folder.parent) or 'none'}")
    return store.read_manifest(folder, TableError, names, verify)


def read_array(folder: Path, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """``name.npy``, memory-mapped read-only.

    Raises:
        TableError: if it is not an array of ``dtype`` and ``shape``.
    """
    return store.read_array(folder, name, dtype, shape, TableError, "r")


def collect(root: str | Path, keep: Iterable[int] = (), newest: int = 2) -> list[int]:
    """Remove old versions, and what unfinished ones left behind.

    The samples stay for good, and with them the names, which are never used again. Whoever has a removed
    version open keeps reading it. Only the process that writes versions may collect them.

    Args:
        root: folder of the versions.
        keep: version numbers to leave alone, such as those that checkpoints name.
        newest: how many of the newest to leave alone, at least 1.

    Returns:
        The numbers removed.
    """
    if newest < 1:
        raise ValueError(f"newest={newest}: at least the newest version must stay")
    finished = versions(root)
    if not finished:
        return []
    kept = {*keep, *finished[-newest:]}
    removed = []
    # What is newer than the newest finished version may be being written at this moment.
    for number in [name for name in _names(root) if name < finished[-1] and name not in kept]:
        folder = folder_of(root, number)
        if number in finished:
            (folder / MANIFEST).unlink()  # First, so that it is never a version with files missing.
            removed.append(number)
        for path in folder.iterdir():
            if path.name != SAMPLE:
                path.unlink()
    return removed


def _names(root: str | Path) -> list[int]:
    root = Path(root)
    found = (re.fullmatch(r"v(\d{6,})", path.name) for path in root.iterdir()) if root.is_dir() else ()
    return sorted(int(match[1]) for match in found if match)
