"""Encoding shared out to the machines of a run, by files on the disk that all of them have."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_metric.store import check_room, replacing

Part = TypeVar("Part")
FOLDER = "shares"
"""Of the shares, within that of the tables."""
PATIENCE_S = 10.0
"""Machine zero waits for another's share at least so long after it has encoded its own."""
_LOOK_S = 0.05


class Shares:
    """What each machine but the first has encoded of a refresh, one file each.

    Who encodes what is fixed, and how it is cut into batches doesn't depend on the number of machines. So the
    vectors are the same, bit for bit on machines of one kind, if one of them fails and another encodes its
    share.

    Args:
        folder: that all machines see.
        machines: of the run.
    """

    def __init__(self, folder: Path, machines: int) -> None:
        self.folder = folder
        self.machines = machines

    def of(self, machine: int, parts: Sequence[Part]) -> list[Part]:
        """The parts that a machine encodes: every so manieth, as they are in falling order of size.

        Example:
            >>> Shares(Path("."), 2).of(1, "abcde")
            ['b', 'd']
        """
        return list(parts[machine :: self.machines])

    def put(self, number: int, machine: int, weights: str, vectors: Tensor) -> None:
        """Write a share.

        Args:
            number: of the refresh.
            machine: whose share it is.
            weights: fingerprint of those that it was encoded with.
            vectors: ``[n, d]`` float32 of the items of its parts, in their order.

        Raises:
            OSError: if the disk has no room for it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        check_room(self.folder, vectors.numel() * vectors.element_size())
        about = {"weights": weights, "sha256": _sha256(vectors)}
        with replacing(self._path(number, machine)) as unfinished:
            save_file({"vectors": vectors.contiguous()}, unfinished, about)

    def take(
        self, number: int, machine: int, weights: str, shape: tuple[int, int], until: float
    ) -> Tensor | str:
        """A share, once it is there.

        Args:
            number, machine, weights: see :meth:`put`.
            shape: that its vectors must have.
            until: when to give it up, on the clock of ``time.monotonic``.

        Returns:
            The vectors, or why there are none to be used.
        """
        path = self._path(number, machine)
        while not path.is_file():
            if time.monotonic() >= until:
                return f"{path} is not there yet"
            time.sleep(_LOOK_S)
            with contextlib.suppress(OSError):  # to list a folder makes a network's disk look again
                sum(1 for _ in self.folder.iterdir())
        try:
            with safe_open(path, "pt") as file:
                about, vectors = file.metadata() or {}, file.get_tensor("vectors")
        except (OSError, SafetensorError) as error:
            return f"{path} can't be read: {error}"
        if about.get("weights") != weights:
            return f"{path} was encoded with other weights"
        if vectors.dtype != torch.float32 or tuple(vectors.shape) != shape:
            return f"{path} has vectors of {list(vectors.shape)}, not {list(shape)}"
        if about.get("sha256") != _sha256(vectors):
            return f"{path} is damaged: its sha256 is not the one that was written"
        return vectors

    def forget_before(self, number: int) -> None:
        """Remove the shares of earlier refreshes, which have been used or given up."""
        for path in self.folder.glob("*-*.safetensors"):
            if int(path.name.partition("-")[0]) < number:
                path.unlink(missing_ok=True)

    def _path(self, number: int, machine: int) -> Path:
        return self.folder / f"{number:09d}-{machine}.safetensors"


def _sha256(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()
