"""The process that mines while training goes on: ``python -m lit_metric.mining.worker SPEC.json``.

It lives for the whole run. Each line that it reads is a refresh to do, each line that it writes says what
came of one; both are JSON. What it and its libraries print goes to standard error. It ends when its input
ends, and at once when its parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.configurable import parts, rebuilt
from lit_metric.index import Embeddings, Index
from lit_metric.mining import faults
from lit_metric.mining.bank import Bank
from lit_metric.mining.miner import Miner
from lit_metric.mining.shares import FOLDER, PATIENCE_S, Shares
from lit_metric.mining.snapshot import SnapshotError, fingerprint, reserve, restore
from lit_metric.mining.table import NegativeTable, TableError
from lit_metric.mining.task import BASE, INITIAL, PROBE, Task, settings_of

WATCH_S = 0.5
ALIKE = 0.99
"""The least cosine of two vectors of one item, by an encoder and by its copy, maybe on another device."""


@dataclass(frozen=True)
class Job:
    """One refresh.

    Args:
        number: of the refresh.
        weights: file of the weights to mine with.
        step, epoch: of training, when they were copied.
        bank: path of a :class:`~lit_metric.mining.bank.Bank` whose vectors may be used, or None.
        fresh_from: the batch from which on its vectors are new enough.
        previous: version of the table to compare with, 0 for none.
        machines: that encode a share each, this one's among them.
    """

    number: int
    weights: str
    step: int
    epoch: int
    bank: str | None = None
    fresh_from: int = 0
    previous: int = 0
    machines: int = 1

    def line(self) -> str:
        """As the worker reads it."""
        return json.dumps(asdict(self)) + "\n"


class Worker:
    """Encodes, searches, filters and writes.

    Args:
        task: what stays the same.
        folder: that of the task's file; vectors are kept in it.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        faults.reached("build")
        # Not at the top of the file: it takes seconds, in which the parent is watched already.
        from lit_metric.encoders.base import from_spec

        self.task = task
        self.folder = folder
        dtype = task.settings.dtype
        self.encoder = from_spec(task.encoder).eval()
        self.encoder.to(device=task.settings.device, dtype=None if dtype is None else getattr(torch, dtype))
        self.base: Path | None = folder / BASE
        self.miner = _within(task.settings.threads, rebuilt(task.miner))

    @torch.no_grad()
    def check(self) -> None:
        """See, once in a run, whether the encoder that was described is the one that is trained.

        Raises:
            SnapshotError: if its weights are others, or it makes other vectors of the same items.
        """
        probe, initial = self.folder / f"{PROBE}.npy", self.folder / INITIAL
        if not probe.is_file():
            return
        self._restore(initial)
        expected = torch.from_numpy(np.load(probe, allow_pickle=False))
        found = torch.empty_like(expected)
        for vectors, ids in self._encoded(self._parts(self.task.probed)):
            found[torch.searchsorted(self.task.probed, ids)] = vectors
        cosine = torch.nn.functional.cosine_similarity(expected, found).amin()
        if not cosine > ALIKE:
            raise SnapshotError(
                "the encoder that its description makes is another one (cosine "
                f"{float(cosine):.3f} between the vectors of one item): it was changed after it was built"
            )
        probe.unlink()
        initial.unlink()

    def _restore(self, weights: Path) -> None:
        # What is frozen is loaded once, and so the vectors that an encoder remembers of it stay valid.
        restore(self.encoder, weights, self.base)
        self.base = None

    def refresh(self, job: Job) -> dict[str, Any]:
        """Mine and save a version; says which, and how it went. On another machine than the first, encode a
        share for it."""
        started = time.perf_counter()
        self._restore(Path(job.weights))
        if self.task.settings.machine:
            return self._help(job)
        vectors, rows = self._known(job)
        shared = self._encode(vectors, rows, job)
        encoded = time.perf_counter()
        faults.reached("search")
        settings = self.task.settings
        table = self._mine(vectors)
        table.report["encoded"] = len(rows) / len(vectors)
        if job.machines > 1:
            table.report["shared"] = shared / len(vectors)
        table.report["overlap"] = self._overlap(table, job.previous)
        version = table.save(
            settings.tables,
            corpus=settings.corpus,
            tokenizer=settings.tokenizer,
            weights=fingerprint(self.encoder),
            step=job.step,
            epoch=job.epoch,
            vectors=Embeddings(self.task.ids, vectors) if settings.vectors else None,
        )
        faults.reached("answer")
        seconds = {"seconds": time.perf_counter() - started, "encoding_seconds": encoded - started}
        return {"job": job.number, "version": version, "report": {**table.report, **seconds}}

    def _known(self, job: Job) -> tuple[NDArray[np.float32], Tensor]:
        """``[M, d]`` memory-mapped vectors, and the rows that must be encoded."""
        ids, dimension = self.task.ids, self.encoder.dimension
        if job.bank is not None:
            # Encoding into the bank's rows: should it have to be done again, it ends in the same values.
            bank = Bank(Path(job.bank), ids, dimension)
            return bank.vectors, bank.stale(job.fresh_from)
        path, shape = self.folder / "vectors", (len(ids), dimension)
        reserve(path, 4 * len(ids) * dimension)
        return np.memmap(path, np.float32, "r+", shape=shape), torch.arange(len(ids))

    def _encode(self, vectors: NDArray[np.float32], rows: Tensor, job: Job) -> int:
        """Fill in these rows; says how many of them other machines have encoded."""
        ids, parts, shares = self.task.ids, self._parts(self.task.ids[rows]), self._shares(job)
        started = time.monotonic()
        self._fill(vectors, shares.of(0, parts))
        if job.machines == 1:
            return 0
        shared = 0
        shares.forget_before(job.number)
        weights = fingerprint(self.encoder)
        # They began at the same time: one that needs twice as long has failed, or may as well have.
        until = time.monotonic() + max(PATIENCE_S, time.monotonic() - started)
        for machine in range(1, job.machines):
            theirs = shares.of(machine, parts)
            found = torch.cat([ids[:0], *theirs])
            share = shares.take(job.number, machine, weights, (len(found), vectors.shape[1]), until)
            if isinstance(share, Tensor):
                vectors[torch.searchsorted(ids, found).numpy()] = share.numpy()
                shared += len(found)
            else:
                print(f"Encoding the share of machine {machine}, too: {share}", file=sys.stderr, flush=True)
                self._fill(vectors, theirs)
        return shared

    def _help(self, job: Job) -> dict[str, Any]:
        """Encode this machine's share of a refresh, and hand it over."""
        machine, shares = self.task.settings.machine, self._shares(job)
        own = shares.of(machine, self._parts(self.task.ids))
        faults.reached("share")
        empty = torch.empty(0, self.encoder.dimension)
        with torch.no_grad(), self._precision():
            share = torch.cat([empty, *self._in_order(own)])
        shares.put(job.number, machine, fingerprint(self.encoder), share)
        return {"job": job.number}

    def _shares(self, job: Job) -> Shares:
        return Shares(Path(self.task.settings.tables) / FOLDER, job.machines)

    @torch.no_grad()
    def _fill(self, vectors: NDArray[np.float32], parts: Sequence[Tensor]) -> None:
        with self._precision():
            for encoded, found in self._encoded(parts):
                vectors[torch.searchsorted(self.task.ids, found).numpy()] = encoded.numpy()
                faults.reached("encode")

    def _in_order(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The vectors of each part, in the order of its ids."""
        for part, (encoded, found) in zip(parts, self._encoded(parts), strict=True):
            by_id, order = found.sort()
            yield encoded[order[torch.searchsorted(by_id, part)]]

    def _parts(self, ids: Tensor) -> list[Tensor]:
        """The items ``ids`` cut into batches."""
        from lit_metric.batching import chunks

        return chunks(self.task.items, self.task.tokens, ids, self.task.settings.max_tokens)

    def _encoded(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Vectors of the items of each part, with their ids."""
        from lit_metric.batching import ChunkDataset
        from lit_metric.data import Collator

        data = ChunkDataset(Collator(self.task.items, self.task.tokens), list(parts))
        for place in range(len(data)):
            batch = data[place].to(self.task.settings.device)
            yield self.encoder(batch.inputs)[batch.anchors].float().cpu(), batch.anchor_ids.cpu()

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        settings = self.task.settings
        if settings.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(settings.device).type, dtype=getattr(torch, settings.autocast))

    def _mine(self, vectors: NDArray[np.float32]) -> NegativeTable:
        task = self.task
        among = {"anchors": task.anchors, "corpus": task.proposed}
        given = {name: ids for name, ids in among.items() if ids is not None}
        embeddings = Embeddings(task.ids, vectors)
        return self.miner.mine(embeddings, task.relations, task.settings.seed, **given)

    def _overlap(self, table: NegativeTable, previous: int) -> float:
        """With the table before, 0 if it is gone."""
        try:
            before = NegativeTable.open(self.task.settings.tables, previous, verify=False)
        except TableError:
            return 0.0
        overlap = table.overlap(before)
        return overlap if overlap == overlap else 0.0


