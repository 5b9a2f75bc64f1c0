"""What tests of several packages share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests import forked

if TYPE_CHECKING:
    from tests.distributed import RankPool
    from tests.small import Small

# The models are tiny, and threads would spend their time waiting for each other. Processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing is downloaded, and a test that names a model that isn't there must not wait for the hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests fork, and numba ends a fork of a process in which it used OpenMP.
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")


def pytest_collection_finish() -> None:
    """Let workers that mine be forks, but where a test says otherwise."""
    _fork_workers()


def _fork_workers() -> None:
    """For whatever is imported by now; so it is repeated where a fixture imports the library later."""
    client = sys.modules.get("lit_metric.refresh.client")
    if client is not None:
        client.Popen = forked.popen  # type: ignore[attr-defined]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show what a worker logged beside the failure of its test."""
    outcome = yield
    report = outcome.get_result()
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and folder is not None:
        for path in folder.rglob("worker.log"):
            report.sections.append((str(path), path.read_text("utf-8", "replace")[-8000:]))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The small world, written once."""
    from tests.small import Small  # all of lit_metric: seconds that most tests need not wait for

    _fork_workers()
    return Small.make(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    """Two ranks for all tests that need them."""
    from tests.distributed import RankPool

    with RankPool(2, tmp_path_factory.mktemp("ranks")) as pool:
        yield pool


@pytest.fixture(autouse=True)
def levels_of_loggers() -> Iterator[None]:
    """Benchmarks and commands that run in the process of the tests silence loggers."""
    loggers = [logging.getLogger(name) for name in ("lit_metric", "lightning.pytorch", "root")]
    before = [each.level for each in loggers]
    yield
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)
