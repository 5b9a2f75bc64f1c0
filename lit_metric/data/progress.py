"""What long work needs: a progress bar, or a line in the log."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from tqdm.auto import tqdm

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds of work before anything is shown."""

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
    return sys.stderr.isatty() or "ipykernel" in sys.modules


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
