"""The command: what it writes after each measure, and what it says where there are no data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.mining import __main__ as command
from benchmarks.mining import offline, scale
from benchmarks.results import spread


def test_a_summary_and_plots_after_each_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    run = {"seconds": 1.0, "peak_memory": 70.0, "recall": 1.0, "rows": 10}
    grown = {
        "runs": {kind: {"10": run, "100": {**run, "seconds": 9.0}} for kind in scale.KINDS},
        "exponent": dict.fromkeys(scale.KINDS, 0.95),
        "ours": 9.0,
        "peer": 9.0,
        "ratio": 1.0,
        "settings": {},
    }
    one = {name: spread([1.0, 2.0]) for name in ("seconds", "peak_memory", "anchors", "false_negatives")}
    passed = {"ours": one, "peer": one, "ratio": 1.0, "settings": {}}
    monkeypatch.setattr(scale, "measure", lambda *_: grown)
    monkeypatch.setattr(offline, "measure", lambda *_: passed)
    monkeypatch.setattr(command, "sources", lambda: (tmp_path, tmp_path))
    command.main(["--out", str(tmp_path / "out"), "--measures", "scale"])
    command.main(["--out", str(tmp_path / "out"), "--measures", "offline"])
    summary = json.loads((tmp_path / "out" / "mining.json").read_text())
    assert set(summary) == {"scale", "offline", "environment"}
    assert summary["offline"]["ours"]["seconds"]["mean"] == 1.5
    for name in ("scale.png", "offline.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_missing_data_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"benchmarks.mining: set LIT_METRIC_DATA to a folder that holds"):
        command.main(["--out", str(tmp_path / "out"), "--measures", "offline"])
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path / "out"), "--seeds", "0"])
