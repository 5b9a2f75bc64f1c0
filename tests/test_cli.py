"""What a wrong command says, and which folder a run gets."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_metric import cli
from tests.end_to_end.command import ROOT, options, run
from tests.small import Small, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


def loggers(root: Path, *names: str) -> list[SimpleNamespace]:
    """Configs of loggers, as the parser gives them."""
    return [SimpleNamespace(init_args=_Arguments(name=name, save_dir=str(root))) for name in names]


class _Arguments(SimpleNamespace):
    def get(self, name: str) -> Any:
        return getattr(self, name, None)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (cli.RUN, "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def renamed(configs: list[SimpleNamespace], checkpoint: Path | None = None) -> list[str]:
    cli.rename_run(configs, None if checkpoint is None else str(checkpoint))
    return [config.init_args.name for config in configs]


def test_a_run_gets_the_first_name_without_a_config(tmp_path: Path) -> None:
    assert renamed(loggers(tmp_path, "a", "a", "b")) == ["a", "a", "b"]
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "a-3").mkdir()
    assert renamed(loggers(tmp_path, "a", "a", "b")) == ["a-3", "a-3", "b"]


def test_ranks_go_where_rank_zero_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert renamed(loggers(tmp_path, "a")) == ["a"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").touch()
    monkeypatch.setenv("LOCAL_RANK", "1")  # started later, when the config is there
    assert renamed(loggers(tmp_path, "a")) == ["a"]
    monkeypatch.delenv("LOCAL_RANK")
    assert renamed(loggers(tmp_path, "a")) == ["a-2"]  # another run in the same process


def test_a_resumed_run_stays_with_its_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "a-2" / "checkpoints" / "last.ckpt"
    place.parent.mkdir(parents=True)
    place.touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").touch()
    assert renamed(loggers(tmp_path, "a"), place) == ["a-2"]
    assert renamed(loggers(tmp_path, "a"), tmp_path / "nothing.ckpt") == ["a"]
    elsewhere = tmp_path / "elsewhere.ckpt"
    elsewhere.touch()
    assert renamed(loggers(tmp_path / "runs", "a"), elsewhere) == ["a"]
    assert renamed(loggers(tmp_path, "a"), elsewhere) == ["a"]


def test_loggers_without_a_folder_are_left_alone() -> None:
    cli.rename_run(None)
    cli.rename_run(False)
    cli.rename_run(loggers(Path(), ""))


def refused(small: Small, folder: Path, capsys: pytest.CaptureFixture[str], *more: str, **values: Any) -> str:
    """The line that a ``fit`` ends with."""
    given = {
        "data__train": small / "train.csv",
        "data__cache_dir": small / "cache",
        "model__encoder__init_args__backbone": small / "backbone",
        "trainer__accelerator": "cpu",
    }
    arguments = [f"--config={ROOT / 'configs' / 'banking77.yaml'}", *options(**{**given, **values}), *more]
    with pytest.raises(SystemExit) as stopped:
        run(folder, "fit", *arguments)
    assert stopped.value.code == 2
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("lit-metric: ")]
    assert len(lines) == 1
    assert told.err.endswith(f"{lines[0]}\n")
    assert "Traceback" not in told.err
    assert "usage:" not in told.err
    return lines[0].removeprefix("lit-metric: ")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"data__train": "nothere.csv"}, "DataError: there is no file 'nothere.csv'"),
        ({"data__label": "intention"}, "has no column 'intention'; it has 'text', 'label'"),
        ({"data__planner__init_args__classes": 64}, "PKPlanner(classes=64) asks for 64 different classes"),
        ({"model__loss__init_args__temprature": 1}, "InfoNCELoss': Option 'temprature' is not accepted"),
        (
            {"model__loss": "lit_metric.losses.InfoLoss"},
            "module 'lit_metric.losses' has no attribute 'InfoLoss'",
        ),
        ({"model__loss__init_args__temperature": -3}, "temperature must be above 0 and finite, not -3.0"),
        (
            {"model__encoder__init_args__backbone": "package:nowhere/model"},
            "there is no package 'nowhere' here",
        ),
        ({"trainer__epochs": 3}, "trainer.epochs"),
        ({"ckpt_path": "nothere.ckpt"}, "Checkpoint file not found: nothere.ckpt"),
        ({"config": "nothere.yaml"}, "does not exist"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    small: Small,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    values: dict[str, Any],
    expected: str,
) -> None:
    told = refused(small, tmp_path, capsys, **values)
    assert expected in told
    assert len(told) < 500


def test_every_bad_row_is_told(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_csv(tmp_path / "bad.csv", [("w5", "a"), ("", "a"), ("w6", ""), ("w7", "a")])
    with pytest.raises(SystemExit):
        run(
            tmp_path,
            "fit",
            f"--config={ROOT / 'configs' / 'banking77.yaml'}",
            f"--data.train={source}",
            f"--model.encoder.init_args.backbone={small / 'backbone'}",
            "--trainer.accelerator=cpu",
        )
    told = capsys.readouterr().err
    assert "2 bad values" in told
    assert "column 'text': empty text in row 2." in told
    assert "column 'label': no label in row 3." in told


def test_debug_shows_where(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="nothere"):
        run(
            tmp_path,
            "fit",
            f"--config={ROOT / 'configs' / 'banking77.yaml'}",
            "--debug",
            "--data.train=nothere.csv",
            f"--model.encoder.init_args.backbone={small / 'backbone'}",
            "--trainer.accelerator=cpu",
        )
    assert "lit-metric:" not in capsys.readouterr().err


def test_an_unknown_command_and_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "train")
    assert stopped.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "--help")
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert all(
        command in told for command in ("fit", "validate", "test", "predict", "encode", "search", "export")
    )


def test_messages_of_others_are_left_whole() -> None:
    message = "2 bad values:\n- a: no text in row 1.\n- b: no label in row 2."
    assert cli.essence(message) == message


def test_quiet_about_what_does_not_hold(caplog: pytest.LogCaptureFixture) -> None:
    teller = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    filters = list(teller.filters)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO, teller.name):
        warnings.simplefilter("always")
        cli.quiet()
        warnings.warn(
            "ended before the epoch ended and your dataloader is not resumable. Consider", stacklevel=1
        )
        warnings.warn("something else", stacklevel=1)
        teller.info("Tip: buy this")
        teller.info("Training starts")
    teller.filters[:] = filters
    assert [str(each.message) for each in caught] == ["something else"]
    assert [record.message for record in caplog.records] == ["Training starts"]
