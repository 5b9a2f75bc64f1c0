"""Copies of the weights and vectors in training, for the worker to read, and of files for checkpoints.

A file of weights is laid out as safetensors, so any reader of that format reads it. It is written in place,
through a memory map, because a new file for each copy would be allocated and thrown away each time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_metric.store import check_room, replacing, sha256

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class SnapshotError(ValueError):
    """A copy of weights or vectors is missing, damaged, or of another model."""


def trained(module: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes: parameters that take gradients, and buffers. A tied parameter comes
    once."""
    saved = module.state_dict(keep_vars=True)
    live: dict[str, Tensor] = {
        name: value for name, value in module.named_parameters() if value.requires_grad
    }
    live |= {name: value for name, value in module.named_buffers() if name in saved}
    return {name: value.detach() for name, value in live.items()}


def untouched(module: nn.Module) -> dict[str, Tensor]:
    """The other weights of the module. They are frozen, so one copy serves the whole run."""
    changing = {value.data_ptr() for value in trained(module).values() if value.numel()}
    return {
        name: value
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor) and value.numel() and value.data_ptr() not in changing
    }


def restore(module: nn.Module, path: Path, base: Path | None = None) -> None:
    """Load weights into ``module``.

    Args:
        module: of the same kind as the one that they were copied from.
        path: file of the weights that training changes.
        base: file of the other weights, for the first time. Both together must hold all weights.

    Raises:
        SnapshotError: if a file cannot be read, or names, shapes or types differ.
    """
    try:
        weights = ({} if base is None else load_file(base)) | load_file(path)
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"{path} or {base} holds no weights that can be read: {error}") from error
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    odd = [
        name
        for name, value in weights.items()
        if name not in own or (own[name].shape, own[name].dtype) != (value.shape, value.dtype)
    ]
    if base is not None:
        given = {own[name].data_ptr() for name in weights if name in own}
        odd += [name for name, value in own.items() if value.numel() and value.data_ptr() not in given]
    if odd:
        raise SnapshotError(
            f"the weights in {path} are of another encoder than the one described, first in {odd[0]}: an "
            "encoder that was changed after it was built can't be built again by another process"
        )
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def reserve(path: Path, size: int) -> None:
    """Make ``path`` a file of ``size`` bytes that the disk really has. Writing to a memory map of any other
    file ends the process when the disk is full.

    Raises:
        OSError: if the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_room(path.parent, size - (path.stat().st_size if path.is_file() else 0))
    with path.open("ab") as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)


class Snapshot:
    """One file of tensors, written again and again.

    Args:
        path: of the file; made when it is first written.

    Example:
        >>> import tempfile
        >>> snapshot = Snapshot(Path(tempfile.mkdtemp()) / "weights.safetensors")
        >>> snapshot.write({"scale": torch.tensor([1.0, 2.0]), "count": torch.tensor(3)})
        >>> {name: value.tolist() for name, value in load_file(snapshot.path).items()}
        {'count': 3, 'scale': [1.0, 2.0]}
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header = b""
        self._places: dict[str, Tensor] = {}

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the values of ``tensors`` into the file, which is whole when this returns, but not synced.

        Raises:
            OSError: if the disk has no room for it. Nothing is written then.
            TypeError: if safetensors lacks the type of a tensor.
        """
        header, places = self._layout(tensors)
        if header != self._header or not self.path.is_file():
            reserve(self.path, len(header) + max((stop for _, stop in places.values()), default=0))
            mapped = np.memmap(self.path, dtype=np.uint8, mode="r+")
            mapped[: len(header)] = np.frombuffer(header, dtype=np.uint8)
            body = torch.from_numpy(mapped[len(header) :])
            self._places = {
                name: body[start:stop].view(tensors[name].dtype).view(tensors[name].shape)
                for name, (start, stop) in places.items()
            }
            self._header = header
        for name, value in tensors.items():
            self._places[name].copy_(value)

    def _layout(self, tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, tuple[int, int]]]:
        """The header of the file, and where each tensor lies behind it. The widest types come first, which
        aligns all of them."""
        entries, places, start = {}, {}, 0
        for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
            value = tensors[name]
            if value.dtype not in _NAMES:
                raise TypeError(f"{name} is {value.dtype}, which safetensors files can't hold")
            stop = start + value.numel() * value.element_size()
            places[name] = start, stop
            shape = list(value.shape)
            entries[name] = {"dtype": _NAMES[value.dtype], "shape": shape, "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text, places


class Bank:
    """The latest vector that training computed of each of ``M`` items, in two memory-mapped files.

    Every process writes a bank of its own, since two processes that had the same item in one batch would race
    for the row. :meth:`merge` puts the banks together.

    Args:
        path: next to which ``PATH.vectors`` (float32 ``[M, d]``) and ``PATH.steps`` (int64 ``[M]``) are.
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
        self.ids = ids
        self.files = self.files_of(path)
        shape = len(ids), dimension
        for file, size in zip(self.files, (4 * len(ids) * dimension, 8 * len(ids)), strict=True):
            if fresh:
                file.unlink(missing_ok=True)
                reserve(file, size)
            elif not file.is_file() or file.stat().st_size != size:
                raise SnapshotError(f"{file} is not the bank of {shape[0]} vectors of {shape[1]} components")
        self.vectors: NDArray[np.float32] = np.memmap(self.files[0], np.float32, "r+", shape=shape)
        # Counted from 1 in the file, so that one that was only reserved says "never".
        self._steps: NDArray[np.int64] = np.memmap(self.files[1], np.int64, "r+", shape=len(ids))

    @staticmethod
    def files_of(path: Path) -> tuple[Path, Path]:
        """The two files of the bank at ``path``."""
        return path.with_name(f"{path.name}.vectors"), path.with_name(f"{path.name}.steps")

    @property
    def steps(self) -> NDArray[np.int64]:
        """``[M]`` the step after which each vector was put there, -1 for never."""
        return self._steps - 1

    def put(self, ids: Tensor, vectors: Tensor, step: int) -> None:
        """Store ``vectors [n, d]`` of the items ``ids [n]``, computed at ``step``. Items that the bank has no
        row for are left out."""
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


