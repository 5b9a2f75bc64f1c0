"""What a wrong command says, and which folder a run gets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_metric import cli
from lit_metric.data import DataError
from lit_metric.losses import TripletLoss
from lit_metric.mining.supervisor import MiningFailed
from tests.end_to_end.command import ROOT, options, run
from tests.small import Small, trainer, write_csv

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
        (
            {"model__loss__init_args__temprature": 1},
            "ArgumentError: Parser key \"model\": Problem with given class_path 'lit_metric.MetricLearner': "
            "Parser key \"loss\": Problem with given class_path 'lit_metric.losses.InfoNCELoss': "
            "Option 'temprature' is not accepted",
        ),
        (
            {"model__encoder__init_args__backbone": "./nowhere"},
            "ValueError: the backbone './nowhere': there is no such folder; correct the path",
        ),
        (
            {"model__encoder__init_args__backbone": "{here}"},
            "ValueError: {here}: no config.json in {here}, so this is no Hugging Face model folder",
        ),
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
    values = {name: str(tmp_path) if value == "{here}" else value for name, value in values.items()}
    told = refused(small, tmp_path, capsys, **values)
    expected = expected.replace("{here}", str(tmp_path))
    assert told == expected if expected[:5] in ("Value", "Argum") else expected in told
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


BAD = "bad value{s} (rows are counted from 1, without a header):"
JUDGED = [
    "--data.supervision=lit_metric.data.Judgements",
    "--data.supervision.queries=queries.jsonl",
    "--data.supervision.corpus=corpus.jsonl",
]


@pytest.mark.parametrize(
    ("content", "more", "expected"),
    [
        (
            ["text,label", "w5,a", "w6, w7,b", "w8,a"],
            [],
            ["{file}: 3 fields where the header has 2 in row 2. Quote fields that hold the separator."],
        ),
        (
            [{"text": "w5", "label": "a"}, {"text": 5, "label": "a"}],
            [],
            [
                "{file}, column 'text': an int instead of text in row 2. "
                "Convert the column to strings, or name another."
            ],
        ),
        (
            [{"text": "w5", "label": "a"}, {"text": "w6", "label": 1}, {"text": "w7", "label": "b"}],
            [],
            [
                "{file}, column 'label': a number where other rows have strings in row 2. "
                "Give the column one type."
            ],
        ),
        (
            [{"text": "w5", "label": None}, {"text": "w6", "label": "a"}],
            [],
            ["{file}, column 'label': no label in row 1. Fill it in, or drop the row."],
        ),
        (
            [{"tags": [], "label": "a"}, {"tags": ["w6", " "], "label": "a"}],
            [],
            [
                "{file}, column 'tags': no tags in row 1. Fill them in, or drop the row.",
                "{file}, column 'tags': empty text among the tags in row 2. Fill it in, or drop the row.",
            ],
        ),
        (
            [{"text": "w5", "label": "a"}, {"text": "w6" + chr(0xD800), "label": "a"}],
            [],
            ["{file}, column 'text': broken characters (not valid UTF-8) in row 2. Save the file as UTF-8."],
        ),
        (
            [{"query": 1, "document": "d"}, {"query": 1, "document": "e"}],
            JUDGED,
            [
                "corpus.jsonl, column 'id': the id 'd', which row 1 has already in row 2. "
                "Give each row its own.",
                "{file}, column 'document': 'e' is not in corpus.jsonl in row 2. "
                "Add it there, or drop the row.",
            ],
        ),
    ],
)
def test_bad_rows_are_told_with_file_column_row_and_remedy(
    small: Small,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: list[Any],
    more: list[str],
    expected: list[str],
) -> None:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in content]
    source = tmp_path / ("bad.csv" if isinstance(content[0], str) else "bad.jsonl")
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text('{"id": 1, "text": "w4"}\n')
    (tmp_path / "corpus.jsonl").write_text('{"id": "d", "text": "w4"}\n{"id": "d", "text": "w5"}\n')
    with pytest.raises(SystemExit) as stopped:
        run(
            tmp_path,
            "fit",
            f"--config={ROOT / 'configs' / 'banking77.yaml'}",
            f"--data.train={source}",
            f"--model.encoder.init_args.backbone={small / 'backbone'}",
            "--trainer.accelerator=cpu",
            *more,
        )
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    count = BAD.format(s="s" * (len(expected) > 1))
    assert told.endswith(
        "\n".join(
            [
                f"lit-metric: DataError: {len(expected)} {count}",
                *(f"- {line.format(file=source)}" for line in expected),
                "",
            ]
        )
    )


def test_bad_rows_may_be_left_out_and_are_listed(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("w5 w28", "a"), ("", "a"), ("w6 w29", ""), ("w7", "a"), ("w8", "b"), ("w9", "b")] + [
        (f"w{10 + number}", "ab"[number % 2]) for number in range(8)
    ]
    source = write_csv(tmp_path / "bad.csv", rows)
    with caplog.at_level(logging.INFO):
        run(
            tmp_path,
            "fit",
            f"--config={ROOT / 'configs' / 'banking77.yaml'}",
            f"--data.train={source}",
            "--data.bad_rows=skip",
            f"--data.cache_dir={small / 'cache'}",
            "--data.planner.init_args.classes=2",
            f"--model.encoder.init_args.backbone={small / 'backbone'}",
            "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1",
        )
    assert "2 bad rows are left out" in caplog.messages
    assert "They are listed in runs/banking77/rejected.parquet" in caplog.messages
    rejected = pq.read_table(tmp_path / "runs" / "banking77" / "rejected.parquet").to_pylist()
    remedy = "Fill it in, or drop the row."
    assert rejected == [
        {"file": source, "row": 2, "column": "text", "problem": "empty text", "remedy": remedy},
        {"file": source, "row": 3, "column": "label", "problem": "no label", "remedy": remedy},
    ]
    assert json.loads((tmp_path / "runs" / "banking77" / "metrics.json").read_text())["steps"] > 0


def test_files_that_cannot_be_read(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    told = refused(small, tmp_path, capsys, data__train="torn.parquet")
    assert told.startswith("DataError: torn.parquet is not a readable Parquet file: ")
    source = write_csv(tmp_path / "each.csv", [("w5", "a"), ("w6", "b")])
    assert refused(small, tmp_path, capsys, data__train=source) == (
        "DataError: no class of the training items has two members (2 items, 2 classes), so nothing belongs "
        "together; is data.label the right column?"
    )


def test_a_resume_with_other_data(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, learner = small.data(), small.learner(TripletLoss())
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="one", save_top_k=-1)
    fit = trainer(tmp_path, saving, max_epochs=1)
    fit.fit(learner, data)
    other = small.data(train=small / "test.csv", test=None)
    other.read()
    path = str(tmp_path / "checkpoints" / "one.ckpt")
    with pytest.raises(DataError) as refusal:
        trainer(tmp_path, max_epochs=2).fit(small.learner(TripletLoss()), other, ckpt_path=path)
    assert str(refusal.value) == (
        f"the checkpoint is of a run on other training data (fingerprint {data.corpus[:8]} there, "
        f"{other.corpus[:8]} here): resume with the files and columns of that run, or start a new one "
        "without ckpt_path"
    )
    # What was trained is free to be tested on anything.
    fit.test(small.learner(TripletLoss()), small.data(train=None), ckpt_path=path, verbose=False)


def test_checkpoints_that_do_not_fit_or_are_none(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saving = ModelCheckpoint(tmp_path, filename="one", save_top_k=-1)
    trainer(tmp_path, saving, max_steps=1, limit_val_batches=0).fit(small.learner(), small.data())
    known = {"ckpt_path": str(tmp_path / "one.ckpt"), "data__planner__init_args__classes": 4}
    other = {"model__encoder__init_args__projection": 8, "data__train": small / "train.csv"}
    assert refused(small, tmp_path, capsys, **known, **other) == (
        "ValueError: the checkpoint is of another model: encoder.projection.0.linear.weight is missing there "
        "and (8, 32) here (2 of 41 differ); use the config.yaml that lies in the run's folder"
    )
    torn = (tmp_path / "one.ckpt").read_bytes()[:5000]
    for number, content in enumerate((torn, b"no checkpoint", b"")):
        (tmp_path / f"{number}.ckpt").write_bytes(content)
        assert refused(
            small, tmp_path, capsys, **{**known, "ckpt_path": str(tmp_path / f"{number}.ckpt")}
        ) == ("the checkpoint can't be read: the file is damaged, or no checkpoint; give another ckpt_path")


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
