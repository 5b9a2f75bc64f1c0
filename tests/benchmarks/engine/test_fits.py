"""Fits of equal time, the start of a fit, and the rehearsal of what runs on a GPU."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.banking77 import Comparison
from benchmarks.engine import gpu, quality, start
from benchmarks.engine.start import Marks
from benchmarks.peer import RECIPES
from tests.small import questions


def write(path: Path, count: int, seed: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = questions(count, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path
    )


def test_settings_are_chosen_on_validation_and_fits_take_equal_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path / "data"))
    for name in ("train", "test"):
        write(tmp_path / "data" / "banking77" / f"{name}.parquet", 200, 0)
    ours: list[tuple[str, str, list[str]]] = []
    peers: list[tuple[str, str, dict[str, Any]]] = []

    def fit(self: Comparison, seed: int) -> dict[str, Any]:
        ours.append((self.out.parent.name, self.test.name, [*self.options]))
        steps = next((int(each.split("=")[1]) for each in self.options if "max_steps" in each), 40)
        score = 0.9 if "--model.lr=0.0008" in self.options else 0.5
        return {"seconds": 2.0 * steps, "steps": steps, "map@r": score + seed / 100, "knn1_accuracy": 0.9}

    def peer(self: Comparison, name: str, recipe: dict[str, Any]) -> dict[str, Any]:
        peers.append((self.out.parent.name, self.test.name, recipe))
        steps = recipe["steps"]
        score = {("ranking", 1e-4): 0.6, ("ranking", 2e-4): 0.7}.get((recipe["recipe"], recipe["lr"]), 0.4)
        return {"seconds": 6.0 * steps, "steps": steps, "map@r": score, "knn1_accuracy": 0.8}

    monkeypatch.setattr(Comparison, "ours", fit)
    monkeypatch.setattr(Comparison, "peer", peer)
    scores, accuracy = quality.measure(tmp_path / "out", quick=False)
    assert scores["chosen"] == {"ours": {"lr": 8e-4}, "peer": {"recipe": "ranking", "lr": 2e-4}}
    assert scores["rounds"] == {"ours": [0.9, 0.91, 0.92], "peer": [0.7] * 3}
    assert scores["difference"] == pytest.approx(0.21)
    assert accuracy["ratio"] == pytest.approx(0.9 / 0.8)
    # 300 s at 2 s and at 6 s a step
    assert {each for _, _, options in ours for each in options if "max_steps" in each} == {
        "--trainer.max_steps=150"
    }
    short, long = peers[:3], peers[3:]
    assert [recipe["recipe"] for _, _, recipe in short] == [*RECIPES]
    assert {recipe["steps"] for _, _, recipe in short} == {20}
    assert {recipe["steps"] for _, _, recipe in long} == {50}
    chosen = [(recipe["recipe"], recipe["lr"]) for _, test, recipe in long if test != "test.parquet"]
    rates = [("ranking", rate) for rate in quality.PEER_RATES]
    assert chosen == [*((name, 1e-4) for name in RECIPES), *rates]  # one of which was kept
    # Nothing but what was chosen is measured on test texts.
    tested = [recipe for _, test, recipe in peers if test == "test.parquet"]
    assert {(recipe["recipe"], recipe["lr"]) for recipe in tested} == {("ranking", 2e-4)}
    assert {recipe["seed"] for recipe in tested} == {0, 1, 2}
    assert all(stage == "test" for stage, test, _ in peers if test == "test.parquet")


def test_phases_end_when_a_method_returns_for_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(start, "time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setenv("BENCHMARK_BEGAN", "98")
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    class Data:
        def read(self, seconds: float) -> float:
            now[0] += seconds
            return seconds

    marks = Marks(tmp_path / "report.json")
    marks.mark("imports")
    marks.after(Data, "read", "reading")
    assert [Data().read(3.0), Data().read(5.0)] == [3.0, 5.0]
    marks.finish()
    assert ended == [0]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ends"] == {"imports": 2.0, "reading": 5.0, "first step": 10.0}


def test_texts_for_a_gpu_differ_and_come_from_the_questions_that_ship() -> None:
    texts, labels = gpu.texts_of(500)
    assert len({*texts}) == len(labels) == 500
    assert gpu.texts_of(500) == (texts, labels)
    with gpu.QUESTIONS.open(newline="", encoding="utf-8") as file:
        known = [row["text"] for row in csv.DictReader(file)]
    assert texts[0] in known
    assert len({*labels}) == gpu.CLASSES
    lengths = torch.tensor([len(text) for text in texts]).float()
    assert lengths.max() > 3 * lengths.min()


def test_without_a_gpu_the_command_says_how_to_rehearse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="sees no GPU here; --device cpu --quick rehearses"):
        gpu.main(["--out", str(tmp_path)])


def test_a_part_that_fails_or_comes_too_late_is_named_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(task: gpu.Task) -> dict[str, Any]:
        raise RuntimeError("no memory")

    parts = {"training": lambda task: {"ratio": 2.0}, "memory": fail}
    monkeypatch.setattr(gpu, "PARTS", parts)
    given = ["--out", str(tmp_path), "--device", "cpu", "--only", "training", "memory"]
    with pytest.raises(SystemExit, match="failed: memory"):
        gpu.main(given)
    found = json.loads((tmp_path / gpu.FILE).read_text())
    assert found["training"]["ratio"] == 2.0
    assert found["memory"]["failed"] == "RuntimeError: no memory"
    gpu.main([*given, "--minutes", "-1"])
    assert "minutes were over" in json.loads((tmp_path / gpu.FILE).read_text())["training"]["skipped"]


@pytest.mark.slow
def test_all_parts_are_rehearsed_without_a_gpu(tmp_path: Path) -> None:
    gpu.main(["--out", str(tmp_path), "--device", "cpu", "--quick"])
    found = json.loads((tmp_path / gpu.FILE).read_text())
    for part in ("memory", "mining"):
        assert found[part]["ratio"] > 0
    assert {
        each["unit"]
        for part in ("training", "encoding")
        for each in found[part].values()
        if isinstance(each, dict)
    } == {"texts/s"}
    assert found["tests"]["status"] == 0
