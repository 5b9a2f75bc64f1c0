"""Keeps a background worker going: asks it for refreshes, starts it again when it dies, gives up at last."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from lit_metric.mining.process import WorkerProcess
from lit_metric.mining.worker import Job

log = logging.getLogger(__name__)


class MiningFailed(RuntimeError):
    """A refresh was given up, and the miner is strict."""


class Supervisor:
    """One worker for the whole run, with as many lives as each refresh may have.

    Args:
        spec: file of the worker's task.
        threads: which its libraries may use.
        folder: where its log goes.
        restarts: how often it is started again for one refresh.
    """

    def __init__(self, spec: Path, threads: int, folder: Path, restarts: int) -> None:
        self.spec = spec
        self.threads = threads
        self.log = folder / "worker.log"
        self.restarts = restarts
        self.restarted = 0
        self._jobs: dict[int, Job] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._deaths: dict[int, int] = {}
        self.process: WorkerProcess | None = self._start()

    def ask(self, job: Job) -> None:
        """Hand a refresh over."""
        self._jobs[job.number] = job
        if self.process is None or self.process.gone:
            self.process = self._start()
        self.process.ask(job)

    def look(self, seconds: float = 0.0) -> None:
        """Take note of what the worker has said, or does within ``seconds``, and of its death."""
        while self.process is not None:
            answer = self.process.answer(seconds)
            if answer is None:
                return
            if "died" in answer:
                self._mourn(int(answer["died"]))
            elif "job" in answer and answer["job"] in self._jobs:
                del self._jobs[answer["job"]]
                self._results[answer["job"]] = answer
            seconds = 0.0

    def done(self, number: int) -> bool:
        """Whether the outcome of a refresh is known."""
        return number in self._results

    def failed(self, number: int) -> bool:
        """Whether a refresh has been given up."""
        return "error" in self._results.get(number, {})

    def fail(self, number: int, reason: str) -> None:
        """Give a refresh up."""
        self._jobs.pop(number, None)
        self._results[number] = {"job": number, "error": reason}

    def wait(self, number: int, timeout: float) -> dict[str, Any]:
        """The outcome of a refresh: ``version`` and ``report``, or ``error`` after ``timeout`` seconds."""
        until = time.monotonic() + timeout
        self.look()
        while not self.done(number):
            left = until - time.monotonic()
            if left <= 0:
                self.fail(number, f"no table after {timeout:g} seconds of waiting")
                self._begin_anew()
                break
            self.look(left)
        return self._results.pop(number)

    def _mourn(self, status: int) -> None:
        """Start the worker again for what it has not finished, unless the first of that has cost too many."""
        self.process, words = None, self.process.last_words() if self.process else ""
        if not self._jobs:
            return
        first = min(self._jobs)
        self._deaths[first] = self._deaths.get(first, 0) + 1
        reason = f"by signal {-status}" if status < 0 else f"with status {status}"
        if self._deaths[first] > self.restarts:
            times = f"{self._deaths[first]} times, the last time " if self.restarts else ""
            self.fail(first, f"the worker died {times}{reason}: {words}; see {self.log}")
        else:
            log.warning("The mining worker died %s and is started again: %s", reason, words)
            self.restarted += 1
        self._begin_anew()

    def _begin_anew(self) -> None:
        """A new worker for the jobs that are left."""
        self.stop()
        if self._jobs:
            self.process = self._start()
            for job in self._jobs.values():
                self.process.ask(job)

    def _start(self) -> WorkerProcess:
        return WorkerProcess(self.spec, self.threads, self.log)

    def stop(self) -> None:
        """End the worker."""
        if self.process is not None:
            self.process.stop()
            self.process = None
