"""Faults on demand, for tests of what survives them.

Only the background worker arms them, from the environment variable ``LIT_METRIC_FAULT``::

    LIT_METRIC_FAULT=POINT:ACTION:TIMES:FILE;POINT:...

When the worker comes to ``POINT`` (``build``, ``encode``, ``share``, ``search``, ``write``, ``publish`` or
``answer``) it does ``ACTION``: ``kill`` ends it by SIGKILL, ``raise`` raises ``OSError``, a number sleeps so
many seconds. It does so ``TIMES`` times at most, over all processes that share ``FILE``, which grows by a
byte each time.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

VARIABLE = "LIT_METRIC_FAULT"

_armed: dict[str, tuple[str, int, Path]] = {}


def arm() -> None:
    """Read the environment variable; without it nothing ever happens."""
    for given in filter(None, os.environ.get(VARIABLE, "").split(";")):
        point, action, times, file = given.split(":", 3)
        _armed[point] = action, int(times), Path(file)


def reached(point: str) -> None:
    """Do what is armed for ``point``, if anything is."""
    if point not in _armed:
        return
    action, times, file = _armed[point]
    if (file.stat().st_size if file.exists() else 0) >= times:
        return
    with file.open("a") as marks:
        marks.write(".")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise OSError(f"a fault at {point!r}, as {VARIABLE} asks for")
    time.sleep(float(action))