class CheckpointFiles:
    """Copies of files that a checkpoint needs and doesn't contain. The name of a copy holds the batch
    and a part of its sha256.

    Args:
        folder: of the copies.
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
            self.folder.mkdir(parents=True, exist_ok=True)
            check_room(self.folder, file.stat().st_size)
            unnamed = self.folder / f"{name}.new"
            with replacing(unnamed) as unfinished:
                shutil.copyfile(file, unfinished)
            digest = sha256(unnamed)
            copy = f"{name}-{file.suffix[1:]}-{digest[:12]}"
            unnamed.replace(self.folder / copy)
            kept[copy] = digest
        return kept

    def restore(self, kept: Mapping[str, str], files: Sequence[Path]) -> None:
        """Copy back the files that :meth:`keep` copied.

        Raises:
            SnapshotError: if a copy is missing or damaged, or their number is not that of ``files``.
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
        """The undamaged copies under ``name`` and their sha256, for a rank whose files the checkpoint of rank
        zero could not list."""
        found = sorted(self.folder.glob(f"{name}-*"), reverse=True)  # vectors before steps
        return {path.name: sha256(path) for path in found if sha256(path)[:12] == path.name[-12:]}

    def collect(self, named: Iterable[str], before: int) -> None:
        """Remove the copies that no checkpoint names.

        Args:
            named: names to leave alone, with those of the other ranks for the same batch.
            before: leave those of this batch and later ones; a checkpoint may be about to name them.
        """
        if not self.folder.is_dir():
            return
        numbers = {name[:9] for name in named}
        for path in self.folder.iterdir():
            number = path.name[:9]
            if number.isdigit() and int(number) < before and number not in numbers:
                path.unlink(missing_ok=True)
