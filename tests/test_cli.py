"""What a wrong command says, and which folder a run gets."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_metric import cli
from lit_metric.mining.supervisor import MiningFailed
from tests.end_to_end.command import ROOT, run
from tests.small import Small

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


def test_as_a_command(small: Small, tmp_path: Path) -> None:
    given = [
        f"--config={ROOT / 'configs' / 'banking77.yaml'}",
        "--data.train=nowhere/train.csv",
        f"--model.encoder.init_args.backbone={small / 'backbone'}",
    ]
    for more in ([], ["--debug"]):
        command = [sys.executable, "-m", "lit_metric", "fit", *given, *more]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        line = "DataError: there is no file 'nowhere/train.csv'; there is no folder 'nowhere' either"
        if more:
            assert done.returncode == 1
            assert "Traceback (most recent call last):" in done.stderr
            assert done.stderr.splitlines()[-1].endswith(line)
        else:
            assert done.returncode == 2
            assert done.stderr.splitlines()[-1] == f"lit-metric: {line}"
            assert "Traceback" not in done.stderr


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


def test_a_refresh_given_up_is_no_fault_of_the_program() -> None:
    assert cli.mistake(MiningFailed("the miner died")) == "MiningFailed: the miner died"
    assert cli.mistake(RuntimeError("a bug")) is None


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
