"""The command: what it writes after each measure, and what it says where there are no data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.mining import __main__ as command
from benchmarks.mining import offline, scale, table
from benchmarks.mining.fits import MODES, Runs
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


TOLD = {"data": "some-600", "texts": 600, "batches": 5, "batch": 128, "epochs": 2, "seeds": 2, "threads": 1}
NAMES = {
    "modes": (
        *("epoch_seconds", "ratio", "ratio_per_token", "cpu_ratio", "stall", "waited", "encode", "search"),
        *("contention", "encoded", "first_epoch_ratio", "cold_start_seconds", "map@r"),
    ),
    "table": (*(f"{what}@{k}" for what in ("overlap", "stale") for k in table.KS), "encoded", "map@r"),
    "staleness": ("map@r", "seconds"),
}


def measured(name: str) -> dict[str, Any]:
    """What a measure could have found."""
    one = spread([0.25, 0.5])
    met = {"ratio": {"at most": 1.05, "is": 1.2, "met": False}}
    common = {"ours": 1.0, "peer": 2.0, "ratio": 0.5, "settings": TOLD, "targets": met}
    if name == "peer":
        columns = ("map@r", "seconds", "mining", "refresh", "reach")
        curve = {"seconds": [0.0, 1.0], "map@r": [0.1, 0.2]}
        both = {f"{side}_{column}": one for side in ("ours", "peer") for column in columns}
        curves = {"ours": [curve, curve], "peer": [curve, curve]}
        return {**common, "runs": both, "curves": curves, "mining": {"all": 0.125}}
    kinds = {"modes": MODES, "table": table.KINDS, "staleness": ("none", "inline", "every-3-batches")}
    rows: dict[str, Any] = {kind: dict.fromkeys(NAMES[name], one) for kind in kinds[name]}
    if name == "staleness":
        rows = {
            kind: {**row, "epochs": {"none": None, "inline": 1.0}.get(kind, 0.5)}
            for kind, row in rows.items()
        }
    return {**common, "runs": rows}


@pytest.mark.parametrize("name", ["modes", "table", "peer", "staleness"])
def test_measures_that_train_are_told_with_their_settings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    given: list[Runs] = []

    def fake(runs: Runs) -> dict[str, Any]:
        given.append(runs)
        return measured(name)

    monkeypatch.setattr(command.TRAINED[name], "measure", fake)
    rows = [f"question {n}" for n in range(700)]
    for part in ("train", "test"):
        path = tmp_path / "banking77" / f"{part}.parquet"
        path.parent.mkdir(exist_ok=True)
        labels = [f"c{n % 9}" for n in range(700)]
        pq.write_table(pa.table({"text": [f"{part} {row}" for row in rows], "label": labels}), path)
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    out = tmp_path / "out"
    sizes = [
        "--texts",
        "600",
        "--batch",
        "64",
        "--epochs",
        "2",
        "--seeds",
        "2",
        "--threads",
        "1",
        "--delay",
        "3",
        "--peer-lr",
        "1e-3",
    ]
    command.main(["--out", str(out), "--measures", name, *sizes])
    [runs] = given
    assert (runs.seeds, runs.epochs, runs.threads, runs.soon, runs.peer_lr) == (2, 2, 1, 3, 1e-3)
    assert (runs.corpus.texts, runs.corpus.batches, runs.corpus.batch) == (600, 10, 64)
    summary = json.loads((out / "mining.json").read_text())
    found = summary[f"{name}-some-600"]
    assert (found["ours"], found["peer"], found["ratio"], found["settings"]) == (1.0, 2.0, 0.5, TOLD)
    assert (out / f"{name}-some-600.png").read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    assert "600 texts, 5 batches" in told.replace("\n", " ")
    if name != "table" and name != "staleness":
        assert "ratio: 1.2000, wanted at most 1.05: NOT met" in told


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--texts", "100"], "--texts 100 make less than 4 batches of 128"),
        (["--batch", "30"], "--batch 30 must be a multiple of 4"),
        (["--epochs", "0"], "--epochs 0 must be at least 1"),
        (["--peer-lr", "0"], "--peer-lr 0.0 must be above 0"),
        (["--delay", "1"], "--delay 1 must be at least 2"),
        (["--modes", "none", "inline"], "--modes none inline must have none, the control, and free"),
    ],
)
def test_sizes_out_of_range_are_refused(
    options: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path / "out"), *options])
    assert reason in capsys.readouterr().err


def test_missing_data_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"benchmarks.mining: set LIT_METRIC_DATA to a folder that holds"):
        command.main(["--out", str(tmp_path / "out"), "--measures", "offline"])
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path / "out"), "--seeds", "0"])
