"""Durable files, and folders of files that are complete or not there at all.

A file is replaced in one step. A folder is complete when it holds a ``manifest.json``, which is written last
and lists the sha256 of every other file. Versions are such folders, ``v000001`` and so on, under one root.
A version is never overwritten, and nothing is pickled.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

FORMAT = 1
MANIFEST = "manifest.json"
SAMPLE = "sample.json"
"""A file of a version that stays when the version is collected."""
MARGIN = 1 << 24
"""Bytes that stay free on the disk at least."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, and put what was written in the place of ``path``, durably, at the end.

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
    """Replace a ``.npy`` file."""
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


def check_room(folder: Path, needed: int) -> None:
    """Raise ``OSError`` unless the disk of ``folder`` has room for ``needed`` bytes and some more."""
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise OSError(f"{folder} has {free:,} bytes free, and {needed:,} are to be written: make room")


PACKAGE = "package:"


def package_path(source: str) -> Path:
    """The path that ``package:NAME/PATH`` names inside an installed package, which is found and not imported.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    name, _, inside = source.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        distribution = name.replace("_", "-")
        raise FileNotFoundError(
            f"{source}: there is no package {name!r} here; try `pip install {distribution}`"
        )
    return Path(next(iter(found.submodule_search_locations)), inside)


class StoredError(ValueError):
    """A stored folder is missing, unfinished, damaged, or of another format."""

    remedy = "make it again"
    """What the reader of the message should do."""


def write_folder(folder: Path, write: Callable[[Path], None], entries: Mapping[str, Any]) -> None:
    """Make ``folder`` as a whole or not at all: the files that ``write`` puts there, and their manifest.

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
    """Read what :func:`write_manifest` wrote, and check the files.

    Args:
        folder: the folder.
        error: what to raise.
        names: the files that must be listed and are checked; None: all listed files.
        verify: compare the sha256 of each checked file, which reads all of it.

    Raises:
        StoredError: names the wrong file and says what is wrong.
    """
    path = folder / MANIFEST
    if not path.is_file():
        reason = "does not exist"
        if folder.is_dir():
            reason = f"holds no {MANIFEST}: it was never finished or was deleted"
        if _version(folder) is not None:
            reason += f"; finished versions: {versions(folder.parent) or 'none'}"
        raise error(f"{folder} {reason}; {error.remedy}")
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        found, files = manifest["format"], manifest["files"]
        digests = {name: files[name]["sha256"] for name in (files if names is None else names)}
    except (ValueError, KeyError, TypeError) as reason:
        raise error(f"{path} is damaged ({reason!r}); {error.remedy}") from reason
    if found != FORMAT:
        raise error(f"{folder} has format {found}, this library reads format {FORMAT}; {error.remedy}")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise error(f"{folder / name} is missing; {error.remedy}")
        if verify and sha256(folder / name) != digest:
            raise error(f"{folder / name} is damaged: its sha256 is not the manifest's; {error.remedy}")
    return manifest


def read_array(
    folder: Path,
    name: str,
    dtype: DTypeLike,
    shape: tuple[int, ...],
    error: type[StoredError],
    mode: Literal["r", "c"] | None = None,
) -> NDArray[Any]:
    """Read ``name.npy``.

    Args:
        folder: its folder.
        name: without the suffix.
        dtype, shape: the expected ones.
        error: what to raise.
        mode: None reads into memory; ``"r"`` maps the file read-only; ``"c"`` maps it and copies on write.

    Raises:
        StoredError: it is not an array of ``dtype`` and ``shape``.
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


def version_folder(root: str | Path, version: int) -> Path:
    """The folder of ``version`` under ``root``."""
    return Path(root) / f"v{version:06d}"


def versions(root: str | Path) -> list[int]:
    """The finished versions under ``root``, oldest first."""
    return [number for number in _numbers(root) if (version_folder(root, number) / MANIFEST).is_file()]


def claim_version(root: str | Path) -> int:
    """Make the folder of a version that was never there before, and return its number, from 1."""
    Path(root).mkdir(parents=True, exist_ok=True)
    number = max(_numbers(root), default=0) + 1
    try:
        version_folder(root, number).mkdir()
    except FileExistsError:
        return claim_version(root)  # Another process took the number between the look and the claim.
    sync_folder(Path(root))
    return number


def collect_versions(root: str | Path, keep: Iterable[int] = (), newest: int = 2) -> list[int]:
    """Remove old versions, and the files of unfinished ones.

    The samples stay, and with them the folders, so no number is used again. A process that has a removed
    version open keeps reading it. Only the process that writes versions may collect them.

    Args:
        root: folder of the versions.
        keep: version numbers to leave alone, such as those that checkpoints name.
        newest: how many of the newest to leave alone, at least 1.

    Returns:
        The removed numbers.
    """
    if newest < 1:
        raise ValueError(f"newest={newest}: at least the newest version must stay")
    finished = versions(root)
    if not finished:
        return []
    kept = {*keep, *finished[-newest:]}
    removed = []
    # A folder newer than the newest finished version may be being written at this moment.
    for number in [number for number in _numbers(root) if number < finished[-1] and number not in kept]:
        folder = version_folder(root, number)
        if number in finished:
            (folder / MANIFEST).unlink()  # First, so that it is never a version with files missing.
            removed.append(number)
        for path in folder.iterdir():
            if path.name != SAMPLE:
                path.unlink()
    return removed


def _numbers(root: str | Path) -> list[int]:
    """The numbers of all version folders under ``root``, finished or not, rising."""
    folders = Path(root).iterdir() if Path(root).is_dir() else ()
    return sorted(number for folder in folders if (number := _version(folder)) is not None)


def _version(folder: Path) -> int | None:
    match = re.fullmatch(r"v(\d{6,})", folder.name)
    return None if match is None else int(match[1])
