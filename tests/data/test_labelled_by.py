"""Splits named by a column."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_metric.data import DataError, labelled_items, read_table

ROWS = "text,label,part\none,a,train\ntwo,b,test\nthree,a,train\n"


def test_each_row_goes_where_its_column_says(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    table = read_table(path)
    parts = labelled_items(table, key="text").by(table, "part", ["train", "validation", "test"])
    assert {name: (part.rows, part.labels, part.keys) for name, part in parts.items()} == {
        "train": ([["one"], ["three"]], ["a", "a"], ["one", "three"]),
        "test": ([["two"]], ["b"], ["two"]),
    }


def test_other_values_are_refused_with_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS + "four,b,dev\nfive,b,dev\n")
    table = read_table(path)
    with pytest.raises(DataError, match=r"column 'part': 'dev' in rows 4, 5. Use one of 'train', 'test'"):
        labelled_items(table).by(table, "part", ["train", "test"])
