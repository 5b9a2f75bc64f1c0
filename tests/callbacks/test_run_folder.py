"""JSON files that are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from lit_metric.callbacks.run_folder import read_json, run_folder, write_report


def test_json_there_and_back_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.json"
    write_report(path, {"after": {"map@r": float("nan"), "mrr": 0.25}, "steps": 3})
    assert json.loads(path.read_text()) == {"after": {"map@r": None, "mrr": 0.25}, "steps": 3}
    write_report(path, {"steps": 4})
    assert read_json(path) == {"steps": 4}
    assert [each.name for each in path.parent.iterdir()] == ["metrics.json"]


def test_what_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert read_json(path) == {}
    for text in ("[1]", '{"a": ', ""):
        path.write_text(text)
        assert read_json(path) == {}


def test_the_folder_is_the_loggers_else_the_trainers() -> None:
    assert run_folder(SimpleNamespace(log_dir="runs/a", default_root_dir="b")) == Path("runs/a")  # type: ignore[arg-type]
    assert run_folder(SimpleNamespace(log_dir=None, default_root_dir="b")) == Path("b")  # type: ignore[arg-type]
