"""Files that a checkpoint needs beside itself, kept for as long as one names them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lit_metric.mining.snapshot import SnapshotError, keep
from lit_metric.store import sha256


class CheckpointFiles:
    """Copies of files, each under a name that says the batch and a part of its sha256.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, name: str, files: Sequence[Path]) -> dict[str, str]:
        """Copy ``files`` durably.

        Args:
            name: begins with the number of batches trained on, nine digits.
            files: to copy.

        Returns:
            sha256 by the name of the copy, in the order of ``files``.

        Raises:
            OSError: if the disk has no room for them.
        """
        kept = {}
        for file in files:
            unnamed = self.folder / f"{name}.new"
            digest = keep(file, unnamed)
            copy = f"{name}-{file.suffix[1:]}-{digest[:12]}"
            unnamed.replace(self.folder / copy)
            kept[copy] = digest
        return kept

    def restore(self, kept: Mapping[str, str], files: Sequence[Path]) -> None:
        """Copy back what :meth:`keep` returned.

        Raises:
            SnapshotError: if a copy is missing or damaged, or they are not as many as ``files``.
        """
        if len(kept) != len(files):
            raise SnapshotError(f"the checkpoint names {len(kept)} files where {len(files)} are needed")
        for (name, digest), file in zip(kept.items(), files, strict=True):
            copy = self.folder / name
            if not copy.is_file():
                raise SnapshotError(f"{copy}, which the checkpoint names, is missing")
            if sha256(copy) != digest:
                raise SnapshotError(f"{copy} is damaged: its sha256 is not the one in the checkpoint")
            shutil.copyfile(copy, file)

    def find(self, name: str) -> dict[str, str]:
        """The copies under ``name`` that another rank's checkpoint could not list, with their sha256 as far
        as their names tell it."""
        found = sorted(self.folder.glob(f"{name}-*"), reverse=True)  # vectors before steps
        return {path.name: sha256(path) for path in found if sha256(path)[:12] == path.name[-12:]}

    def collect(self, named: Iterable[str], before: int) -> None:
        """Remove the copies that none of the checkpoints names.

        Args:
            named: names to leave alone, and all that begin like one but for the rank and what follows.
            before: leave those of this batch and later ones; they may be about to be named.
        """
        if not self.folder.is_dir():
            return
        numbers = {name[:9] for name in named}
        for path in self.folder.iterdir():
            number = path.name[:9]
            if number.isdigit() and int(number) < before and number not in numbers:
                path.unlink(missing_ok=True)
