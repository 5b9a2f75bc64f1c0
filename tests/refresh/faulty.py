"""The worker with faults on demand, in place of ``lit_metric.refresh.worker``.

    LIT_METRIC_FAULT=POINT:ACTION:TIMES:FILE;POINT:...

When the worker comes to ``POINT`` (``build``, ``encode``, ``search``, ``write`` or ``publish``) it does
``ACTION``: ``kill`` ends it by SIGKILL, ``raise`` raises ``OSError``, a number sleeps that many seconds. All
processes that share ``FILE`` do so ``TIMES`` times at most; it grows by a byte each time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_metric.refresh import client, worker
from lit_metric.refresh.spec import MiningTask

VARIABLE = "LIT_METRIC_FAULT"
_armed: dict[str, tuple[str, int, Path]] = {}


def arm(faults: str) -> None:
    """Have workers of this process come with ``faults``."""
    os.environ[VARIABLE] = faults
    client.MODULE = __name__


def arm_from_environment() -> None:
    """Have workers come with the faults that the environment names."""
    arm(os.environ[VARIABLE])


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
        raise OSError(f"a fault at {point!r}, by {VARIABLE}")
    time.sleep(float(action))


def put_points() -> None:
    """Have the worker's parts say where they are."""
    build, encode, encoded, mine = (
        worker.Worker.__init__,
        worker.Worker._encode,
        worker.Worker._encoded,
        MiningTask.mine,
    )
    replace = os.replace
    encoding = []

    def building(self: Any, *args: Any) -> None:
        reached("build")
        build(self, *args)

    def encode_some(self: Any, *args: Any) -> None:
        encoding.append(True)
        encode(self, *args)

    def batches(self: Any, *args: Any) -> Iterator[Any]:
        for batch in encoded(self, *args):
            yield batch
            if encoding:
                reached("encode")

    def searching(self: Any, *args: Any) -> Any:
        reached("search")
        return mine(self, *args)

    def replacing(source: Any, target: Any) -> None:
        # A table's arrays are written before its sample, and its manifest last.
        point = {"sample.json": "write", "manifest.json": "publish"}.get(Path(target).name)
        if point is not None:
            reached(point)
        replace(source, target)

    worker.Worker.__init__ = building  # type: ignore[method-assign]
    worker.Worker._encode = encode_some  # type: ignore[method-assign]
    worker.Worker._encoded = batches  # type: ignore[method-assign]
    MiningTask.mine = searching  # type: ignore[method-assign]
    os.replace = replacing


if __name__ == "__main__":
    for given in filter(None, os.environ.get(VARIABLE, "").split(";")):
        name, action, times, file = given.split(":", 3)
        _armed[name] = action, int(times), Path(file)
    put_points()
    worker.main()
