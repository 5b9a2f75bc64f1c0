"""What takes long says so, once, and what doesn't says nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest

from lit_metric.data import progress


def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> None:
    until = time.monotonic() + 60
    while text not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)


def test_a_line_is_logged_once_when_it_takes_long(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    caplog.set_level(logging.INFO)
    with progress.stage("building the index"):
        wait_for(caplog, "building the index ...")
    for number in progress.track(range(3), "measuring"):
        if number == 1:
            wait_for(caplog, "measuring ...")
    assert [record.getMessage() for record in caplog.records] == ["building the index ...", "measuring ..."]


def test_a_notebook_shows_bars_and_a_process_that_only_imports_its_kernel_does_not() -> None:
    code = (
        "import ipykernel.kernelapp as kernels; from lit_metric.data import progress; "
        "{}print(progress.has_bars())"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code.format(make)], capture_output=True, text=True, check=True
        ).stdout
        for make in ("", "kernels.IPKernelApp.instance(); ")
    ]
    assert told == ["False\n", "True\n"]


def test_nothing_is_logged_of_what_is_done_at_once_or_not_to_be_shown(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "PATIENCE", 3600)
    with progress.stage("reading"):
        assert list(progress.track(iter("ab"), "counting")) == ["a", "b"]
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.stage("reading", shown=False):
        time.sleep(0.1)
    assert list(progress.track([1, 2], "counting", shown=False)) == [1, 2]
    assert not caplog.records


def test_an_error_within_ends_the_clock(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "PATIENCE", 0.2)
    with pytest.raises(ZeroDivisionError), progress.stage("dividing"):
        _ = 1 / 0
    time.sleep(0.4)
    assert not caplog.records


def test_a_line_says_how_far_a_job_is_at_most_every_ten_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    alone, one_of_two = progress.Pace(4000, "rows"), progress.Pace(500, "items", processes=2)
    unseen = progress.Pace(500, "items", shown=False)
    for seconds, count in ((4.0, 500), (16.0, 1500), (5.0, 500), (15.0, 1500)):
        now[0] += seconds
        alone.advance(count)
    for pace in (one_of_two, unseen):
        now[0] += 50.0
        pace.advance(100)
    # 2,000 rows in 20 s; the third call comes too soon, and after the fourth nothing is left.
    assert [record.getMessage() for record in caplog.records] == [
        "2,000 of 4,000 rows, 100 rows/s, 0:20 minutes left",
        "100 of 500 items of this process, which is one of 2, 1 items/s, 6:00 minutes left",
    ]