def _within(threads: int, miner: Miner) -> Miner:
    """The miner, none of whose indexes may take more threads than there are for the process."""
    for part in parts(miner):
        if isinstance(part, Index) and (own := getattr(part, "threads", None)) is not None:
            part.threads = min(own, threads)  # type: ignore[attr-defined]
    return miner


def serve(path: Path, answers: TextIO) -> None:
    """Do what is asked for on standard input until that ends."""
    settings = settings_of(path)
    threading.Thread(target=_watch, args=(settings.parent,), daemon=True).start()
    faults.arm()
    limited = _limit(settings.threads)
    worker = Worker(Task.read(path), path.parent)
    try:
        worker.check()
    except SnapshotError as error:
        _tell(answers, {"impossible": str(error)})
        return
    _tell(answers, {"ready": os.getpid(), "threads": limited})
    for line in sys.stdin:
        job = Job(**json.loads(line))
        try:
            answer = worker.refresh(job)
        except Exception as error:  # whatever it is, training must hear of it and go on
            traceback.print_exc()
            answer = {"job": job.number, "error": f"{type(error).__name__}: {error}"}
        _tell(answers, answer)


def _tell(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _watch(parent: int) -> None:
    # The end of standard input comes late, or never, where some other child of the parent has inherited the
    # other end of the pipe. An orphan, however, has another parent at once.
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


def _limit(threads: int) -> dict[str, int]:
    """Keep to so many threads; what the libraries say of that."""
    import faiss

    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # set already, by something that was imported
        torch.set_num_interop_threads(1)
    faiss.omp_set_num_threads(threads)
    return {"torch": torch.get_num_threads(), "faiss": faiss.omp_get_max_threads()}


def main() -> None:
    """Keep standard output for answers, and serve."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Path(sys.argv[1]), answers)


if __name__ == "__main__":
    main()
