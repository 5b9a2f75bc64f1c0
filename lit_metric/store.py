"""Durable files: written as a whole or not at all, and folders whose manifest lists a digest of each file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

FORMAT = 1
MANIFEST = "manifest.json"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; what was written takes the place of ``path``, durably, in the end.

    After an error, or a crash at any moment, ``path`` is what it was before.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "new" / "numbers.txt"
        >>> with replacing(path) as unfinished:
        ...     _ = unfinished.write_text("1 2 3")
        >>> path.read_text()
        '1 2 3'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Replace a ``.npy`` file; nothing is pickled."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file.

    Raises:
        ValueError: for NaN or infinity, which JSON lacks.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
