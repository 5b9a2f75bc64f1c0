"""What the background worker is told once, before its first refresh: a JSON file and the arrays beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from lit_metric import store
from lit_metric.configurable import Arrays, build, check_importable, spec
from lit_metric.data import Items, Ragged, Relations, Tokens
from lit_metric.data.relations.lookup import Memo, PairSet
from lit_metric.mining.miner import Miner
from lit_metric.mining.snapshot import Snapshot, trained, untouched

if TYPE_CHECKING:
    from lit_metric.encoders import Encoder

SPEC = "spec.json"
BASE = "untouched.safetensors"
INITIAL = "initial.safetensors"
PROBE = "probe"
PROBED = 8
FORMAT = 1

WRITTEN = (Relations, Items, Ragged, PairSet, Memo)
"""What is written down with arrays."""


@dataclass(frozen=True)
class Settings:
    """The part of a task that is numbers and names.

    Args:
        tables: folder of the versions of the table.
        corpus: fingerprint of the items and what is known of them.
        tokenizer: fingerprint of the tokenizer.
        seed: for proposers that draw lots.
        max_tokens: tokens encoded together.
        threads: of torch, FAISS and OpenMP.
        device: where to encode.
        autocast: ``"bfloat16"`` or ``"float16"`` for the forward pass; None for none.
        dtype: of all the encoder's weights, None if they are of several, as its ``spec`` makes them.
        parent: the process that must be alive.
        vectors: whether the items' vectors are published with each version.
        machine: number of the machine that this is for; on all but the first, a share is encoded alone.
    """

    tables: str
    corpus: str
    tokenizer: str
    seed: int
    max_tokens: int
    threads: int
    device: str
    autocast: str | None
    dtype: str | None
    parent: int
    vectors: bool = False
    machine: int = 0


@dataclass(frozen=True, eq=False)
class Task:
    """All that stays the same from one refresh to the next.

    Args:
        encoder: its ``spec()``.
        miner: its ``spec()``.
        items: of the data set.
        tokens: of the items' vocabulary, in a file.
        relations: of the items.
        ids: ``[M]`` int64 global ids of the items to encode, rising.
        anchors: of those, the ones to mine for; None for all.
        proposed: of those, the ones that may be negatives; None for all.
        settings: the rest.
    """

    encoder: dict[str, Any]
    miner: dict[str, Any]
    items: Items
    tokens: Tokens
    relations: Relations
    ids: Tensor
    anchors: Tensor | None
    proposed: Tensor | None
    settings: Settings

    @classmethod
    def of(cls, encoder: Encoder, miner: Miner, **parts: Any) -> Task:
        """Describe an encoder and a miner.

        Raises:
            TypeError: if one of them, or the relations, can't be described so that another process could
                build it again.
        """
        task = cls(encoder=encoder.spec(), miner=miner.spec(), **parts)
        check_importable(task._described({}))
        return task

    def _described(self, arrays: Arrays) -> dict[str, Any]:
        if self.tokens.path is None:
            raise TypeError("the token ids are in memory only, where another process can't read them")
        # Names to show to people are of no use there, and there may be millions.
        given = {**{name: getattr(self, name) for name in _ARRAYS}, "items": replace(self.items, keys=None)}
        return {
            "format": FORMAT,
            "encoder": self.encoder,
            "miner": self.miner,
            "tokens": str(self.tokens.path.resolve()),
            "skip": spec(self.tokens.skip, "skip", arrays, WRITTEN),
            **{name: spec(value, name, arrays, WRITTEN) for name, value in given.items()},
            "settings": asdict(self.settings),
        }

    @property
    def probed(self) -> Tensor:
        """``[n]`` int64 ids of a few items, by whose vectors the worker's encoder is known to be the same."""
        return self.ids[:: max(1, len(self.ids) // PROBED)][:PROBED].contiguous()

    def write(self, folder: Path, encoder: Encoder, vectors: Tensor) -> Path:
        """Empty ``folder`` and write the task there, with the weights of ``encoder``.

        Args:
            folder: of the task.
            encoder: that was described.
            vectors: ``[n, d]`` what it makes of the items :attr:`probed`.

        Returns:
            The path of the JSON file, which is written last.

        Raises:
            OSError: if the disk has no room for it.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        arrays: Arrays = {}
        described = self._described(arrays)
        base = {name: value.cpu().contiguous().clone() for name, value in untouched(encoder).items()}
        weights = sum(value.numel() * value.element_size() for value in base.values())
        store.check_room(folder, weights + sum(array.nbytes for array in arrays.values()))
        for name, array in {**arrays, PROBE: vectors.float().cpu().numpy()}.items():
            store.write_array(folder / f"{name}.npy", array)
        save_file(base, folder / BASE)
        Snapshot(folder / INITIAL).write(trained(encoder))
        store.write_json(folder / SPEC, described)
        return folder / SPEC

    @classmethod
    def read(cls, path: Path) -> Task:
        """What :meth:`write` wrote.

        Raises:
            ValueError: if it is of another version of the library.
        """
        described = json.loads(path.read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise ValueError(f"{path} has format {described['format']}, this version reads {FORMAT}")
        arrays = {file.stem: np.load(file, allow_pickle=False) for file in path.parent.glob("*.npy")}
        return cls(
            encoder=described["encoder"],
            miner=described["miner"],
            tokens=Tokens(described["tokens"], build(described["skip"], WRITTEN, True, arrays)),
            settings=Settings(**described["settings"]),
            **{name: build(described[name], WRITTEN, True, arrays) for name in _ARRAYS},
        )


_ARRAYS = [
    field.name for field in fields(Task) if field.name not in ("encoder", "miner", "tokens", "settings")
]


def settings_of(path: Path) -> Settings:
    """The settings alone, for whoever has to set up a process before it may import what the task names."""
    return Settings(**json.loads(path.read_text(encoding="utf-8"))["settings"])
