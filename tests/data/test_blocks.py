"""Blocks of rows against the whole table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_metric.data import CsvOptions, DataError, Problems, read_table
from lit_metric.data.blocks import RowBlocks

TEXTS = ["a", 'b "c"', "d\ne", "ü, f", "g;h", "i", "j"]


def quoted(texts: list[str], separator: str) -> str:
    cells = ['"' + text.replace('"', '""') + '"' for text in texts]
    return f"text{separator}n\n" + "".join(f"{cell}{separator}{row}\n" for row, cell in enumerate(cells))


def sources(folder: Path) -> dict[str, Any]:
    """Sources of every kind; of several kinds with rows that can't be read."""
    write = {
        "comma.csv": quoted(TEXTS, ",").encode(),
        "semicolon.csv": quoted(TEXTS, ";").encode("utf-16"),
        "mark.csv": b"\xef\xbb\xbf" + quoted(TEXTS, ",").encode(),
        "excel.csv": b"sep=;\r\n" + quoted(TEXTS, ";").encode(),
        "broken.csv": b"text,n\na,0\nb\n\nc,2,3\nd\xe9,4\n",
        "tabs.tsv": b'text\tn\n"a b\t1\nc "d"\t2\n',
        "lines.jsonl": b'{"text": "a"}\r\n\n{"text": "b", "n": 1}\n[1]\n{"text": "c\xc3\xbc"\n{"text": "d"}',
        "wide.ndjson": '{"text": "a"}\n{"text": "b"}'.encode("utf-16"),
        "list.jsonl": b' [{"text": "a"}, {"text": "b"}, 3]',
        "list.json": b'[{"text": "a"}, {"text": "b"}]',
        "judged.txt": b"7 0 d1 1\n7 0 d2 0\n8 0 d1 2\n",
    }
    for name, content in write.items():
        (folder / name).write_bytes(content)
    table = pa.table({"text": TEXTS, "n": [*range(7)], "tags": [[text] for text in TEXTS]})
    pq.write_table(table, folder / "groups.parquet", row_group_size=3)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]}, features)
    data.save_to_disk(folder / "saved")
    memory = {"table": table, "frame": pd.DataFrame({"text": TEXTS}), "dict": {"text": TEXTS}}
    several = [
        str(folder / "comma.csv"),
        str(folder / "groups.parquet"),
        [{"text": "z", "n": 5}, {"text": "y", "n": 6}],
    ]
    files = {name: str(folder / name) for name in (*write, "groups.parquet", "saved")}
    return {**files, **memory, "dataset": data, "several": several, "pattern": str(folder / "*a*.csv")}


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_blocks_hold_the_rows_of_the_table(tmp_path: Path, rows: int) -> None:
    for name, source in sources(tmp_path).items():
        expected = Problems(skip=True)
        table = read_table(source, problems=expected)
        found = Problems(skip=True)
        blocks = RowBlocks(source, rows, found)
        places, broken = [], []
        columns: dict[str, list[Any]] = {column: [] for column in table.columns}
        sizes = []
        for block in blocks.tables(found):
            sizes.append(len(block))
            broken += [len(places) + row for row in sorted(block.broken)]
            places += [block.place(row) for row in range(len(block))]
            for column, values in columns.items():
                values += block.column(column) if column in block.columns else [None] * len(block)
        assert sizes == [rows] * (len(table) // rows) + [len(table) % rows] * (len(table) % rows > 0), name
        assert columns == {column: table.column(column) for column in table.columns}, name
        assert places == [table.place(row) for row in range(len(table))], name
        assert broken == sorted(table.broken), name
        assert found.rows() == expected.rows(), name
        assert blocks.source.columns == table.columns, name


def test_blocks_can_be_read_again(tmp_path: Path) -> None:
    for name, source in sources(tmp_path).items():
        blocks = RowBlocks(source, 2, Problems(skip=True))
        first, second = [
            [block.column(block.columns[0]) for block in blocks.tables(Problems(skip=True))] for _ in range(2)
        ]
        assert first == second, name


def test_a_file_that_cannot_be_read_is_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "open.csv").write_text('text\na\nb\n"never closed\n')
    (tmp_path / "twice.csv").write_text("text,text\na,b\n")
    (tmp_path / "latin.csv").write_bytes(b"text\na\n" + b"\xe9" * 9)
    for name, csv in (("open.csv", None), ("twice.csv", None), ("latin.csv", CsvOptions(encoding="ascii"))):
        with pytest.raises(DataError) as whole:
            read_table(tmp_path / name, csv=csv)
        with pytest.raises(DataError) as parts:
            list(RowBlocks(tmp_path / name, 1, Problems(), csv).tables(Problems()))
        assert str(parts.value)[:60] == str(whole.value)[:60]
    with pytest.raises(ValueError, match="at least one row"):
        RowBlocks({"text": ["a"]}, 0, Problems())
