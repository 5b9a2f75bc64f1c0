"""Versions of a file set on disk: whole or not there at all, never overwritten, never pickled.

A version is a folder ``v000001`` whose ``manifest.json`` names every file with its sha256. The manifest is
written last, so a folder without one is not a version, whatever it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_metric.data.files import sha256, sync_folder, write_array, write_json

FORMAT = 1
MANIFEST = "manifest.json"
SAMPLE = "sample.json"


class TableError(ValueError):
    """A stored version is missing, unfinished, damaged, or belongs to something else."""


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


def finish(folder: Path, entries: Mapping[str, Any]) -> None:
    """Write the manifest, ``entries`` and the digests of all files in ``folder``: from now on it is a
    version."""
    files = {
        path.name: {"sha256": sha256(path)} for path in sorted(folder.iterdir()) if path.suffix != ".tmp"
    }
    sync_folder(folder)
    write_json(folder / MANIFEST, {"format": FORMAT, **entries, "files": files})


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
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found, digests = manifest["format"], {name: manifest["files"][name]["sha256"] for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{folder / MANIFEST} is damaged ({error!r}); mine this version anew") from error
    if found != FORMAT:
        raise TableError(f"{folder} has format {found}, this library reads format {FORMAT}; mine it anew")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise TableError(f"{folder / name} is missing; mine this version anew")
        if verify and sha256(folder / name) != digest:
            raise TableError(f"{folder / name} is damaged: its sha256 is not the manifest's; mine it anew")
    return dict(manifest)


def read_array(folder: Path, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """``name.npy``, memory-mapped read-only.

    Raises:
        TableError: if it is not an array of ``dtype`` and ``shape``.
    """
    path = folder / f"{name}.npy"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise TableError(f"{path} cannot be read as an array ({error}); mine this version anew") from error
    if array.dtype != dtype or array.shape != shape:
        raise TableError(
            f"{path} holds {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}"
        )
    return array


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
