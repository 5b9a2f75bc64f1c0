"""JSON files that are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lit_metric.callbacks.summary import read_report, write_report
from lit_metric.loggers import RunLogger, run_folder


def test_json_there_and_back_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.json"
    write_report(path, {"after": {"map@r": float("nan"), "mrr": 0.25}, "steps": 3})
    assert json.loads(path.read_text()) == {"after": {"map@r": None, "mrr": 0.25}, "steps": 3}
    write_report(path, {"steps": 4})
    assert read_report(path) == {"steps": 4}
    assert [each.name for each in path.parent.iterdir()] == ["metrics.json"]


def test_what_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert read_report(path) == {}
    for text in ("[1]", '{"a": ', ""):
        path.write_text(text)
        assert read_report(path) == {}


class Foreign(DummyLogger):
    """A logger like that of W&B: several runs in one ``save_dir``, each with a version of its own."""

    save_dir = "elsewhere"
    name = "project"  # type: ignore[assignment]

    def __init__(self, version: str) -> None:
        super().__init__()
        self._own = version

    @property
    def version(self) -> str:  # type: ignore[override]
        return self._own


def folder_of(**options: Any) -> Path | None:
    return run_folder(pl.Trainer(accelerator="cpu", **options))


def test_a_run_has_a_folder_of_its_own_whatever_the_logger(tmp_path: Path) -> None:
    assert folder_of(logger=RunLogger("a", str(tmp_path))) == tmp_path / "a"
    assert folder_of(logger=CSVLogger(tmp_path, "b")) == tmp_path / "b" / "version_0"
    runs = [folder_of(logger=Foreign(version)) for version in ("x", "y")]
    assert runs == [Path("elsewhere/project/x"), Path("elsewhere/project/y")]
    # Where Lightning keeps checkpoints, too.
    checkpoint = ModelCheckpoint()
    trainer = pl.Trainer(accelerator="cpu", logger=Foreign("x"), callbacks=[checkpoint])
    checkpoint.setup(trainer, pl.LightningModule(), "fit")
    assert checkpoint.dirpath == "elsewhere/project/x/checkpoints"


def test_nothing_is_written_where_nobody_asked_for_it(tmp_path: Path) -> None:
    assert folder_of(logger=False) is None
    assert folder_of(logger=False, default_root_dir=Path.cwd()) is None
    assert folder_of(logger=False, default_root_dir=tmp_path) == tmp_path
    assert folder_of(logger=RunLogger("a", str(tmp_path)), fast_dev_run=True) is None
