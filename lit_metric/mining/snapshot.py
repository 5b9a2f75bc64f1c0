"""A copy of the weights that are being trained, for another process to read while training goes on.

The file is laid out as safetensors has it, so anything that reads those reads it; but it is written in place,
through a memory map, as a new file for each copy would be allocated and thrown away each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
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
    """A copy of the weights is missing, damaged, or of another model."""


def trained(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters that take gradients, and buffers. A tied parameter comes once."""
    saved = module.state_dict(keep_vars=True)
    live: dict[str, Tensor] = {
        name: value for name, value in module.named_parameters() if value.requires_grad
    }
    live |= {name: value for name, value in module.named_buffers() if name in saved}
    return {name: value.detach() for name, value in live.items()}


def untouched(module: nn.Module) -> dict[str, Tensor]:
    """The rest of the module's weights: frozen, so that one copy does for the whole run."""
    changing = {value.data_ptr() for value in trained(module).values() if value.numel()}
    return {
        name: value
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor) and value.numel() and value.data_ptr() not in changing
    }


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
        """Put the values of ``tensors`` into the file, whole when this returns.

        It is not synced: who wants it to survive the machine asks :meth:`keep`.

        Raises:
            OSError: if the disk has no room for it. Nothing is written then.
            TypeError: if a tensor's type is none that safetensors has.
        """
        header, places = _layout(tensors)
        if header != self._header or not self.path.is_file():
            self._map(header, places, tensors)
        for name, value in tensors.items():
            self._places[name].copy_(value)

    def _map(
        self, header: bytes, places: Mapping[str, tuple[int, int]], tensors: Mapping[str, Tensor]
    ) -> None:
        size = len(header) + max((stop for _, stop in places.values()), default=0)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        reserve(self.path, size)
        mapped = np.memmap(self.path, dtype=np.uint8, mode="r+")
        mapped[: len(header)] = np.frombuffer(header, dtype=np.uint8)
        body = torch.from_numpy(mapped[len(header) :])
        self._places = {
            name: body[start:stop].view(tensors[name].dtype).view(tensors[name].shape)
            for name, (start, stop) in places.items()
        }
        self._header = header

    def keep(self, path: Path) -> str:
        """Copy the file to ``path``, durably, and give the copy's sha256."""
        return keep(self.path, path)


def keep(source: Path, path: Path) -> str:
    """Copy a file durably, and give the copy's sha256.

    Raises:
        OSError: if the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_room(path.parent, source.stat().st_size)
    with replacing(path) as unfinished:
        shutil.copyfile(source, unfinished)
    return sha256(path)


def restore(module: nn.Module, path: Path, base: Path | None = None) -> None:
    """Load weights into ``module``.

    Args:
        module: of the same kind as the one that they were copied from.
        path: of those that training changes.
        base: of the rest, to be loaded the first time. Both together must hold all weights.

    Raises:
        SnapshotError: if a file cannot be read, or names, shapes or types are others.
    """
    weights = _read(path) if base is None else {**_read(base), **_read(path)}
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    odd = [name for name, value in weights.items() if name not in own or not _alike(own[name], value)]
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


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"{path} holds no weights that can be read: {error}") from error


def _alike(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype


def fingerprint(module: nn.Module) -> str:
    """A hash of all weights."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def reserve(path: Path, size: int) -> None:
    """Make ``path`` a file of ``size`` bytes that the disk really has: writing to a memory map of any other
    would end the process when the disk is full.

    Raises:
        OSError: if the disk has no room for it.
    """
    already = path.stat().st_size if path.is_file() else 0
    check_room(path.parent, size - already)
    with path.open("ab") as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)


def _layout(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The header of the file, and where each tensor lies behind it; the widest types first, which aligns
    them all."""
    entries, places, start = {}, {}, 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        value = tensors[name]
        if value.dtype not in _NAMES:
            raise TypeError(f"{name} is {value.dtype}, which safetensors files can't hold")
        stop = start + value.numel() * value.element_size()
        places[name] = start, stop
        entries[name] = {
            "dtype": _NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places
