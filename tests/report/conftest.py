"""A browser for all tests of a page, which starts when the first of them asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chromium import Browser, browser
from lit_metric.report.page import write_page
from lit_metric.report.structure import Report
from tests.report.made import made_report


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="session")
def report() -> Report:
    return made_report(items=120)


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory, report: Report) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(report, path)
    return path


@pytest.fixture
def page(opened: Browser, path: Path) -> Iterator[Any]:
    """The page, freshly loaded; afterwards it has said nothing on the console and asked nobody."""
    driver = opened.open(path)
    yield driver
    assert opened.console() == []
    assert opened.requests() == []
