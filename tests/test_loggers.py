"""Rows of metrics that outlive the process that wrote them."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import MLFlowLogger

from lit_metric.data.evaluated import HEADLINES
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


def test_mlflow_takes_all_metrics_under_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in that refuses what MLflow refuses: other characters than these in a name."""
    names = {name for names in HEADLINES.values() for name in names}
    names |= {f"{name}@{k}" for name in ("recall", "precision", "hits", "ndcg") for k in (1, 3, 5, 10)}
    taken: list[str] = []

    def metric(key: str, value: float, timestamp: int, step: int) -> str:
        assert re.fullmatch(r"[\w.\- :/]+", key), key
        return key

    def log_batch(run_id: str, metrics: list[str]) -> None:
        taken.extend(metrics)

    entities = SimpleNamespace(Metric=metric)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(entities=entities))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)  # type: ignore[arg-type]
    logger: Any = SimpleNamespace(
        _prefix="", LOGGER_JOIN_CHAR="-", run_id="1", _log_batch_kwargs={}, experiment=SimpleNamespace()
    )
    logger.experiment.log_batch = log_batch
    curves = ["lr/encoder", "lr/encoder.no_decay", "lr/*.bias.no_decay", "mining/rejected/RelativeMargin"]
    MLFlowLogger.log_metrics(logger, dict.fromkeys([*(f"val/{name}" for name in names), *curves], 0.5), 0)
    assert len(set(taken)) == len(taken) == len(names) + len(curves)
