"""Processes that needn't import anything, because they are forks of one that has.

A new interpreter takes seconds of processor time to import torch, transformers and the library. That programs
start in one is tested once for each program. Tests of what they do then take :func:`popen` or :func:`run`,
which fork this process, or ``SERVER``, if nothing of this process may be there but what is handed over.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import forkserver, process, resource_tracker, util
from pathlib import Path
from typing import Any
from unittest import mock

SERVER = multiprocessing.get_context("forkserver")
"""As ``spawn`` starts processes, but by forking a server, which has imported what most of them need."""
SERVER.set_forkserver_preload(
    ["tests.refresh.fits", "tests.end_to_end.ranks", "transformers.models.bert.modeling_bert", "faiss"]
)
PYTHON = ([sys.executable, "-m"], [sys.executable, "-c"])
_popen, _run = subprocess.Popen, subprocess.run


def popen(
    command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """``subprocess.Popen``, where Python runs a module or a line of code, without a new interpreter.

    The child has this process's modules and whatever is patched in them. Its arguments, environment, working
    directory, standard streams, signal handlers, log handlers and files are those of a new interpreter.

    An interpreter is started where forks are unsafe: anywhere but on Linux, where there is a GPU, for
    which gradients start threads, and where torch computes with several threads, which a fork doesn't have
    and waits for.
    """
    torch = sys.modules.get("torch")
    threads = torch is not None and (torch.get_num_threads() > 1 or torch.accelerator.is_available())
    unsafe = sys.platform != "linux" or threads
    if unsafe or list(command[:2]) not in PYTHON:
        return _popen(command, env=env, **options)
    environment = dict(os.environ if env is None else env)
    # subprocess calls this in the child where it would execute the interpreter next. It never returns.
    return _popen(command, env=environment, preexec_fn=partial(_become, command, environment), **options)


def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """``subprocess.run`` by :func:`popen`."""
    with mock.patch.object(subprocess, "Popen", popen):
        return _run(command, **options)


def _forget_relatives() -> None:
    """Make multiprocessing forget children, helpers and the server of descriptors of this process."""
    util._finalizer_registry.clear()
    util._run_after_forkers()
    process._children.clear()
    resource_tracker._resource_tracker._fd = resource_tracker._resource_tracker._pid = None
    server = forkserver._forkserver
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None


def _become(command: Sequence[str], environment: dict[str, str]) -> None:
    status = 1
    try:
        _forget_relatives()
        gc.freeze()  # files of this process that nothing refers to must not be closed under the same numbers
        # The parent waits for the end of one of the files. Their numbers stay taken, because libraries that
        # remember some close them in each fork: libuv, for one, which torch.distributed has.
        nothing = os.open(os.devnull, os.O_RDWR)
        for file in map(int, os.listdir("/proc/self/fd")):
            if file not in (0, 1, 2, nothing):
                with contextlib.suppress(OSError):  # what listed them
                    os.fstat(file)
                    os.dup2(nothing, file, inheritable=False)
        stream = partial(os.fdopen, closefd=False)  # those that they replace may be of these descriptors
        sys.stdin, sys.stdout, sys.stderr = stream(0), stream(1, "w"), stream(2, "w", 1)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(environment)
        logging.root.handlers.clear()
        logging.root.setLevel(logging.WARNING)
        for logger in map(logging.getLogger, logging.root.manager.loggerDict):
            for handler in list(logger.handlers):
                if type(handler) is logging.StreamHandler:
                    handler.stream = sys.stderr
                elif type(handler).__module__.startswith("_pytest"):
                    logger.removeHandler(handler)
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        sys.path.insert(0, str(Path.cwd()))
        _, kind, program, *arguments = command
        sys.argv = [kind, *arguments]
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
