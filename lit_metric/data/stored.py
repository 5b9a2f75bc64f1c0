"""A folder of files with a manifest that lists their digests and is written last: whole, or found out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lit_metric.data.files import sha256, sync_folder, write_json

FORMAT = 1
MANIFEST = "manifest.json"


class StoredError(ValueError):
    """A stored folder is missing, unfinished, damaged, or of another format."""

    remedy = "make it anew"
    """What to do then, in words."""


def write_manifest(folder: Path, entries: Mapping[str, Any]) -> None:
    """Write ``entries`` and the digests of all files in ``folder``, which is complete from now on."""
    files = {
        path.name: {"sha256": sha256(path)} for path in sorted(folder.iterdir()) if path.suffix != ".tmp"
    }
    sync_folder(folder)
    write_json(folder / MANIFEST, {"format": FORMAT, **entries, "files": files})


def read_manifest(
    folder: Path, error: type[StoredError], names: Iterable[str] | None = None, verify: bool = True
) -> dict[str, Any]:
    """What :func:`write_manifest` wrote.

    Args:
        folder: that holds a manifest.
        error: to raise.
        names: the files that it must list and that are looked at; None: all that it lists.
        verify: compare the sha256 of each, which reads all of them.

    Raises:
        StoredError: says which file is wrong and in what way.
    """
    path = folder / MANIFEST
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        found, files = manifest["format"], manifest["files"]
        digests = {name: files[name]["sha256"] for name in (files if names is None else names)}
    except (ValueError, KeyError, TypeError) as reason:
        raise damaged(path, reason, error) from reason
    if found != FORMAT:
        raise error(f"{folder} has format {found}, this library reads format {FORMAT}; {error.remedy}")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise error(f"{folder / name} is missing; {error.remedy}")
        if verify and sha256(folder / name) != digest:
            raise error(f"{folder / name} is damaged: its sha256 is not the manifest's; {error.remedy}")
    return manifest


def damaged(path: Path, reason: Exception, error: type[StoredError]) -> StoredError:
    """The error to raise of a manifest that doesn't say what it should."""
    return error(f"{path} is damaged ({reason!r}); {error.remedy}")


def read_array(
    folder: Path,
    name: str,
    dtype: DTypeLike,
    shape: tuple[int, ...],
    error: type[StoredError],
    mode: Literal["r", "c"] | None = None,
) -> NDArray[Any]:
    """``name.npy``.

    Args:
        folder: where it is.
        name: without the suffix.
        dtype, shape: which it must have.
        error: to raise.
        mode: in memory if None; left on the disk and read-only (``"r"``), or copied on write (``"c"``).

    Raises:
        StoredError: if it is not an array of ``dtype`` and ``shape``.
    """
    path = folder / f"{name}.npy"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (ValueError, OSError) as reason:
        raise error(f"{path} cannot be read as an array ({reason}); {error.remedy}") from reason
    if array.dtype != dtype or array.shape != shape:
        raise error(
            f"{path} holds {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}; "
            f"{error.remedy}"
        )
    return array
