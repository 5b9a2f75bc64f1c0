"""Rows of text files in blocks, in memory and on disk, against ``csv``, ``json`` and lists."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lit_metric.data import CsvOptions, DataError, Problems, read_table, row_store
from lit_metric.data import delimited as delimited_module
from lit_metric.data.row_store import StoredRows


@pytest.fixture(params=[1 << 26, 50], ids=["memory", "disk"])
def in_blocks(request, monkeypatch) -> None:
    """Blocks of three rows; with the second parameter nearly all of them are on disk."""
    monkeypatch.setattr(row_store, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(row_store, "IN_MEMORY", request.param)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.usefixtures("in_blocks")
def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    cells = [
        "a",
        "",
        None,
        "ä" * 30,
        "half \ud83d",
        "\udce9",
        "\ud83d\ude00",
        1,
        True,
        1.0,
        1e300,
        float("inf"),
    ]
    cells += [12345678901234567890, ["a", None, {"text": "b"}], {}, "\x00\u2028\n"]
    rows = StoredRows(tmp_path / "cache")
    for start in range(0, len(cells), 5):
        block = cells[start : start + 5]
        rows.add(len(block), {"cell": block} | ({"late": [start] * len(block)} if start == 10 else {}))
    assert len(rows) == len(cells)
    late = [10 if 10 <= row < 15 else None for row in range(len(cells))]
    for start in range(len(cells)):
        for stop in range(start, len(cells) + 1):
            found = rows.cut("cell", start, stop)
            assert [*map(repr, found)] == [*map(repr, cells[start:stop])]
            assert rows.cut("late", start, stop) == late[start:stop]
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())  # it has no name


def test_lists_too_deep_for_json_stay_in_memory() -> None:
    rows, deep = StoredRows(), nested(50_000)
    rows.add(1, {"cell": [deep]})
    assert rows.cut("cell", 0, 1)[0] is deep
    while deep:  # otherwise each list would be freed within that of the one around it
        deep = deep.pop()


@pytest.mark.usefixtures("in_blocks")
def test_csv_and_json_lines_in_blocks(tmp_path: Path) -> None:
    rows = [[f"text {row}\n, {'ü' * (row % 3)}", f"{row % 4}"] for row in range(20)]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-16") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    lines[7] = json.dumps({"late": [7, None], "text": rows[7][0]})
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines))
    for name in ("a.csv", "a.jsonl"):
        table = read_table(tmp_path / name, folder=tmp_path)
        assert table.column("text") == [text for text, _ in rows]
        labels = [None if name == "a.jsonl" and row == 7 else label for row, (_, label) in enumerate(rows)]
        assert table.column("label") == labels
        assert [value for block in table.blocks("label") for value in block] == labels
        assert table.peek("text", 4) == [text for text, _ in rows[:4]]
    assert table.columns == ["text", "label", "late"]
    assert table.column("late") == [[7, None] if row == 7 else None for row in range(20)]


@pytest.mark.usefixtures("in_blocks")
def test_bad_rows_of_later_blocks_are_named_by_their_number(tmp_path: Path) -> None:
    good = ["a,b"] * 20
    for row in (0, 8, 19):
        good[row] = "one" if row else "one,two,three"
    (tmp_path / "a.csv").write_text("\n".join(["x,y", *good]))
    (tmp_path / "a.jsonl").write_text(
        "\n".join("[1]" if "one" in line else json.dumps({"x": line}) for line in good).replace("[1]", "{", 1)
    )
    lines = ["1 0 d 1" if line == "a,b" else "1 0 d" for line in good]
    (tmp_path / "a.qrels").write_text("\n".join(["1 0 d 1"] * 10 + lines))
    for name, first in (("a.csv", 1), ("a.jsonl", 1), ("a.qrels", 11)):
        problems = Problems(skip=True)
        table = read_table(tmp_path / name, problems=problems)
        assert [each["row"] for each in problems.rows()] == [first, first + 8, first + 19]
        assert sorted(table.broken) == [first - 1, first + 7, first + 18]
        assert [table.column(table.columns[0])[row] for row in sorted(table.broken)] == [None] * 3
    with pytest.raises(DataError, match=r"a\.csv: 3 bad rows .* in row 1; .* in rows 9, 20"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(("last", "quoted"), [('"he said ""no"""\tx', True), ('"open\tx', False)])
def test_all_of_a_file_decides_what_quotation_marks_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, quoted: bool
) -> None:
    monkeypatch.setattr(delimited_module, "HEAD", 40)
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "plain\ty\n" * 40 + last + "\n")
    table = read_table(tmp_path / "a.tsv")
    assert (len(table), table.columns) == (41, ["text", "label"])
    assert table.column("text")[-1] == ('he said "no"' if quoted else '"open')


def test_what_lies_beyond_the_head_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delimited_module, "HEAD", 40)
    start = b"text,label\n" + b"plain,y\n" * 40
    (tmp_path / "excel.csv").write_bytes(start + "größer ist,x\n".encode("cp1252"))
    (tmp_path / "mixed.csv").write_bytes(start + b"caf\xe9,x\n" + "naïve,x\n".encode())
    with caplog.at_level(logging.INFO):
        read_table(tmp_path / "mixed.csv")
        assert not caplog.messages
        read_table(tmp_path / "excel.csv")
        read_table([{"text": "a"}])
    assert len(caplog.messages) == 1
    assert "it has 'größer': give csv.encoding='cp1252' if that is right" in caplog.text
    with pytest.raises(DataError, match=r"not in the encoding ascii: .* \(line 42\); name another"):
        read_table(tmp_path / "excel.csv", csv=CsvOptions(encoding="ascii"))
