"""Reading and planning at a small size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.engine import disk
from lit_metric.data import read_table
from tests import forked


def test_rows_are_distinct_and_have_classes(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    disk.write_rows(tmp_path / "rows.parquet", 500)
    table = pq.read_table(tmp_path / "rows.parquet")
    assert len({*table["text"].to_pylist()}) == 500
    labels = table["label"].to_pylist()
    assert {labels.count(name) for name in {*labels}} == {disk.CLASS}


def test_all_rows_are_read_and_all_pairs_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.subprocess, "run", forked.run)
    disk.write_rows(tmp_path / "rows.parquet", 2_000)
    found = disk.read(tmp_path / "rows.parquet")
    assert min(found["read_seconds"], found["tokenize_seconds"]) > 0
    assert found["peak_mb"] >= found["read_mb"] >= 0
    disk.write_rows(tmp_path / "rows.jsonl", 2_000)
    assert len(read_table(tmp_path / "rows.jsonl")) == 1_000
    assert disk.read(tmp_path / "rows.jsonl")["tokenize_seconds"] > 0
    # Two pairs share each answer, and there is room for both.
    assert disk.plan(2_000)["placed"] == 2_000
    assert disk.alone("plan", 3_000)["placed"] == 3_000


def test_each_count_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"peak_mb": 10.0, "plan_seconds": 0.5}
    monkeypatch.setattr(
        disk, "alone", lambda work, count: {name: cost * count for name, cost in costs.items()}
    )
    reading, pairs, planning = disk.measure(tmp_path, quick=False, largest=True)
    for each in (reading, pairs):
        assert (each["peer"], each["ours"]) == (10.0 * 200_000, 10.0 * 5_000_000)
    assert (planning["peer"], planning["ours"]) == (0.5 * 1_000_000, 0.5 * 10_000_000)
    assert [len(each["runs"]) for each in (reading, pairs, planning)] == [3, 3, 2]
    assert [len(each["runs"]) for each in disk.measure(tmp_path / "quick", quick=True)] == [2, 2, 2]
