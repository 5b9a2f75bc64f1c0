"""``lit-metric label-errors`` and ``duplicates``, and what ``fit`` makes of their output."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_metric import Encoder, MetricDataModule
from lit_metric.commands.items import RoleEncoder
from lit_metric.data import DataError
from lit_metric.neighbours.label_errors import find_label_errors
from tests.end_to_end.command import run
from tests.small import Small, questions, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = questions(72, seed=9)
WRONG = [(text, "intent5" if row == 30 else label) for row, (text, label) in enumerate(ROWS)]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_suspects_are_listed_with_their_evidence_and_left_out_by_a_fit(
    tmp_path: Path,
    texts: tuple[Encoder, str],
    small: Small,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    encoder, model = texts
    monkeypatch.setenv("COLUMNS", "200")
    given = write_csv(tmp_path / "given.csv", WRONG)
    vectors = encoder.encode([text for text, _ in WRONG])
    expected = find_label_errors([vectors, vectors], [label for _, label in WRONG])
    how = ["label-errors", "--model", model, "--also", model, "--input", "given.csv"]
    reads: list[Any] = []
    read = RoleEncoder.read
    with monkeypatch.context() as patch:

        def counted(*given: Any, **more: Any) -> Any:
            reads.append(given)
            return read(*given, **more)

        patch.setattr(RoleEncoder, "read", counted)
        run(tmp_path, *how, "--output", "suspects.csv", "--neighbours", "3")
    assert len(reads) == 1  # for both models
    found = read_csv(tmp_path / "suspects.csv")
    assert list(found[0]) == ["text", "label", "file", "row", "given", "suggested", "score", "neighbours"]
    assert [int(row["row"]) - 1 for row in found] == expected.suspects.tolist()
    for row, place in zip(found, expected.suspects.tolist(), strict=True):
        assert (row["text"], row["label"]) == WRONG[place]
        assert (row["file"], row["given"], row["suggested"]) == (
            "given.csv",
            WRONG[place][1],
            expected.suggested[place],
        )
        assert float(row["score"]) == pytest.approx(expected.score[place], abs=1e-3)
        near = [(each["item"], each["label"]) for each in json.loads(row["neighbours"])]
        assert near == [WRONG[other] for other in expected.neighbours[place][:3]]
    run(tmp_path, *how, "--limit", "2")
    shown = [
        line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")
    ]
    assert shown == [row["row"] for row in found[:2]]
    # From any folder, a fit leaves exactly these rows out.
    write_csv(
        tmp_path / "absolute.csv",
        [(given, row["row"], row["text"]) for row in found],
        ["file", "row", "text"],
    )
    data = MetricDataModule(train=given, exclude=str(tmp_path / "absolute.csv"), cache_dir=small / "cache")
    data.read()
    kept = {data.texts_of(item)[0] for item in range(len(data.items))}
    assert kept == {text for text, _ in WRONG} - {row["text"] for row in found}
    assert len(data.items) == 72 - len(found)


def test_rows_of_several_labels_have_no_suspects(
    tmp_path: Path, sets: tuple[Encoder, str], small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    films = small / "movies/movies.parquet"
    with pytest.raises(SystemExit):
        run(tmp_path, "label-errors", "--model", sets[1], "--input", films, "--tags", "cast")
    assert "rows have several labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("given.csv", "3", "other")], "was made of another given.csv: column 'text' of row 3"),
        ([("given.csv", "73", "x")], r"lists 1 rows of '.*given.csv' that are not in the labelled sources"),
        ([("new.csv", "1", "x")], "not in the labelled sources"),
        ([("given.csv", "0", "x")], "no file and row"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    tmp_path: Path, rows: list[tuple[str, ...]], message: str, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "given.csv", WRONG)
    write_csv(tmp_path / "list.csv", rows, ["file", "row", "text"])
    with pytest.raises(DataError, match=message):
        MetricDataModule(train="given.csv", exclude="list.csv", cache_dir=str(tmp_path)).read()
    write_csv(tmp_path / "list.csv", [("a",)], ["text"])
    with pytest.raises(DataError, match="needs the columns 'file' and 'row'"):
        MetricDataModule(train="given.csv", exclude="list.csv", cache_dir=str(tmp_path)).read()


def test_a_column_that_is_called_as_a_result_is_compared_under_its_other_name(tmp_path: Path) -> None:
    rows = [(text, label, "same") for text, label in ROWS]
    given = write_csv(tmp_path / "given.csv", rows, ["text", "label", "score"])
    for before, fits in (("same", True), ("other", False)):
        write_csv(
            tmp_path / "list.csv", [(given, "3", "0.5", before)], ["file", "row", "score", "input_score"]
        )
        data = MetricDataModule(train=given, exclude=str(tmp_path / "list.csv"), cache_dir=str(tmp_path))
        with contextlib.nullcontext() if fits else pytest.raises(DataError, match="column 'score' of row 3"):
            data.read()
            assert len(data.items) == 71


def test_an_apostrophe_before_a_formula_is_no_other_text(tmp_path: Path) -> None:
    """Lists of a report have it, so that spreadsheets calculate nothing."""
    rows = [("=1+1", "a"), ("'quoted", "a"), *ROWS]
    given = write_csv(tmp_path / "given.csv", rows)
    for cells, fits in (
        (("'=1+1", "'quoted"), True),
        (("'=1+2", "'quoted"), False),
        (("=1+1", "quoted"), False),
    ):
        listed = [(given, str(row), cell) for row, cell in enumerate(cells, start=1)]
        write_csv(tmp_path / "list.csv", listed, ["file", "row", "text"])
        data = MetricDataModule(train=given, exclude=str(tmp_path / "list.csv"), cache_dir=str(tmp_path))
        with contextlib.nullcontext() if fits else pytest.raises(DataError, match="column 'text' of row"):
            data.read()
            assert len(data.items) == len(ROWS)


def test_rows_of_several_files_are_left_out_of_each(tmp_path: Path) -> None:
    half = [write_csv(tmp_path / f"{name}.csv", rows) for name, rows in (("a", ROWS[:36]), ("b", ROWS[36:]))]
    pq.write_table(pa.table({"file": [half[1], half[0]], "row": [2, 36]}), tmp_path / "list.parquet")
    data = MetricDataModule(train=half, exclude=str(tmp_path / "list.parquet"), cache_dir=str(tmp_path))
    data.read()
    kept = [data.texts_of(item)[0] for item in range(len(data.items))]
    assert kept == [text for row, (text, _) in enumerate(ROWS) if row not in (35, 37)]


def test_groups_of_duplicates(
    tmp_path: Path, texts: tuple[Encoder, str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    encoder, model = texts
    monkeypatch.setenv("COLUMNS", "200")
    rows = [("w5 w6", "a"), ("w9", "b"), ("W5  w6!", "b"), ("w7 w30", "a"), ("w9", "b")]
    write_csv(tmp_path / "in.csv", rows)
    run(tmp_path, "duplicates", "--input", "in.csv", "--output", "out.csv")
    found = read_csv(tmp_path / "out.csv")
    assert [(row["group"], row["copies"], row["row"], row["labels_differ"]) for row in found] == [
        ("1", "2", "1", "True"),
        ("1", "2", "3", "True"),
        ("2", "2", "2", "False"),
        ("2", "2", "5", "False"),
    ]
    run(
        tmp_path,
        "duplicates",
        "--input",
        "in.csv",
        "--model",
        model,
        "--threshold",
        "0.01",
        "--output",
        "near.parquet",
    )
    near = pq.read_table(tmp_path / "near.parquet").to_pylist()
    vectors = encoder.encode([text for text, _ in rows])
    assert {row["group"] for row in near} == {1}
    assert [row["cosine"] for row in near] == pytest.approx((vectors @ vectors[0]).tolist(), abs=1e-4)
    run(tmp_path, "duplicates", "--input", "in.csv")
    assert "W5  w6!" in capsys.readouterr().out


def test_leaks_between_files(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    caplog.set_level("INFO", logger="lit_metric")
    write_csv(tmp_path / "train.csv", [*ROWS[:20], ROWS[3]])
    write_csv(tmp_path / "test.csv", [ROWS[40], (f" {ROWS[3][0].upper()}.", "x")])
    run(tmp_path, "duplicates", "--input", "train.csv", "--against", "test.csv", "--output", "out.csv")
    found = read_csv(tmp_path / "out.csv")
    assert [(row["row"], row["against_row"]) for row in found] == [("4", "2"), ("21", "2")]
    assert found[0]["against_label"] == "x"
    run(tmp_path, "duplicates", "--input", "train.csv", "--against", "test.csv")
    assert "against_row" in capsys.readouterr().out
    assert "1 of the 2 rows of test.csv are in train.csv, too" in caplog.text
    with pytest.raises(SystemExit):
        run(tmp_path, "duplicates", "--input", "train.csv", "--threshold", "3")
    assert "threshold is the least cosine" in capsys.readouterr().err


def test_a_fit_counts_test_texts_of_the_training_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = {
        "train": write_csv(tmp_path / "train.csv", ROWS),
        "test": write_csv(tmp_path / "test.csv", [*questions(20, seed=3), ROWS[3], ROWS[3], ROWS[9]]),
    }
    MetricDataModule(**sources, cache_dir=str(tmp_path)).read()
    lines = [line for line in caplog.messages if "in the training data, too" in line]
    assert len(lines) == 1
    assert lines[0].startswith("3 of the 23 test texts are in the training data, too; lit-metric duplicates")
    caplog.clear()
    MetricDataModule(train=sources["train"], cache_dir=str(tmp_path)).read()
    assert "in the training data, too" not in caplog.text
