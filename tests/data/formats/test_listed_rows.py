"""Labels that a person corrects by file and row."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_metric import MetricDataModule
from lit_metric.data import DataError, Labels
from lit_metric.data.relations import LabelRelations
from tests.small import questions, write_csv

ROWS = questions(24, seed=3)
HEADER = ("file", "row", "given_label", "new_label")


def labels_of(data: MetricDataModule) -> dict[str, str]:
    """The label of each text."""
    data.read()
    assert isinstance(data.relations, LabelRelations)
    names, numbers = data.relations.classes, data.relations.labels.tolist()
    return {data.texts_of(item)[0]: names[numbers[item]] for item in range(len(data.items))}


def module(tmp_path: Path, listed: list[tuple[str, ...]], **given: Any) -> MetricDataModule:
    """A module that reads ``given.csv`` with these corrections."""
    path = write_csv(tmp_path / "corrections.csv", listed, HEADER)
    return MetricDataModule(
        **{"train": str(tmp_path / "given.csv"), "corrections": path, "cache_dir": str(tmp_path)} | given
    )


def test_rows_get_the_label_that_a_list_gives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lit_metric")
    given = write_csv(tmp_path / "given.csv", ROWS)
    one, two, three = (label for _, label in ROWS[:3])
    listed = [(given, "1", one, two), (given, "2", two, "brand new"), (given, "3", three, "")]
    found = labels_of(module(tmp_path, listed))
    expected = dict(ROWS) | {ROWS[0][0]: two, ROWS[1][0]: "brand new"}
    assert found == expected
    assert "2 labels of" in caplog.text
    assert f"has labels that no other row of {given} has: 'brand new'" in caplog.text


def test_rows_of_all_splits_and_files_are_corrected(tmp_path: Path) -> None:
    parts = [write_csv(tmp_path / f"{name}.csv", rows) for name, rows in (("a", ROWS[:9]), ("b", ROWS[9:]))]
    listed = [(parts[0], "9", "", ROWS[0][1]), (parts[1], "1", ROWS[9][1], ROWS[1][1])]
    found = labels_of(module(tmp_path, listed, train=parts[0], validation=parts[1]))
    assert found == dict(ROWS) | {ROWS[8][0]: ROWS[0][1], ROWS[9][0]: ROWS[1][1]}


def test_numbers_are_labels_and_columns_that_are_shared_are_compared(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": [text for text, _ in ROWS], "label": [row % 3 for row in range(24)]}),
        tmp_path / "given.parquet",
    )
    path = str(tmp_path / "given.parquet")
    listed = [(path, "2", "1", "0"), (path, "3", "2", "0")]
    found = labels_of(module(tmp_path, listed, train=path))
    assert [found[text] for text, _ in ROWS[:4]] == ["0", "0", "0", "0"]
    columns = ("file", "row", "new_label", "text")
    other = write_csv(tmp_path / "text.csv", [(path, "2", "0", "something else")], columns)
    with pytest.raises(DataError, match=r"made of another .*: column 'text' of row 2"):
        labels_of(module(tmp_path, listed, train=path, corrections=other))


@pytest.mark.parametrize("guard", ["", "'"])
def test_an_apostrophe_before_a_formula_is_no_part_of_a_label(tmp_path: Path, guard: str) -> None:
    given = write_csv(tmp_path / "given.csv", [(text, f"={label}") for text, label in ROWS])
    one, two = ROWS[0][1], ROWS[1][1]
    found = labels_of(module(tmp_path, [(given, "1", f"{guard}={one}", f"{guard}={two}")]))
    assert found[ROWS[0][0]] == f"={two}"


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([("1", "other", "new")], r"made of another .*given\.csv: the label of row 1 .* and was 'other'"),
        ([("25", "", "new")], r"lists 1 rows of .*given\.csv.* that are not in .*give corrections= rows"),
        ([("x", "", "new")], "no file and row"),
        ([("1", "", "new"), ("1", "", "newer")], "row 2: row 1 of .* has two new labels, 'new' and 'newer'"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    tmp_path: Path, listed: list[tuple[str, ...]], message: str
) -> None:
    given = write_csv(tmp_path / "given.csv", ROWS)
    with pytest.raises(DataError, match=message):
        labels_of(module(tmp_path, [(given, *row) for row in listed]))


def test_a_list_without_new_labels_and_rows_of_several_are_refused(tmp_path: Path) -> None:
    given = write_csv(tmp_path / "given.csv", [(text, f"{label};more") for text, label in ROWS])
    listed = write_csv(tmp_path / "list.csv", [(given, "1")], ("file", "row"))
    with pytest.raises(DataError, match="corrections= needs the columns 'file', 'row' and 'new_label'"):
        labels_of(module(tmp_path, [], corrections=listed))
    several = Labels(text="text", labels="label", labels_separator=";")
    with pytest.raises(DataError, match=r"gives one label to each row, and rows of .* have several"):
        module(tmp_path, [(given, "1", "", "new")], supervision=several).read()


def test_one_row_is_corrected_and_another_left_out(tmp_path: Path) -> None:
    given = write_csv(tmp_path / "given.csv", ROWS)
    left = write_csv(tmp_path / "suspects.csv", [(given, "2")], ("file", "row"))
    found = labels_of(module(tmp_path, [(given, "1", "", ROWS[1][1])], exclude=left))
    assert found == {text: label for text, label in ROWS if text != ROWS[1][0]} | {ROWS[0][0]: ROWS[1][1]}


def test_columns_of_a_file_that_are_called_file_and_row_are_not_compared(tmp_path: Path) -> None:
    rows = [(text, label, "elsewhere", "7") for text, label in ROWS]
    given = write_csv(tmp_path / "given.csv", rows, ("text", "label", "file", "row"))
    left = write_csv(tmp_path / "suspects.csv", [(given, "2")], ("file", "row"))
    found = labels_of(module(tmp_path, [(given, "1", "", ROWS[1][1])], exclude=left))
    assert found == {text: label for text, label in ROWS if text != ROWS[1][0]} | {ROWS[0][0]: ROWS[1][1]}


BAD = [*ROWS[:3], ("", "b"), (ROWS[4][0], ""), (ROWS[5][0], " "), ("w9 w8", "b", "c"), *ROWS[7:]]
"""Row 4 has no text, rows 5 and 6 have no label (a blank is one), and row 7 has a field too many."""


def test_a_row_that_is_left_out_may_be_bad(tmp_path: Path) -> None:
    given = write_csv(tmp_path / "given.csv", BAD)
    with pytest.raises(DataError, match=r"3 bad rows .*in row 7.*empty text in row 4; .*no label in row 5"):
        labels_of(module(tmp_path, []))
    left = write_csv(tmp_path / "left.csv", [(given, row) for row in "457"], ("file", "row"))
    data = module(tmp_path, [], exclude=left)
    assert labels_of(data) == dict([*ROWS[:3], BAD[5], *ROWS[7:]])
    assert len(data.problems) == 0
    left = write_csv(tmp_path / "left.csv", [(given, row) for row in "47"], ("file", "row"))
    with pytest.raises(DataError, match=r"1 bad row .*'label': no label in row 5\."):
        labels_of(module(tmp_path, [], exclude=left))


def test_a_row_without_a_label_gets_one(tmp_path: Path) -> None:
    given = write_csv(tmp_path / "given.csv", [*ROWS[:3], (ROWS[3][0], ""), (ROWS[4][0], ""), *ROWS[5:]])
    listed = [(given, "4", "", "new"), (given, "5", "", "other")]
    assert labels_of(module(tmp_path, listed)) == {
        **dict(ROWS),
        ROWS[3][0]: "new",
        ROWS[4][0]: "other",
    }
    with pytest.raises(DataError, match=r"1 bad row .*'label': no label in row 5\."):
        labels_of(module(tmp_path, listed[:1]))


def test_a_label_of_the_wrong_kind_is_corrected(tmp_path: Path) -> None:
    rows = [{"text": text, "label": [label] if row == 1 else label} for row, (text, label) in enumerate(ROWS)]
    given = tmp_path / "given.jsonl"
    given.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError, match=r"'label': a list instead of a label in row 2\."):
        labels_of(module(tmp_path, [], train=str(given)))
    found = labels_of(module(tmp_path, [(str(given), "2", "", "new")], train=str(given)))
    assert found == dict(ROWS) | {ROWS[1][0]: "new"}
