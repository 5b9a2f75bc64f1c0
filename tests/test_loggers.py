"""Rows of metrics that outlive the process that wrote them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lit_metric.loggers import RunLogger

pytestmark = pytest.mark.filterwarnings("ignore")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def log(folder: Path, *entries: dict[str, float], start: int = 0) -> None:
    logger = RunLogger("run", str(folder))
    for step, entry in enumerate(entries, start):
        logger.log_metrics(entry, step)
    logger.save()


def test_it_writes_into_the_run_folder(tmp_path: Path) -> None:
    log(tmp_path, {"loss": 2.5})
    assert RunLogger("run", str(tmp_path)).log_dir == str(tmp_path / "run")
    assert rows(tmp_path / "run") == [{"step": "0", "loss": "2.5"}]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.csv"]


def test_a_second_process_appends_also_other_columns(tmp_path: Path) -> None:
    log(tmp_path, {"loss": 2.0}, {"loss": 1.0})
    log(tmp_path, {"loss": 0.5}, {"other": 7.0}, start=2)
    assert rows(tmp_path / "run") == [
        {"step": "0", "loss": "2.0"},
        {"step": "1", "loss": "1.0"},
        {"step": "2", "loss": "0.5"},
        {"step": "3", "other": "7.0"},
    ]


def test_one_that_logs_nothing_loses_nothing(tmp_path: Path) -> None:
    log(tmp_path, {"loss": 2.0})
    log(tmp_path)
    assert rows(tmp_path / "run") == [{"step": "0", "loss": "2.0"}]


def test_rows_are_found_that_a_crash_left_aside(tmp_path: Path) -> None:
    log(tmp_path, {"loss": 2.0})
    (tmp_path / "run" / "metrics.csv").rename(tmp_path / "run" / "metrics.csv.earlier")
    log(tmp_path, {"loss": 1.0}, start=1)
    assert [row["loss"] for row in rows(tmp_path / "run")] == ["2.0", "1.0"]
    assert not (tmp_path / "run" / "metrics.csv.earlier").exists()
