"""The vectors that training steps computed, kept by item with the step that each is from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.mining.snapshot import SnapshotError, keep, reserve


class Bank:
    """One row for each of ``M`` items, in two memory-mapped files.

    Every process writes a bank of its own, since two that had the same item in one batch would race for the
    row; :func:`merge` puts them together.

    Args:
        path: beside which ``PATH.vectors`` (float32 ``[M, d]``) and ``PATH.steps`` (int64 ``[M]``) are.
        ids: ``[M]`` int64 global ids, rising.
        dimension: of the vectors.
        fresh: start without any vectors; otherwise the files must be there.

    Raises:
        OSError: if the disk has no room for it.
        SnapshotError: if the files are missing or of another size.

    Example:
        >>> import tempfile
        >>> bank = Bank(Path(tempfile.mkdtemp()) / "bank", torch.tensor([3, 5]), dimension=2, fresh=True)
        >>> bank.put(torch.tensor([5, 9]), torch.tensor([[1.0, 2.0], [0.0, 0.0]]), step=7)
        >>> bank.steps.tolist(), bank.vectors.tolist()
        ([-1, 7], [[0.0, 0.0], [1.0, 2.0]])
    """

    def __init__(self, path: Path, ids: Tensor, dimension: int, fresh: bool = False) -> None:
        self.path = path
        self.ids = ids
        shape = len(ids), dimension
        for file, size in zip(self.files, (4 * len(ids) * dimension, 8 * len(ids)), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            if fresh:
                file.unlink(missing_ok=True)
                reserve(file, size)
            elif not file.is_file() or file.stat().st_size != size:
                raise SnapshotError(f"{file} is not the bank of {shape[0]} vectors of {shape[1]} components")
        self.vectors: NDArray[np.float32] = np.memmap(self.files[0], np.float32, "r+", shape=shape)
        # Counted from 1 in the file, so that one that was only reserved says "never".
        self._steps: NDArray[np.int64] = np.memmap(self.files[1], np.int64, "r+", shape=len(ids))

    @property
    def files(self) -> tuple[Path, Path]:
        """Where the vectors and the steps are."""
        return files_of(self.path)

    @property
    def steps(self) -> NDArray[np.int64]:
        """``[M]`` the step after which each vector was put there, -1 for never."""
        return self._steps - 1

    def put(self, ids: Tensor, vectors: Tensor, step: int) -> None:
        """Keep ``vectors [n, d]`` of the items ``ids [n]``, computed at ``step``; others than the bank's are
        left out."""
        ids = ids.cpu()
        rows = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        known = self.ids[rows] == ids
        where = rows[known].numpy()
        self.vectors[where] = vectors.detach()[known.to(vectors.device)].float().cpu().numpy()
        self._steps[where] = step + 1

    def stale(self, before: int) -> Tensor:
        """``[s]`` rows whose vectors are from before step ``before``, or missing."""
        return torch.from_numpy((self.steps < before).nonzero()[0])

    def merge(self, banks: Sequence[Bank]) -> None:
        """Take the latest vector of each row out of ``banks``; of equally late ones, the first bank's."""
        if len(banks) == 1:
            self.vectors[:], self._steps[:] = banks[0].vectors, banks[0]._steps
            return
        steps = np.stack([bank._steps for bank in banks])
        latest = steps.argmax(axis=0)
        self._steps[:] = steps.max(axis=0)
        for number, bank in enumerate(banks):
            rows = (latest == number).nonzero()[0]
            self.vectors[rows] = bank.vectors[rows]


def files_of(path: Path) -> tuple[Path, Path]:
    """The two files of the bank at ``path``."""
    return path.with_name(f"{path.name}.vectors"), path.with_name(f"{path.name}.steps")


def keep_bank(source: Path, path: Path) -> dict[str, Any]:
    """Copy a bank durably; the sha256 of its files by their names."""
    pairs = zip(files_of(source), files_of(path), strict=True)
    return {copy.name: keep(file, copy) for file, copy in pairs}
