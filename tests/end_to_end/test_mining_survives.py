"""The trainer is killed while its miner is at work, and resumes; two ranks mine with one worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_metric.mining import NegativeTable, versions
from lit_metric.mining.faults import VARIABLE
from tests.background import children, fit
from tests.distributed import RankPool
from tests.end_to_end import ranks
from tests.end_to_end.command import ROOT
from tests.small import Small, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def start(small: Small, folder: Path, faults: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """A fit in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", VARIABLE: faults}
    arguments = [str(small.root), str(folder), json.dumps(options)]
    with (folder / "told").open("wb") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.background", *arguments], cwd=ROOT, env=environment, stderr=told
        )


def wait_for(what: Callable[[], Any], seconds: float = 40.0) -> Any:
    """The first true answer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := what():
            return answer
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_a_trainer_killed_while_its_miner_works_leaves_nothing_behind_and_resumes_to_the_same_end(
    small: Small, tmp_path: Path
) -> None:
    whole = fit(small, tmp_path / "whole")
    # At batch 7, between the copy at 5 and the switch at 8, with the worker in the middle of its work.
    process = start(
        small, tmp_path, faults=f"search:60:1:{tmp_path / 'searching'}", save=1, pause=7
    )
    wait_for(lambda: (tmp_path / "paused").exists() and (tmp_path / "searching").exists())
    descendants = children(process.pid)
    assert descendants
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(_alive(pid) for pid in descendants), seconds=5)
    negatives = tmp_path / "run" / "negatives"
    assert versions(negatives) == [1]
    rest = fit(small, tmp_path, resume="7.ckpt")
    assert rest.tables.versions[0] == 1
    assert rest.tables.versions.index(max(rest.tables.versions) - 1) == 1  # batch 8
    assert rest.watch.candidates == whole.watch.candidates[7:]
    assert rest.weights == whole.weights
    NegativeTable.open(negatives, max(versions(negatives)), rest.data.corpus)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
