"""Plans in files that all processes of a machine share."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_metric.batching.plan import Plan
from lit_metric.data.ragged import Ragged
from lit_metric.store import replacing

log = logging.getLogger(__name__)


class PlanFiles:
    """Plans in a folder. Each is made by one process; all others of the machine map its file into memory.

    A plan of ten million pairs takes seconds and hundreds of megabytes. Without the files, each worker of
    each rank would make its own.

    Args:
        folder: of one run; made when the first plan is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._usable = True

    @classmethod
    def of_run(cls, trainer: Any) -> PlanFiles:
        """Files in a folder for temporary files, whose name all ranks of a run agree on.

        The first process of each machine removes the folder when it ends, or when it no longer needs it.

        Args:
            trainer: Lightning's, or None for a process without one.
        """
        name = f"lit-metric-plans-{secrets.token_hex(8)}"
        if trainer is not None:
            name = trainer.strategy.broadcast(name)
        files = cls(Path(tempfile.gettempdir(), name))
        if trainer is None or trainer.local_rank == 0:
            weakref.finalize(files, _remove, files.folder, os.getpid())
        return files

    def get(self, epoch: int, version: int, make: Callable[[], Plan]) -> Plan:
        """The plan of an epoch by the vectors of a version: from its file, or else by ``make()``.

        Processes that ask at the same time wait for the one that makes it. Files of epochs before the last
        one are then removed; a process that still needs one makes it again. Where no file can be written, as
        on a full disk, each process makes its own plans, and the log says so.
        """
        path = self.folder / f"{epoch:09d}-{version}.safetensors"
        if not self._usable:
            return make()
        try:
            if not path.exists():
                self._make(path, epoch, make)
            tensors = load_file(path)
        except FileNotFoundError:  # this process is more than an epoch behind the others
            return make()
        except (OSError, SafetensorError) as error:
            log.warning("plans can't be shared in %s (%s), so each process makes its own", self.folder, error)
            self._usable = False
            return make()
        anchors = Ragged(tensors["anchors"], tensors["anchor_offsets"])
        candidates = anchors
        if "candidates" in tensors:
            candidates = Ragged(tensors["candidates"], tensors["candidate_offsets"])
        return Plan(anchors, candidates, tensors.get("tasks"))

    def _make(self, path: Path, epoch: int, make: Callable[[], Plan]) -> None:
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            if path.exists():
                return
            self._write(path, make())
            for old in self.folder.glob("*.safetensors"):
                if int(old.name.partition("-")[0]) < epoch - 1:
                    old.unlink(missing_ok=True)

    @staticmethod
    def _write(path: Path, plan: Plan) -> None:
        tensors: dict[str, Tensor] = {"anchors": plan.anchors.values, "anchor_offsets": plan.anchors.offsets}
        if plan.candidates is not plan.anchors:
            tensors |= {"candidates": plan.candidates.values, "candidate_offsets": plan.candidates.offsets}
        if plan.tasks is not None:
            tensors["tasks"] = plan.tasks
        with replacing(path) as unfinished:
            # Copies, because safetensors refuses tensors that share memory, as two rows of offsets may.
            save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, unfinished)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a worker that it forked
        shutil.rmtree(folder, ignore_errors=True)
