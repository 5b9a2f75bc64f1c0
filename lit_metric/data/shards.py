"""Folders of shards: a long job writes its results in parts, and a second call does what is missing."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_metric.data.errors import listed
from lit_metric.store import FORMAT, MANIFEST, replacing, sha256, write_json

log = logging.getLogger(__name__)

SHARD_ROWS = 32768
"""Rows, or items, that are encoded and written together."""

JOB = "job.json"
RECORDS = ".job"
"""The folder of what is known while shards are being made. A reader of tables skips it."""


class Shards:
    """The shards of one job in one folder.

    A shard is a file that is written as a whole. It counts once its sha256 is recorded, in ``.job/``. The
    folder is complete when it holds ``manifest.json``, which names the job and lists the sha256 of every
    shard; ``.job/`` is gone then.

    Args:
        folder: of the shards.
        job: what they depend on, by names for messages; values that JSON has.
        count: of shards.
        suffix: of their files.

    Example:
        >>> import tempfile
        >>> shards = Shards(Path(tempfile.mkdtemp()) / "out", {"model": "a"}, 2, ".txt")
        >>> shards.start()
        [0, 1]
        >>> shards.write(1, lambda path: path.write_text("one"))
        >>> shards.start()  # a second call
        [0]
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], count: int, suffix: str) -> None:
        self.folder = folder
        self.job = dict(job)
        self.count = count
        self.suffix = suffix

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:05d}{self.suffix}"

    def start(self, anew: bool = False) -> list[int]:
        """Prepare the folder, and list the shards that are missing or damaged. For one process.

        Args:
            anew: remove what is there of another job. If False, it is refused.

        Raises:
            FileExistsError: the folder holds something else, or shards of another job.
        """
        there = job_in(self.folder)
        if there is None:
            if self.folder.exists() and not self._is_empty():
                raise FileExistsError(f"{self.folder} exists already and has no shards; name another folder")
            shutil.rmtree(self.folder / RECORDS, ignore_errors=True)
        elif there != self.job:
            names = [name for name in {**self.job, **there} if self.job.get(name) != there.get(name)]
            found = f"{self.folder} holds shards of another job, which differs in {listed(names)}"
            if not anew:
                raise FileExistsError(f"{found}; name another folder, or delete this one to start anew")
            log.warning("%s: started anew", found)
            shutil.rmtree(self.folder)
        for unfinished in self.folder.glob(".*.tmp"):  # of a call that was killed
            unfinished.unlink()
        digests = self._digests()
        sound = {
            number: digest
            for number, digest in digests.items()
            if self.path(number).is_file() and sha256(self.path(number)) == digest
        }
        for number in sorted(digests.keys() - sound.keys()):
            log.warning("%s is damaged or missing, and is made again", self.path(number))
        missing = [number for number in range(self.count) if number not in sound]
        manifest = self.folder / MANIFEST
        if missing or not manifest.is_file():
            write_json(self.folder / RECORDS / JOB, self.job)
            for number, digest in sound.items():
                self._record(number, digest)
            manifest.unlink(missing_ok=True)
        return missing

    def _is_empty(self) -> bool:
        """Whether the folder holds nothing, or what a call left that was killed before its first shard."""
        return self.folder.is_dir() and all(path.name == RECORDS for path in self.folder.iterdir())

    def write(self, number: int, write: Callable[[Path], Any]) -> None:
        """Make a shard: ``write`` gets the path of its file."""
        path = self.path(number)
        with replacing(path) as unfinished:
            write(unfinished)
        self._record(number, sha256(path))

    def write_array(self, number: int, array: NDArray[Any]) -> None:
        """Make a shard of an array, in NumPy's format."""

        def save(path: Path) -> None:
            with path.open("wb") as file:  # by its name, NumPy would add an ending
                np.save(file, array, allow_pickle=False)

        self.write(number, save)

    def missing(self) -> list[int]:
        """The shards that are not recorded."""
        digests = self._digests()
        return [number for number in range(self.count) if number not in digests]

    def finish(self) -> None:
        """Write the manifest. For one process, after all have written their shards.

        Raises:
            RuntimeError: a shard is missing.
        """
        if (self.folder / MANIFEST).is_file():
            return
        digests = self._digests()
        if missing := self.missing():
            raise RuntimeError(
                f"{len(missing)} of {self.count} shards of {self.folder} are missing, the first is "
                f"{self.path(missing[0])}: call again to make them"
            )
        files = {self.path(number).name: {"sha256": digest} for number, digest in sorted(digests.items())}
        write_json(self.folder / MANIFEST, {"format": FORMAT, "job": self.job, "files": files})
        shutil.rmtree(self.folder / RECORDS)

    def discard(self, unless_begun: bool = False) -> None:
        """Remove the folder; with ``unless_begun`` only if no shard is finished."""
        if not (unless_begun and self._digests()):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, number: int, digest: str) -> None:
        write_json(self.folder / RECORDS / f"{number:05d}.json", {"sha256": digest})

    def _digests(self) -> dict[int, str]:
        """The recorded sha256 by shard."""
        manifest = _read(self.folder / MANIFEST)
        if manifest is not None:
            found = {name.partition(".")[0]: entry for name, entry in manifest["files"].items()}
        else:
            paths = [path for path in (self.folder / RECORDS).glob("*.json") if path.name != JOB]
            found = {path.stem: entry for path in paths if (entry := _read(path)) is not None}
        return {int(number): entry["sha256"] for number, entry in found.items()}


def job_in(folder: Path) -> dict[str, Any] | None:
    """What the shards in a folder depend on; None if it holds none."""
    manifest = _read(folder / MANIFEST)
    job = _read(folder / RECORDS / JOB) if manifest is None else manifest.get("job")
    return job if isinstance(job, dict) else None


def is_unfinished(folder: Path) -> bool:
    """Whether shards are still being made in a folder."""
    return (folder / RECORDS / JOB).is_file() and not (folder / MANIFEST).is_file()


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file; None if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
