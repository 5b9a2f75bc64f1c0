"""Signs of life from whatever takes more than two seconds."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from tqdm.auto import tqdm

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds before something is said."""

T = TypeVar("T")


@contextmanager
def stage(what: str, shown: bool = True) -> Iterator[None]:
    """Log one line, ``WHAT ...``, if what is done here takes more than two seconds.

    Args:
        what: a participle, such as "saving the model".
        shown: False says nothing, such as in processes that are not the first.
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
    """Go through ``items`` with a bar, if that takes more than two seconds; one line where no terminal is.

    Example:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    total = len(items) if isinstance(items, Sized) else None
    drawn = shown and has_bars()
    with stage(what, shown and not drawn):
        yield from tqdm(items, what, total, unit=unit, delay=PATIENCE, leave=False, disable=not drawn)


def has_bars() -> bool:
    """Whether a bar can be drawn: on a terminal or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
