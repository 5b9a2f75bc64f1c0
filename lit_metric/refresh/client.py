"""The trainer's side of the worker process: start it, ask, wait, start it again when it dies, end it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired

from lit_metric.refresh.spec import Answer, Job

log = logging.getLogger(__name__)

MODULE = "lit_metric.refresh.worker"
"""What Python runs as the worker."""
STOP_S = 5.0


class MiningFailed(RuntimeError):
    """A refresh was given up, and ``strict`` says that the run stops then."""


class WorkerClient:
    """One worker for the whole run, with a number of restarts for each refresh.

    Args:
        spec: file of the task; see :meth:`~lit_metric.refresh.spec.MiningTask.write`.
        threads: of the worker's libraries.
        log: file to which the worker's output is added.
        restarts: how often the worker is started again for one refresh.
    """

    def __init__(self, spec: Path, threads: int, log: Path, restarts: int) -> None:
        self.spec = spec
        self.threads = threads
        self.log = log
        self.restarts = restarts
        self.restarted = 0
        self.impossible: str | None = None
        """Why no worker can do this task; None if one can."""
        self._jobs: dict[int, Job] = {}
        self._outcomes: dict[int, Answer] = {}
        self._deaths: list[str] = []  # since the last job that was done
        self._start()

    def _start(self) -> None:
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        with self.log.open("ab") as errors:
            process = Popen(
                [sys.executable, "-m", MODULE, str(self.spec)],
                stdin=PIPE,
                stdout=PIPE,
                stderr=errors,
                env={
                    **os.environ,
                    **dict.fromkeys(limits, str(self.threads)),
                    "TOKENIZERS_PARALLELISM": "false",
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                start_new_session=True,  # Ctrl-C is for the trainer, which then stops it
            )
        heard: queue.SimpleQueue[Answer] = queue.SimpleQueue()

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(ValueError, TypeError):  # a library may print to it
                    heard.put(Answer(**json.loads(line)))
            heard.put(Answer("died", status=process.wait()))

        threading.Thread(target=listen, daemon=True).start()
        self.process: Popen[bytes] | None = process
        self._heard = heard

    def ask(self, job: Job) -> None:
        """Hand over a refresh; it waits for those before it."""
        self._jobs[job.number] = job
        if self.impossible is not None:
            return
        if self.process is None:
            # It died while idle. That counts too, or the fate of a refresh would depend on time.
            self._begin_anew()
        else:
            self._send(job)

    def _send(self, job: Job) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        # Whether it is alive is found out in one place, where it is listened to.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(job.line().encode())
            self.process.stdin.flush()

    def answer(self, seconds: float = 0.0) -> Answer | None:
        """The next answer of the worker; None if there is none within ``seconds``."""
        try:
            return self._heard.get(seconds > 0, seconds)
        except queue.Empty:
            return None

    def look(self, seconds: float = 0.0) -> None:
        """Take note of all answers so far, and of the first one within ``seconds``."""
        while self.process is not None:
            answer = self.answer(seconds)
            if answer is None:
                return
            if answer.kind == "impossible":
                self.impossible = answer.reason
                self.stop()
            elif answer.kind == "died":
                self.on_worker_death(answer.status)
            elif answer.job in self._jobs:
                del self._jobs[answer.job]
                self._deaths = []
                self._outcomes[answer.job] = answer
            seconds = 0.0

    def on_worker_death(self, status: int) -> None:
        """Start the worker again if there is something to do."""
        last = ""
        if self.process is not None and status > 0:
            with contextlib.suppress(OSError, IndexError):
                last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        self.process = None
        self._deaths.append(f"by signal {-status}" if status < 0 else f"with status {status}: {last}")
        if self._jobs:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Start a new worker for the jobs that are left, unless the first of them has cost too many."""
        self.stop()
        if len(self._deaths) > self.restarts:
            times = f"{len(self._deaths)} times, the last time " if self.restarts else ""
            self.fail(min(self._jobs), f"the worker died {times}{self._deaths[-1]}; see {self.log}")
            self._deaths = []
        elif self._deaths:
            log.warning("The mining worker died %s and is started again", self._deaths[-1])
            self.restarted += 1
        if self._jobs:
            self._start()
            for job in self._jobs.values():
                self._send(job)

    def fail(self, number: int, reason: str) -> None:
        """Give a refresh up."""
        self._jobs.pop(number, None)
        self._outcomes[number] = Answer("failed", number, reason=reason)

    def wait(self, number: int, timeout: float) -> Answer:
        """The outcome of a refresh: done, or failed, at the latest after ``timeout`` seconds."""
        until = time.monotonic() + timeout
        self.look()
        while number not in self._outcomes:
            if self.impossible is not None:
                self.fail(number, self.impossible)
                break
            left = until - time.monotonic()
            if left <= 0:
                self.fail(number, f"no table after {timeout:g} seconds of waiting")
                self._deaths = []
                self._begin_anew()
                break
            self.look(left)
        return self._outcomes.pop(number)

    def stop(self) -> None:
        """End the worker, at once if it is idle and within seconds if not."""
        if self.process is None:
            return
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
