"""An index in a folder: its arrays, and a manifest with their digests that is written last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lit_metric.data.files import sha256, sync_folder, write_json

FORMAT = 1
MANIFEST = "manifest.json"
AGAIN = "build the index and save it anew"


class StoredIndexError(ValueError):
    """A saved index is missing, damaged, or of another format."""


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
        files = {path.name: {"sha256": sha256(path)} for path in sorted(unfinished.iterdir())}
        write_json(unfinished / MANIFEST, {"format": FORMAT, **entries, "files": files})
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def read_manifest(folder: Path, verify: bool = True) -> dict[str, Any]:
    """What :func:`store` said of ``folder``: ``kind``, ``count``, ``dimension``, ``settings``, ``files``.

    Args:
        folder: that was stored.
        verify: compare the sha256 of each file, which reads all of them.

    Raises:
        StoredIndexError: says which file is wrong and in what way.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StoredIndexError(f"{folder} holds no {MANIFEST}, so no index was saved there")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, files = manifest["format"], {name: each["sha256"] for name, each in manifest["files"].items()}
        count, dimension = int(manifest["count"]), int(manifest["dimension"])
        settings = dict(manifest["settings"])
        kind = str(manifest["kind"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoredIndexError(f"{path} is damaged ({error!r}); {AGAIN}") from error
    if found != FORMAT:
        raise StoredIndexError(f"{folder} has format {found}, this library reads format {FORMAT}; {AGAIN}")
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise StoredIndexError(f"{folder / name} is missing; {AGAIN}")
        if verify and sha256(folder / name) != digest:
            raise StoredIndexError(f"{folder / name} is damaged: its sha256 is not the manifest's; {AGAIN}")
    return {"kind": kind, "count": count, "dimension": dimension, "settings": settings, "files": files}


def read_array(
    folder: Path, name: str, dtype: DTypeLike, shape: tuple[int, ...], memory_map: bool = False
) -> NDArray[Any]:
    """``name.npy``, in memory, or left on the disk until it is read.

    Raises:
        StoredIndexError: if it is not an array of ``dtype`` and ``shape``.
    """
    path = folder / f"{name}.npy"
    try:
        # Copy on write: torch takes no read-only array, and the file stays as it is all the same.
        array: NDArray[Any] = np.load(path, mmap_mode="c" if memory_map else None, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise StoredIndexError(f"{path} cannot be read as an array ({error}); {AGAIN}") from error
    if array.dtype != dtype or array.shape != shape:
        raise StoredIndexError(
            f"{path} holds {array.dtype} {list(array.shape)}, the manifest says {np.dtype(dtype)} "
            f"{list(shape)}; {AGAIN}"
        )
    return array
