"""The trainer's side of the background worker: start it, ask, listen, notice its death, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from lit_metric.mining.worker import Job

STOP_S = 5.0


class WorkerProcess:
    """A running worker.

    Args:
        spec: file of its task.
        threads: which its libraries may use.
        log: where what it prints is added.
    """

    def __init__(self, spec: Path, threads: int, log: Path) -> None:
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lit_metric.mining.worker", str(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={
                    **os.environ,
                    **dict.fromkeys(limits, str(threads)),
                    "TOKENIZERS_PARALLELISM": "false",
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                start_new_session=True,  # Ctrl-C is for the trainer, which then stops it
            )
        self.answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.gone = False
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def ask(self, job: Job) -> None:
        """Hand a job over; it waits for those before it."""
        assert self.process.stdin is not None
        # Whether it is alive is found out in one place, where it is listened to.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(job.line().encode())
            self.process.stdin.flush()

    def answer(self, timeout: float = 0.0) -> dict[str, Any] | None:
        """The next thing it said, None if it says nothing for ``timeout`` seconds.

        ``{"job": …, "version": …, "report": …}``, ``{"job": …, "error": …}``, ``{"ready": …}``,
        ``{"impossible": why}``, or ``{"died": exit status}``, the last one.
        """
        try:
            answer = self.answers.get(timeout > 0, timeout if timeout > 0 else None)
        except queue.Empty:
            return None
        self.gone |= "died" in answer
        return answer

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.answers.put(json.loads(line))
        self.answers.put({"died": self.process.wait()})

    def stop(self) -> None:
        """End it, at once if it is idle and within seconds if not."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.gone = True

    def last_words(self) -> str:
        """The last line of what it printed."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""
