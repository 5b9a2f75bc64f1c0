"""What long work needs: a progress bar, or a line in the log."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from tqdm.auto import tqdm

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds of work before anything is shown."""

BETWEEN = 10.0
"""Seconds between two lines about how far a job is."""

T = TypeVar("T")


@contextmanager
def stage(what: str, shown: bool = True) -> Iterator[None]:
    """Log one line, ``WHAT ...``, if the work inside takes more than two seconds.

    Args:
        what: the work, such as "saving the model".
        shown: False logs nothing, for processes that are not the first.
    """
    timer = threading.Timer(PATIENCE, log.info, ("%s ...", what))
    timer.daemon = True
    if shown:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def track(items: Iterable[T], what: str, unit: str = "batch", shown: bool = True) -> Iterator[T]:
    """Go through ``items`` with a bar if that takes more than two seconds. Without a terminal, log one line.

    Example:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    total = len(items) if isinstance(items, Sized) else None
    bar = shown and has_bars()
    with stage(what, shown and not bar):
        yield from tqdm(items, what, total, unit=unit, delay=PATIENCE, leave=False, disable=not bar)


def has_bars() -> bool:
    """Whether a bar can be shown: on a terminal or in a notebook."""
    return sys.stderr.isatty() or _in_a_notebook()


def _in_a_notebook() -> bool:
    kernels = sys.modules.get("ipykernel.kernelapp")  # libraries import it outside notebooks, too
    return kernels is not None and kernels.IPKernelApp.initialized()


class Pace:
    """Logs how far a job is, how fast it goes, and when it will be done; one line in ten seconds at most.

    Args:
        total: what this process has to do, in ``unit``.
        unit: what is counted, such as "rows".
        processes: that share the job; the line then says that it is about one of them.
        shown: False logs nothing, for processes that are not the first.
    """

    def __init__(self, total: int, unit: str, processes: int = 1, shown: bool = True) -> None:
        self.total, self.unit, self.processes, self.shown = total, unit, processes, shown
        self.done = 0
        self._began = self._logged = time.monotonic()

    def advance(self, count: int) -> None:
        """Count what is done."""
        self.done += count
        now = time.monotonic()
        if not self.shown or self.done >= self.total or now - self._logged < BETWEEN:
            return
        self._logged, rate = now, self.done / max(now - self._began, 1e-9)
        minutes, seconds = divmod(int((self.total - self.done) / max(rate, 1e-9)), 60)
        of = f" of this process, which is one of {self.processes}" if self.processes > 1 else ""
        message = "%s of %s %s%s, %.0f %s/s, %d:%02d minutes left"
        done, total = f"{self.done:,}", f"{self.total:,}"
        log.info(message, done, total, self.unit, of, rate, self.unit, minutes, seconds)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """No search for cyclic garbage inside.

    Reading makes millions of small objects that stay. Searching them for garbage takes a large share of the
    time.

    Example:
        >>> with without_garbage_collection():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
