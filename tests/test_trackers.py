"""Each tracker really logs a short run, without a network."""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_metric.callbacks import EmbeddingProjector
from tests.end_to_end.command import options, run
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")
MEASURE = "val/map@r"


def fit(small: Small, folder: Path, *given: str) -> float:
    """Two epochs of a step each; returns the measure of the validation after them, by the run's own file."""
    quick = options(
        model__encoder__backbone=small / "backbone",
        data__train=small / "train.csv",
        data__cache_dir=small / "cache",
        trainer__accelerator="cpu",
        trainer__max_epochs=2,
        trainer__enable_progress_bar=False,
    )
    run(folder, "fit", "--name", "short", *quick, *given)
    with (folder / "runs" / "short" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        values = [float(row[MEASURE]) for row in csv.DictReader(file) if row.get(MEASURE)]
    assert (folder / "runs" / "short" / "metrics.json").exists()
    return values[-1]


def test_tensorboard_with_its_projector(small: Small, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    measured = fit(small, tmp_path, "--trainer.callbacks+=EmbeddingProjector", "--trainer.callbacks.items=5")
    folder = tmp_path / "runs" / "short"
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Scalars(MEASURE)[-1].value == pytest.approx(measured, abs=1e-6)
    config = (folder / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert config.count("tensor_path") == 2
    tables = sorted(folder.rglob("metadata.tsv"))
    assert len(tables) == 2
    header, *rows = tables[0].read_text(encoding="utf-8").splitlines()
    assert header == "text\tlabel"
    assert len(rows) == 5
    assert all(row.split("\t")[1].startswith("intent") for row in rows)
    assert all(len(path.read_text().splitlines()) == 5 for path in folder.rglob("tensors.tsv"))
    with pytest.raises(ValueError, match="at least one item"):
        EmbeddingProjector(items=0)


def test_mlflow(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = "--trainer.logger.init_args."
    measured = fit(
        small,
        tmp_path,
        "--trainer.logger+=lightning.pytorch.loggers.MLFlowLogger",
        f"{logger}experiment_name=questions",
        f"{logger}save_dir=mlruns",
    )
    [found] = tmp_path.glob("mlruns/*/*/metrics/val/map*r")
    logged = found.read_text(encoding="utf-8").splitlines()[-1].split()[1]
    assert float(logged) == pytest.approx(measured, abs=1e-6)


def test_wandb_offline(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = "--trainer.logger.init_args."
    measured = fit(
        small,
        tmp_path,
        "--trainer.logger+=lightning.pytorch.loggers.WandbLogger",
        f"{logger}project=questions",
        f"{logger}offline=true",
    )
    import wandb

    assert wandb.run is not None
    logged = float(wandb.run.summary[MEASURE])
    wandb.finish()
    assert logged == pytest.approx(measured, abs=1e-6)
    assert [*tmp_path.glob("wandb/offline-run-*/run-*.wandb")]


def test_trackio(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    logger = "--trainer.logger.init_args."
    measured = fit(
        small,
        tmp_path,
        "--trainer.logger+=lit_metric.loggers.TrackioLogger",
        f"{logger}project=questions",
    )
    values: list[Any] = []
    for path in (tmp_path / "trackio").rglob("*.db"):
        with contextlib.closing(sqlite3.connect(path)) as base:
            values += [json.loads(row[0]) for row in base.execute("select metrics from metrics")]
    found = [row[MEASURE] for row in values if MEASURE in row]
    assert found[-1] == pytest.approx(measured, abs=1e-6)


def test_without_trackio_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_metric.loggers import TrackioLogger

    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ImportError, match="pip install trackio"):
        TrackioLogger().log_metrics({"loss": 1.0}, 0)
