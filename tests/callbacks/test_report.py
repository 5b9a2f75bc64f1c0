"""What ``metrics.json`` counts and what it leaves out; whole runs are in ``tests/end_to_end``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import lit_metric
from lit_metric.callbacks import RunReport, report
from lit_metric.callbacks.summary import read_report, write_report
from lit_metric.evaluation import Measured
from tests.small import Small, distance, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_two_evaluations_cost_no_seconds(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any) -> Measured:
        time.sleep(0.2)
        return Measured({"map@r": 0.5}, {})

    monkeypatch.setattr(report, "measure", slow)
    counted = RunReport()
    started = time.perf_counter()
    trainer(tmp_path, counted, max_epochs=1).fit(small.learner(), small.data())
    spent = time.perf_counter() - started
    written = read_report(tmp_path / "metrics.json")
    assert written["before"] == written["after"] == {"map@r": 0.5}
    assert 0 < written["seconds"] < spent - 2 * 0.2
    # Nor does a checkpoint that is written at the very end count them.
    assert counted.state_dict()["seconds"] == written["seconds"]
    assert written["steps"] == 5
    assert written["texts"] == 60


def test_time_goes_on_from_the_checkpoint(small: Small, tmp_path: Path) -> None:
    resumed = RunReport()
    resumed.load_state_dict({"seconds": 1000.0, "texts": 500})
    write_report(tmp_path / "metrics.json", {"split": "test", "before": {"map@r": 0.25}})
    started = time.perf_counter()
    trainer(tmp_path, resumed, max_epochs=1).fit(small.learner(), small.data())
    spent = time.perf_counter() - started
    written = read_report(tmp_path / "metrics.json")
    assert written["before"] == {"map@r": 0.25}
    assert 1000 < written["seconds"] < 1000 + spent
    assert written["texts"] == 560
    assert written["texts_per_second"] == pytest.approx(560 / written["seconds"])


def test_what_was_before_a_resumed_run_is_not_made_up(small: Small, tmp_path: Path) -> None:
    resumed = RunReport()
    resumed.load_state_dict({"seconds": 1000.0, "texts": 500})
    trainer(tmp_path, resumed, max_steps=1).fit(small.learner(), small.data())
    written = read_report(tmp_path / "metrics.json")
    assert "before" not in written
    assert written["after"]


def test_an_old_report_is_no_ones_before(small: Small, tmp_path: Path) -> None:
    write_report(
        tmp_path / "metrics.json", {"split": "test", "before": {"map@r": 0.25}, "after": {"map@r": 1.0}}
    )
    trainer(tmp_path, RunReport(), max_steps=1).fit(small.learner(), small.data())
    written = read_report(tmp_path / "metrics.json")
    assert written["before"]["map@r"] != 0.25
    assert written["after"]["map@r"] != 1.0


def test_without_a_test_split_it_reports_validation(small: Small, tmp_path: Path) -> None:
    fit = trainer(tmp_path, RunReport(before=False))
    fit.fit(small.learner(), small.data(test=None))
    written = read_report(tmp_path / "metrics.json")
    assert written["split"] == "validation"
    assert "before" not in written
    # Nothing chose a checkpoint, so it is that of the last weights.
    assert written["best_checkpoint"] is None
    last = {name.removeprefix("val/"): float(value) for name, value in fit.callback_metrics.items()}
    assert written["after"]["map@r"] == pytest.approx(last["map@r"], abs=1e-6)
    assert len(written["after"]) > 10


def test_the_module_keeps_its_last_weights_and_the_folder_the_best(small: Small, tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, "best", monitor="val/effective_rank", mode="max")
    newest = ModelCheckpoint(tmp_path, "newest")
    learner = small.learner(lr=0.01)
    fit = trainer(tmp_path, RunReport(), newest, best, max_epochs=4)
    fit.fit(learner, small.data())
    state = torch.load(best.best_model_path, weights_only=True)
    assert state["epoch"] < 3, "the best epoch must not be the last, or nothing was chosen"
    chosen = {name: value for name, value in state["state_dict"].items() if name.startswith("encoder.")}
    kept = {f"encoder.{name}": value for name, value in weights(lit_metric.load(tmp_path)).items()}
    assert distance(kept, chosen) == 0
    last = torch.load(tmp_path / "newest.ckpt", weights_only=True)
    assert distance(weights(learner), last["state_dict"]) == 0
    assert distance(weights(learner), state["state_dict"]) > 1e-4
    assert read_report(tmp_path / "metrics.json")["best_checkpoint"] == "best.ckpt"


@pytest.mark.parametrize(("there", "expected"), [(True, "best.ckpt"), (False, None)])
def test_a_best_checkpoint_that_was_moved_or_is_gone(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, there: bool, expected: str | None
) -> None:
    learner, other = small.learner(), small.learner()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    if there:
        torch.save({"state_dict": other.state_dict()}, tmp_path / "best.ckpt")
    best = ModelCheckpoint(tmp_path, monitor="val/map@r")
    best.best_model_path = "/nowhere/runs/old/best.ckpt"
    measured = RunReport()
    measured._folder = tmp_path
    assert measured._restore_best(trainer(tmp_path, best), learner) == expected
    assert distance(weights(learner), weights(other)) == pytest.approx(0 if there else 1)
    assert ("is missing; the last weights are measured" in caplog.text) != there
