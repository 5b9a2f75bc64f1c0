"""The messages between the trainer and its worker.

Once in a run the trainer writes a :class:`MiningTask` into a folder: a JSON file, with arrays and weights
next to it. Then it sends a :class:`Job` for each refresh, and the worker sends an :class:`Answer`, each as
one line of JSON. Nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from lit_metric import store
from lit_metric.configurable import Arrays, build, check_importable, rebuilt, spec
from lit_metric.data import Items, Ragged, Relations, Tokens
from lit_metric.data.relations.lookup import Memo, PairSet
from lit_metric.index import Embeddings
from lit_metric.mining import Miner, NegativeTable
from lit_metric.refresh.snapshot import Snapshot, trained, untouched

if TYPE_CHECKING:
    from lit_metric.encoders import Encoder

SPEC = "spec.json"
BASE = "untouched.safetensors"
INITIAL = "initial.safetensors"
PROBE = "probe"
WRITTEN = (Relations, Items, Ragged, PairSet, Memo)
"""Classes that are written with arrays."""
_ARRAYS = ("items", "relations", "ids", "anchors", "corpus")
_PLAIN = ("fingerprint", "tokenizer", "seed", "max_tokens", "publish_vectors")


@dataclass(frozen=True)
class WorkerSettings:
    """How the worker computes.

    Args:
        threads: of torch, FAISS and OpenMP.
        device: where it encodes.
        autocast: ``"bfloat16"`` or ``"float16"`` for the forward pass; None for none.
        dtype: of all the encoder's weights; None if they have several, as the encoder's ``spec`` makes them.
        parent: the process that must be alive.
    """

    threads: int
    device: str
    autocast: str | None
    dtype: str | None
    parent: int


@dataclass(frozen=True, eq=False)
class MiningTask:
    """What is mined in a run, and where the tables go; the same for all its refreshes.

    Args:
        miner: proposes and filters.
        items: of the data set.
        tokens: of the items' vocabulary; in a file, for a worker to read them.
        relations: of the items.
        ids: ``[M]`` int64 global ids of the items to encode, rising.
        anchors: ids out of those to mine for; None: all.
        corpus: ids out of those that may be negatives; None: all.
        tables: folder of the table's versions.
        fingerprint: of the items and their relations.
        tokenizer: fingerprint of the tokenizer.
        seed: for proposers that draw at random.
        max_tokens: tokens encoded together.
        publish_vectors: publish the items' vectors with each version, for planners that use them.
    """

    miner: Miner
    items: Items
    tokens: Tokens
    relations: Relations
    ids: Tensor
    anchors: Tensor | None
    corpus: Tensor | None
    tables: Path
    fingerprint: str
    tokenizer: str
    seed: int
    max_tokens: int
    publish_vectors: bool

    def mine(self, vectors: Tensor | NDArray[Any]) -> NegativeTable:
        """The table that follows from the items' ``vectors [M, d]``."""
        among = {"anchors": self.anchors, "corpus": self.corpus}
        return self.miner.mine(Embeddings(self.ids, vectors), self.relations, self.seed, **among)

    def publish(
        self, table: NegativeTable, vectors: Tensor | NDArray[Any], weights: str, step: int, epoch: int
    ) -> int:
        """Write a table as a new version, and return its number.

        Args:
            table: by :meth:`mine`.
            vectors: that it was mined from.
            weights: fingerprint of the encoder's weights.
            step, epoch: of training, when the weights were copied.

        Raises:
            OSError: if the disk has no room for it.
        """
        return table.save(
            self.tables,
            corpus=self.fingerprint,
            tokenizer=self.tokenizer,
            weights=weights,
            step=step,
            epoch=epoch,
            vectors=Embeddings(self.ids, vectors) if self.publish_vectors else None,
        )

    def open(self, version: int, verify: bool = True) -> NegativeTable:
        """Map a version of the table into memory.

        Raises:
            TableError: if it is missing, damaged, or of other items or another tokenizer.
        """
        return NegativeTable.open(self.tables, version, self.fingerprint, verify, self.tokenizer)

    @property
    def probed(self) -> Tensor:
        """``[n]`` int64 ids of a few items. Their vectors show whether the worker's encoder is the same."""
        return self.ids[:: max(1, len(self.ids) // 8)][:8].contiguous()

    def describe(self, encoder: Encoder, arrays: Arrays) -> dict[str, Any]:
        """The task and the encoder in JSON types; tensors are put into ``arrays``.

        Raises:
            TypeError: if another process can't build the encoder, the miner or the relations from that.
        """
        if self.tokens.path is None:
            raise TypeError("the token ids are in memory only, where another process can't read them")
        # Keys are names to show to people. There may be millions, and the worker needs none.
        given = {**{name: getattr(self, name) for name in _ARRAYS}, "items": replace(self.items, keys=None)}
        described = {
            "encoder": encoder.spec(),
            "miner": self.miner.spec(),
            "tokens": str(self.tokens.path.resolve()),
            "skip": spec(self.tokens.skip, "skip", arrays, WRITTEN),
            "tables": str(self.tables.resolve()),
            **{name: spec(value, name, arrays, WRITTEN) for name, value in given.items()},
            **{name: getattr(self, name) for name in _PLAIN},
        }
        check_importable(described)
        return described

    def write(self, folder: Path, encoder: Encoder, settings: WorkerSettings, vectors: Tensor) -> Path:
        """Empty ``folder`` and write the task there, with the weights of ``encoder``.

        Args:
            folder: of the task.
            encoder: to describe.
            settings: of the worker.
            vectors: ``[n, d]`` of the items :attr:`probed`, by ``encoder``.

        Returns:
            The path of the JSON file, which is written last.

        Raises:
            OSError: if the disk has no room for it.
            TypeError: see :meth:`describe`.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        arrays: Arrays = {}
        described = self.describe(encoder, arrays)
        base = {name: value.cpu().contiguous().clone() for name, value in untouched(encoder).items()}
        weights = sum(value.numel() * value.element_size() for value in base.values())
        store.check_room(folder, weights + sum(array.nbytes for array in arrays.values()))
        for name, array in {**arrays, PROBE: vectors.float().cpu().numpy()}.items():
            store.write_array(folder / f"{name}.npy", array)
        save_file(base, folder / BASE)
        Snapshot(folder / INITIAL).write(trained(encoder))
        store.write_json(folder / SPEC, {**described, "worker": asdict(settings)})
        return folder / SPEC

    @classmethod
    def read(cls, path: Path) -> tuple[MiningTask, Encoder]:
        """The task that :meth:`write` wrote, and an encoder like the one described, with other weights."""
        described = json.loads(path.read_text(encoding="utf-8"))
        arrays = {file.stem: np.load(file, allow_pickle=False) for file in path.parent.glob("*.npy")}
        task = cls(
            miner=rebuilt(described["miner"]),
            tokens=Tokens(described["tokens"], build(described["skip"], WRITTEN, True, arrays)),
            tables=Path(described["tables"]),
            **{name: build(described[name], WRITTEN, True, arrays) for name in _ARRAYS},
            **{name: described[name] for name in _PLAIN},
        )
        return task, rebuilt(described["encoder"])


@dataclass(frozen=True)
class Job:
    """One refresh to do.

    Args:
        number: of the refresh.
        weights: file of the weights to mine with.
        step, epoch: of training, when the weights were copied.
        bank: path of a :class:`~lit_metric.refresh.snapshot.Bank` whose vectors may be used, or None.
        fresh_from: the batch from which on its vectors are new enough.
        previous: version of the table to compare with, 0 for none.
    """

    number: int
    weights: str
    step: int
    epoch: int
    bank: str | None = None
    fresh_from: int = 0
    previous: int = 0

    def line(self) -> str:
        """As the worker reads it."""
        return json.dumps(asdict(self)) + "\n"


@dataclass(frozen=True)
class Answer:
    """The outcome of a job, or the state of the worker.

    Args:
        kind: ``"ready"`` when the worker has started, ``"done"`` and ``"failed"`` of a job, ``"impossible"``
            if this worker can do no job at all, ``"died"`` when its process has ended.
        job: number of the refresh, for ``"done"`` and ``"failed"``.
        version: that was published.
        report: numbers to log, of ``"done"``; threads by library, of ``"ready"``.
        reason: of a failure, in words.
        status: of the process that died; below 0, the signal.
    """

    kind: Literal["ready", "done", "failed", "impossible", "died"]
    job: int = -1
    version: int = 0
    report: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    status: int = 0

    def line(self) -> str:
        """As the trainer reads it."""
        return json.dumps(asdict(self)) + "\n"
