"""Forks in place of new interpreters differ from them in nothing that a program sees."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forked

TELL = """
import json, os, signal, sys
told = {"argv": sys.argv, "cwd": os.getcwd(), "name": __name__, "in": sys.stdin.read()}
told["parent"] = os.getppid()
files = [os.path.realpath(f"/proc/self/fd/{file}") for file in os.listdir("/proc/self/fd")]
told["files"] = len([file for file in files if file != os.devnull])
told["variable"], told["home"] = os.environ["VARIABLE"], "HOME" in os.environ
told["signals"] = [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGPIPE)]
print(json.dumps(told))
print("to the other stream", file=sys.stderr)
sys.exit(3)
"""


def tell(run: Callable[..., Any], folder: Path) -> tuple[Any, ...]:
    done = run(
        [sys.executable, "-c", TELL, "first", "second"],
        input="given",
        cwd=folder,
        env={"VARIABLE": "set"},
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout), done.stderr, done.returncode


def test_a_fork_is_like_an_interpreter(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        told, errors, status = tell(forked.run, tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (told, errors, status) == tell(subprocess.run, tmp_path)
    assert (told["parent"], status) == (os.getpid(), 3)


def test_a_fork_of_a_fork_has_streams_and_logs(tmp_path: Path) -> None:
    inner = "import logging, sys; logging.warning(sys.stdin.read()); print('out'); sys.exit(4)"
    starts = "done = run([sys.executable, '-c', sys.argv[1]]); sys.exit(done.returncode)"
    outer = f"import sys; from tests.forked import run; {starts}"
    handler = logging.StreamHandler(closed := (tmp_path / "closed").open("w"))
    closed.close()
    logging.getLogger("tests.forked").addHandler(handler)
    try:
        done = forked.run([sys.executable, "-c", outer, inner], input="in", capture_output=True, text=True)
    finally:
        logging.getLogger("tests.forked").removeHandler(handler)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "WARNING:root:in\n", 4)


def test_libraries_that_close_their_files_in_forks_close_no_other() -> None:
    code = """
import sys
import torch.distributed as dist
from tests.forked import run

store = dist.TCPStore("127.0.0.1", 0, 1, True)  # of libuv, which does so
options = "input='given', capture_output=True, text=True"
inner = [sys.executable, "-c", "import sys; print(sys.stdin.read(), end=', taken')"]
for others in range(4):
    outer = (
        f"import os; from tests.forked import run; others = [open(os.devnull) for _ in range({others})]; "
        f"done = run({inner}, {options}); print(done.stdout, done.stderr, done.returncode)"
    )
    print(run([sys.executable, "-c", outer], capture_output=True, text=True).stdout, end="")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "given, taken  0\n" * 4


@pytest.mark.parametrize("code", ["raise KeyError('lost')", "import os, signal; os.kill(os.getpid(), 9)"])
def test_how_a_fork_ends(code: str) -> None:
    both = [
        run([sys.executable, "-c", code], capture_output=True, text=True)
        for run in (forked.run, subprocess.run)
    ]
    assert both[0].returncode == both[1].returncode != 0
    last = [done.stderr.splitlines()[-1:] for done in both]
    assert last[0] == last[1]
