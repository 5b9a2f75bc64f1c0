"""Curves and times of a run, out of files as its loggers write them."""

from __future__ import annotations

import json
from pathlib import Path

from lit_metric.report.run_folder import POINTS, curves_of, parts_of, read_log, read_run
from lit_metric.report.structure import Part


def test_curves_of_a_resumed_run_have_each_step_once(tmp_path: Path) -> None:
    lines = [
        "epoch,step,train/loss,val/map@r,note",
        "0,1,2.5,,x",
        "0,2,2.0,0.5,",
        "0,2,1.5,,",
        "1,3,nan,0.75,",
    ]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    logged = read_log(tmp_path / "metrics.csv")
    assert logged == {"train/loss": {1: 2.5, 2: 1.5}, "val/map@r": {2: 0.5, 3: 0.75}}
    assert read_log(tmp_path / "none.csv") == {}
    long = curves_of({"x": {step: float(step) for step in range(5 * POINTS + 3)}})[0]
    assert POINTS / 2 < len(long.steps) <= POINTS + 1
    assert (long.steps[0], long.steps[-1], long.values[-1]) == (0, 5 * POINTS + 2, 5.0 * POINTS + 2)


def test_time_is_shared_out(tmp_path: Path) -> None:
    mined = {"mining/seconds": {0: 4.0, 10: 30.0}, "mining/stall_seconds": {10: 1.0}}
    parts = parts_of({"seconds": 100.0, "validation_seconds": 20.0}, mined)
    # The first table stopped training; the second was made in the background.
    assert parts == [
        Part("train", 75.0),
        Part("validate", 20.0),
        Part("mine", 4.0),
        Part("wait for mining", 1.0),
    ]
    assert parts_of({"seconds": 10.0}, {}) == [Part("train and validate", 10.0)]
    assert parts_of({}, mined) == []


def test_what_a_folder_lacks_is_empty(tmp_path: Path) -> None:
    run, written = read_run(tmp_path)
    assert (run.config, run.ended, run.curves, run.warnings, written) == ("", "unknown", [], [], {})
    content = {"before": {}, "ended": "SIGTERM", "steps": 7, "seconds": None, "command": "lit-metric fit"}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    run, written = read_run(tmp_path)
    assert written == content
    assert (run.steps, run.seconds, run.command) == (7, 0.0, "lit-metric fit")
    assert len(run.warnings) == 1
    assert "(SIGTERM)" in run.warnings[0]
