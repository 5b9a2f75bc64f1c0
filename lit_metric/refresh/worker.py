"""The process that mines while training goes on: ``python -m lit_metric.refresh.worker SPEC.json``.

It lives for the whole run. Each line that it reads is a :class:`~lit_metric.refresh.spec.Job`, each line that
it writes an :class:`~lit_metric.refresh.spec.Answer`. All that it and its libraries print goes to standard
error. It ends when its input ends, and at once when its parent is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.configurable import parts
from lit_metric.encoders.pretrained import fingerprint
from lit_metric.index import Index
from lit_metric.mining import TableError
from lit_metric.refresh.snapshot import Bank, SnapshotError, reserve, restore
from lit_metric.refresh.spec import BASE, INITIAL, PROBE, Answer, Job, MiningTask, WorkerSettings

WATCH_S = 0.5
SAME = 0.99
"""The least cosine of two vectors of one item, by an encoder and by its copy, maybe on another device."""


class Worker:
    """Encodes, searches, filters and writes.

    Args:
        spec: file of the task. Its folder holds the task's arrays and weights, and takes the vectors.
        settings: how to compute.
    """

    def __init__(self, spec: Path, settings: WorkerSettings) -> None:
        self.folder = spec.parent
        self.settings = settings
        self.task, encoder = MiningTask.read(spec)
        self.encoder = encoder.eval()
        dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
        self.encoder.to(device=settings.device, dtype=dtype)
        self.base: Path | None = self.folder / BASE
        for part in parts(self.task.miner):
            # No index may take more threads than there are for the process.
            if isinstance(part, Index) and (own := getattr(part, "threads", None)) is not None:
                part.threads = min(own, settings.threads)  # type: ignore[attr-defined]

    @torch.no_grad()
    def check(self) -> None:
        """Check, once in a run, that the encoder that was described is the one that is trained.

        Raises:
            SnapshotError: if it has other weights, or makes other vectors of the same items.
        """
        probe, initial = self.folder / f"{PROBE}.npy", self.folder / INITIAL
        if not probe.is_file():
            return
        self._restore(initial)
        expected = torch.from_numpy(np.load(probe, allow_pickle=False))
        found = torch.empty_like(expected)
        for vectors, ids in self._encoded(self.task.probed):
            found[torch.searchsorted(self.task.probed, ids)] = vectors
        cosine = torch.nn.functional.cosine_similarity(expected, found).amin()
        if not cosine > SAME:
            raise SnapshotError(
                "the encoder that its description makes is another one (cosine "
                f"{float(cosine):.3f} between the vectors of one item): it was changed after it was built"
            )
        probe.unlink()
        initial.unlink()

    def _restore(self, weights: Path) -> None:
        # The frozen part is loaded once, and so the vectors that an encoder remembers of it stay valid.
        restore(self.encoder, weights, self.base)
        self.base = None

    def refresh(self, job: Job) -> Answer:
        """Mine and publish a version; the answer says which, and how it went."""
        started = time.perf_counter()
        self._restore(Path(job.weights))
        vectors, stale = self._known(job)
        self._encode(vectors, stale)
        encoded = time.perf_counter()
        table = self.task.mine(vectors)
        table.report["encoded"] = len(stale) / len(vectors)
        table.report["overlap"] = 0.0
        with contextlib.suppress(TableError):  # the table before may be gone
            overlap = table.overlap(self.task.open(job.previous, verify=False))
            table.report["overlap"] = overlap if overlap == overlap else 0.0
        version = self.task.publish(table, vectors, fingerprint(self.encoder), job.step, job.epoch)
        seconds = {"seconds": time.perf_counter() - started, "encoding_seconds": encoded - started}
        return Answer("done", job.number, version, {**table.report, **seconds})

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

    @torch.no_grad()
    def _encode(self, vectors: NDArray[np.float32], rows: Tensor) -> None:
        """Fill in these rows."""
        precision: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.settings.autocast is not None:
            device = torch.device(self.settings.device).type
            precision = torch.autocast(device, dtype=getattr(torch, self.settings.autocast))
        with precision:
            for encoded, found in self._encoded(self.task.ids[rows]):
                vectors[torch.searchsorted(self.task.ids, found).numpy()] = encoded.numpy()

    def _encoded(self, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Vectors of the items ``ids``, batch by batch, with the ids of each."""
        from lit_metric.batching import ChunkDataset, chunks
        from lit_metric.data import Collator

        items, tokens = self.task.items, self.task.tokens
        data = ChunkDataset(Collator(items, tokens), chunks(items, tokens, ids, self.task.max_tokens))
        for place in range(len(data)):
            batch = data[place].to(self.settings.device)
            yield self.encoder(batch.inputs)[batch.anchors].float().cpu(), batch.anchor_ids.cpu()


def main() -> None:
    """Serve the trainer; standard output is for answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable(2)  # a fault of a library ends the process: the log says where
    spec = Path(sys.argv[1])
    settings = WorkerSettings(**json.loads(spec.read_text(encoding="utf-8"))["worker"])

    def watch() -> None:
        # The end of standard input comes late, or never, where another child of the parent has inherited the
        # other end of the pipe. An orphan, however, has another parent at once.
        while os.getppid() == settings.parent:
            time.sleep(WATCH_S)
        os._exit(1)

    def send(answer: Answer) -> None:
        answers.write(answer.line())
        answers.flush()

    threading.Thread(target=watch, daemon=True).start()
    import faiss

    torch.set_num_threads(settings.threads)
    with contextlib.suppress(RuntimeError):  # set already, by something that was imported
        torch.set_num_interop_threads(1)
    faiss.omp_set_num_threads(settings.threads)
    worker = Worker(spec, settings)
    try:
        worker.check()
    except SnapshotError as error:
        send(Answer("impossible", reason=str(error)))
        return
    threads = {"torch": torch.get_num_threads(), "faiss": faiss.omp_get_max_threads()}
    send(Answer("ready", report={name: float(count) for name, count in threads.items()}))
    for line in sys.stdin:
        job = Job(**json.loads(line))
        try:
            answer = worker.refresh(job)
        except Exception as error:  # training must get any error, and continue
            traceback.print_exc()
            answer = Answer("failed", job.number, reason=f"{type(error).__name__}: {error}")
        send(answer)


if __name__ == "__main__":
    main()
