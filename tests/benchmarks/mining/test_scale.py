"""Vectors, rows and recall of the scale benchmark, and what is made of the processes' reports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.mining import scale
from benchmarks.results import Finished, read_json, write_json


def test_vectors_are_read_back_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "BLOCK", 64)
    path = tmp_path / "vectors.npy"
    scale.write_vectors(path, 150, 12)
    whole = np.load(path)
    assert (whole.shape, whole.dtype) == ((150, 12), np.float32)
    assert [len(block) for block in scale.read_blocks(path)] == [64, 64, 22]
    assert np.array_equal(np.concatenate(list(scale.read_blocks(path))), whole)
    rows = np.array([0, 63, 64, 149])
    assert np.array_equal(scale.read_rows(path, rows), whole[rows])
    scale.write_vectors(tmp_path / "again.npy", 150, 12)
    assert np.array_equal(np.load(tmp_path / "again.npy"), whole)


@pytest.mark.parametrize("kind", scale.KINDS)
def test_each_kind_finds_the_neighbours_of_a_full_sort(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "SAMPLE", 40)
    monkeypatch.setattr(scale, "PROBES", 1000)  # all cells, so that IVF is exact, too
    path = tmp_path / "vectors.npy"
    scale.write_vectors(path, 1300, 16)
    report = scale.child(path, kind, 300, 5, 1, tmp_path / "found.npy")
    vectors = np.load(path).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = scale.spread_over(1300, 40)
    expected = np.argsort(-(vectors[rows] @ vectors.T), axis=1)[:, :5]
    assert scale.recall(np.load(tmp_path / "found.npy"), expected) == pytest.approx(1.0)
    assert (report["count"], report["rows"], report["sampled"]) == (1300, 300, True)
    whole = report["build_seconds"] + report["search_seconds"] * 1300 / 300
    assert report["seconds"] == pytest.approx(whole)


def test_reports_become_exponents_and_a_second_run_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def fake(command: list[str], log: Path) -> Finished:
        given = dict(zip(command[3::2], command[4::2], strict=True))
        kind, count = given["--kind"], sum(map(len, scale.read_blocks(Path(given["--vectors"]))))
        started.append((kind, count, int(given["--rows"])))
        found = np.tile(np.arange(4), (10, 1)) + (2 if kind == "ivf" else 0)
        np.save(given["--found"], found)
        seconds = {"exact": count**2 / 1e4, "ivf": count**1.5 / 1e4, "peer": count**2 / 5e3}[kind]
        write_json(Path(given["--report"]), {"seconds": seconds, "rows": int(given["--rows"])})
        return Finished(1.0, 50.0 + count)

    monkeypatch.setattr(scale, "run", fake)
    found = scale.measure(tmp_path, {"versions": {}}, [100, 400], budget=2e4, threads=1, k=4)
    assert found["exponent"] == pytest.approx({"exact": 2.0, "ivf": 1.5, "peer": 2.0})
    assert (found["ours"], found["peer"], found["ratio"]) == pytest.approx((16.0, 32.0, 0.5))
    assert found["runs"]["ivf"]["100"]["recall"] == 0.5
    assert found["runs"]["exact"]["400"]["peak_memory"] == 450.0
    # 20,000 pairs are all of 100 times 100 and an eighth of 400 times 400, or twice that in half the cells.
    assert [(kind, count, rows) for kind, count, rows in started if kind == "exact"] == [
        ("exact", 100, 100),
        ("exact", 400, 50),
    ]
    assert ("ivf", 400, 50 * scale.cells(400) // 16) in started
    assert read_json(tmp_path / "scale-ivf-400.json")["settings"]["cells"] == 32
    again = scale.measure(tmp_path, {"versions": {}}, [100, 400], budget=2e4, threads=1, k=4)
    assert again == found
    assert len(started) == 6
    scale.measure(tmp_path, {"versions": {}}, [100], budget=2e4, threads=2, k=4)
    assert len(started) == 9


def test_a_process_of_its_own_reports(tmp_path: Path) -> None:
    scale.write_vectors(tmp_path / "vectors.npy", 300)
    found: dict[str, Any] = scale.one(tmp_path, {}, 300, "exact", 1e9, 1, 7)
    assert (found["rows"], found["recall"], found["sampled"]) == (300, 1.0, False)
    assert found["seconds"] > 0
    assert found["peak_memory"] > 50
    assert math.isclose(found["settings"]["k"], 7)
