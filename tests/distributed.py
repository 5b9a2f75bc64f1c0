"""Processes that talk over gloo, started once and handed functions to run on every rank.

    with RankPool(2, tmp_path) as pool:
        of_rank_0, of_rank_1 = pool.run(function, *args)

Ranks are forks of a server, so the function must be importable: a top-level function of a module. Inside
it, ``torch.distributed`` has an initialised default group. Each call starts with the same environment and the
same random state, so the order of tests does not matter.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from tests.forked import SERVER

TIMEOUT_S = 600
"""Other work may keep the machine busy."""
# Whatever a launcher, a scheduler or Lightning may have left behind would be taken for instructions.
LAUNCHER = ("MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "NODE_RANK", "TORCHELASTIC_", "SLURM_")


class RankFailed(AssertionError):
    """A function raised on some rank, or didn't come back in time."""


class RankPool:
    """``size`` ranks in processes of their own, alive until the pool is closed.

    Args:
        size: number of ranks.
        folder: an empty folder, in which the ranks meet.

    After a failure the ranks may be out of step with each other, so the next call starts new ones.
    """

    def __init__(self, size: int, folder: Path) -> None:
        self.size = size
        self.folder = folder
        self.starts = 0
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """``function(*args)`` on every rank; the results in rank order.

        Raises:
            RankFailed: with the rank's traceback.
        """
        if not self.processes:
            self._start()
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps((function, args)))
        results: dict[int, Any] = {}
        while len(results) < self.size:
            waiting = [pipe for rank, pipe in enumerate(self.pipes) if rank not in results]
            ready = wait(waiting, timeout=TIMEOUT_S)
            if not ready:
                self.close()
                raise RankFailed(f"ranks {sorted(set(range(self.size)) - set(results))} gave no answer")
            for pipe in ready:
                rank = self.pipes.index(pipe)  # type: ignore[arg-type]
                results[rank] = self._receive(rank)
        return [results[rank] for rank in range(self.size)]

    def _receive(self, rank: int) -> Any:
        try:
            succeeded, result = pickle.loads(self.pipes[rank].recv_bytes())
        except EOFError:
            succeeded, result = False, "the process died"
        if not succeeded:
            self.close()
            raise RankFailed(f"on rank {rank}:\n{result}")
        return result

    def _start(self) -> None:
        self.starts += 1
        meeting_place = self.folder / f"ranks{self.starts}"
        for rank in range(self.size):
            ours, theirs = SERVER.Pipe()
            process = SERVER.Process(
                target=_serve, args=(rank, self.size, meeting_place.as_uri(), theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)

    def close(self) -> None:
        """End the ranks."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.terminate()
            process.join()
        self.processes, self.pipes = [], []

    def __enter__(self) -> RankPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(rank: int, size: int, init_method: str, pipe: Connection) -> None:
    for name in list(os.environ):
        if name.startswith(LAUNCHER):
            del os.environ[name]
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if sys.platform == "linux":  # elsewhere, and in many containers, the host's name doesn't resolve
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=TIMEOUT_S)
    )
    environment = dict(os.environ)
    while True:
        try:
            function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        os.environ.clear()
        os.environ.update(environment)
        torch.manual_seed(0)
        try:
            answer = (True, function(*args))
        except Exception:
            answer = (False, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))
    dist.destroy_process_group()
