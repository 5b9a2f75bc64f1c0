"""What a wrong command says, and which folder a run gets."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from lit_metric import cli
from lit_metric.cli import messages
from lit_metric.cli.run_name import RUN, name_run
from lit_metric.data import DataError
from lit_metric.refresh import MiningFailed
from tests.end_to_end.command import ROOT, run
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def config(root: Path, *names: str | None, **options: Any) -> Namespace:
    """Parsed options of a run whose loggers have these names."""
    logger = [Namespace(class_path="L", init_args=Namespace(name=name, save_dir=str(root))) for name in names]
    return Namespace(**{"trainer": Namespace(logger=logger), "name": None, **options})


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (RUN, "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def named(given: Namespace, fit: bool = True) -> list[str]:
    name_run(given, fit)
    return [logger.init_args.name for logger in given.trainer.logger]


def test_a_run_gets_the_first_name_without_a_config(tmp_path: Path) -> None:
    assert named(config(tmp_path, "a", None, "a")) == ["a", "a", "a"]
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "a-3").mkdir()
    assert named(config(tmp_path, "a", "a")) == ["a-3", "a-3"]
    assert named(config(tmp_path, "a", "a"), fit=False) == ["a", "a"]


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        ((None, None), {"name": "triplet"}, "triplet"),
        (("a", "b"), {"name": "triplet"}, "triplet"),
        ((None, "mine"), {}, "mine"),
        ((None, "lightning_logs"), {}, "run"),
        ((None,), {"config": ["configs/banking77.yaml", "miner.yaml"]}, "banking77"),
        ((None,), {"config": ["runs/x/config.yaml"]}, "run"),
        ((None,), {"data": Namespace(init_args=Namespace(train="data/my questions.csv"))}, "my-questions"),
        ((None,), {"data": Namespace(init_args=Namespace(train=["b.csv", "c.csv"]))}, "b"),
        ((None,), {"data": Namespace(init_args=Namespace(train="PolyAI/banking77:train"))}, "banking77"),
    ],
)
def test_where_the_name_comes_from(tmp_path: Path, names: Any, options: Any, expected: str) -> None:
    given = config(tmp_path, *names, **options)
    assert set(named(given)) == {expected}
    assert given.name == expected


def test_names_that_have_no_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loggers name the run 'a' and 'b', .* give it by --name"):
        named(config(tmp_path, "a", "b"))
    for logger in (None, False, []):
        with pytest.raises(ValueError, match="--name a has no effect"):
            name_run(Namespace(trainer=Namespace(logger=logger), name="a"), True)
    with pytest.raises(ValueError, match="must be the name of a folder"):
        named(config(tmp_path, None, name="a/b"))


def test_ranks_go_where_rank_zero_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named(config(tmp_path, "a")) == ["a"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").touch()
    monkeypatch.setenv("LOCAL_RANK", "1")  # started later, when the config is there
    assert named(config(tmp_path, "a")) == ["a"]
    monkeypatch.delenv("LOCAL_RANK")
    assert named(config(tmp_path, "a")) == ["a-2"]  # another run in the same process


def test_a_resumed_run_stays_with_its_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "a-2" / "checkpoints" / "last.ckpt"
    place.parent.mkdir(parents=True)
    place.touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").touch()
    assert named(config(tmp_path, "a", ckpt_path=str(place))) == ["a-2"]
    # Also from another working directory, whose runs/ is another.
    given = config(tmp_path / "other" / "runs", "a", ckpt_path=str(place))
    assert named(given) == ["a-2"]
    assert given.trainer.logger[0].init_args.save_dir == str(tmp_path)
    elsewhere = tmp_path / "elsewhere.ckpt"
    elsewhere.touch()
    assert named(config(tmp_path / "runs", "a", ckpt_path=str(elsewhere))) == ["a"]


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / "config.yaml").touch()
    with pytest.raises(
        ValueError, match=r"--ckpt_path last: there is no .*last\.ckpt; there is no checkpoint"
    ):
        named(config(tmp_path, "a", ckpt_path="last"))
    (tmp_path / "a" / "checkpoints" / "best.ckpt").touch()
    with pytest.raises(ValueError, match=r"it holds best\.ckpt: give the path of one"):
        named(config(tmp_path, "a", ckpt_path="last"))
    with pytest.raises(ValueError, match=r"there is no such file; its folder holds best\.ckpt"):
        named(config(tmp_path, "a", ckpt_path=str(tmp_path / "a" / "checkpoints" / "bets.ckpt")))
    (tmp_path / "a" / "checkpoints" / "last.ckpt").touch()
    given = config(tmp_path, "a", ckpt_path="last")
    assert named(given) == ["a"]
    assert given.ckpt_path == str(tmp_path / "a" / "checkpoints" / "last.ckpt")


def test_loggers_without_a_folder_are_left_alone() -> None:
    for logger in (None, False, True):
        assert name_run(Namespace(trainer=Namespace(logger=logger), name=None), True) is None


def test_as_a_command(small: Small, tmp_path: Path) -> None:
    given = [
        f"--config={ROOT / 'configs' / 'banking77.yaml'}",
        "--data.train=nowhere/train.csv",
        f"--model.encoder.init_args.backbone={small / 'backbone'}",
    ]
    command = [sys.executable, "-m", "lit_metric", "fit", *given]
    environment = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"  # OpenMP then shows its settings
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment)
    if "GOMP_SPINCOUNT" in done.stderr:  # that of GCC
        assert f"GOMP_SPINCOUNT = '{cli.SPINS}'" in done.stderr
    line = "there is no file 'nowhere/train.csv'; there is no folder 'nowhere' either"
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"lit-metric: DataError: {line}"
    assert "Traceback" not in done.stderr
    with pytest.raises(DataError) as raised:  # Python shows where, and ends with status 1
        run(tmp_path, "fit", *given, "--debug")
    assert str(raised.value) == line


@pytest.mark.parametrize("given", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_how_threads_wait_is_for_the_user_to_say(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv(given, "7")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["runs", "nowhere"])
    found = {name: os.environ.get(name) for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    assert found == {"GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": None, given: "7"}


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
    assert messages.mistake(MiningFailed("the miner died")) == "MiningFailed: the miner died"
    assert messages.mistake(RuntimeError("a bug")) is None
    assert messages.mistake(ImportError("a bug, too")) is None
    missing = 'ONNX graphs need the package onnx: pip install "lit-metric[onnx]"'
    assert messages.mistake(ImportError(missing)) == missing


def test_messages_of_others_are_left_whole() -> None:
    message = "2 bad values:\n- a: no text in row 1.\n- b: no label in row 2."
    assert messages.essence(message) == message


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
