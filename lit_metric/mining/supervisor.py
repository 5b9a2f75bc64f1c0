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
        log: where what it prints goes.
        restarts: how often it is started again for one refresh.
    """

    def __init__(self, spec: Path, threads: int, log: Path, restarts: int) -> None:
        self.spec = spec
        self.threads = threads
        self.log = log
        self.restarts = restarts
        self.restarted = 0
        self.impossible: str | None = None
        """Why no worker can do what is asked for."""
        self._jobs: dict[int, Job] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._deaths: list[str] = []  # since it last did something
        self.process: WorkerProcess | None = self._start()

    def ask(self, job: Job) -> None:
        """Hand a refresh over."""
        self._jobs[job.number] = job
        if self.impossible is not None:
            return
        if self.process is None:
            # It died in idleness. That counts as well, or what becomes of a refresh would depend on time.
            self._begin_anew()
        else:
            self.process.ask(job)

    def look(self, seconds: float = 0.0) -> None:
        """Take note of what the worker has said, or does within ``seconds``, and of its death."""
        while self.process is not None:
            answer = self.process.answer(seconds)
            if answer is None:
                return
            if "impossible" in answer:
                self.impossible = str(answer["impossible"])
                self.stop()
            elif "died" in answer:
                self._mourn(int(answer["died"]))
            elif "job" in answer and answer["job"] in self._jobs:
                del self._jobs[answer["job"]]
                self._deaths = []
                self._results[answer["job"]] = answer
            seconds = 0.0

    def outcomes(self) -> list[dict[str, Any]]:
        """What has become of refreshes that nobody waits for; each is told once."""
        self.look()
        found = list(self._results.values())
        self._results.clear()
        return found

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
        return self._results.pop(number)

    def _mourn(self, status: int) -> None:
        """Start the worker again if there is something to do."""
        words = self.process.last_words() if self.process and status > 0 else ""
        self.process = None
        self._deaths.append(f"by signal {-status}" if status < 0 else f"with status {status}: {words}")
        if self._jobs:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """A new worker for the jobs that are left, unless the first of them has cost too many."""
        self.stop()
        if len(self._deaths) > self.restarts:
            times = f"{len(self._deaths)} times, the last time " if self.restarts else ""
            self.fail(min(self._jobs), f"the worker died {times}{self._deaths[-1]}; see {self.log}")
            self._deaths = []
        elif self._deaths:
            log.warning("The mining worker died %s and is started again", self._deaths[-1])
            self.restarted += 1
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
