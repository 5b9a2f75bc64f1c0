"""Rows from memory: as they would be from a file, with their numbers in errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_metric import MetricDataModule
from lit_metric.data import DataError, Judgements, Problems, read_table
from tests.data.formats.tables import labelled_items

TEXTS = ["where is my card", "my card is lost", "what is the rate", "tell me the rate"]
LABELS = ["card", "card", "rate", None]
COLUMNS: dict[str, list[Any]] = {"text": TEXTS, "label": LABELS}
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def polars() -> Any:
    return pytest.importorskip("polars", reason="polars is not installed").DataFrame(COLUMNS)


KINDS: dict[str, Callable[[], Any]] = {
    "pandas DataFrame": lambda: pd.DataFrame(COLUMNS, index=[7, 7, 3, 1]),
    "polars DataFrame": polars,
    "pyarrow Table": lambda: pa.table(COLUMNS),
    "pyarrow RecordBatch": lambda: pa.RecordBatch.from_pydict(COLUMNS),
    "datasets.Dataset": lambda: datasets.Dataset.from_dict(COLUMNS),
    "list of dicts": lambda: ROWS,
    "dict of lists": lambda: COLUMNS,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_the_same_rows_and_names_its_bad_ones(kind: str) -> None:
    source = KINDS[kind]()
    table = read_table(source)
    assert (table.columns, table.column("text"), table.column("label")) == (["text", "label"], TEXTS, LABELS)
    assert table.place(3)[1] == 4
    with pytest.raises(
        DataError, match=rf"^train \({kind}\): 1 bad row .*: column 'label': no label in row 4"
    ):
        MetricDataModule(train=source).read()


def test_splits_are_named_apart() -> None:
    bad = pd.DataFrame({"text": ["a", " "], "label": ["x", "y"]})
    with pytest.raises(
        DataError, match=r"^train \(pandas DataFrame\): 1 bad row, test \(pandas DataFrame\): 1"
    ):
        MetricDataModule(train=bad, test=bad).read()


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["a", None, "b"]),
        pd.Series(["a", np.nan, "b"], dtype=object),
        pd.Series(["a", pd.NA, "b"], dtype="string"),
        pd.Categorical(["a", None, "b"]),
    ],
    ids=["inferred", "object", "string", "category"],
)
def test_missing_values_of_pandas_are_none(values: Any) -> None:
    frame = pd.DataFrame({"label": values})
    assert read_table(frame).column("label") == ["a", None, "b"]


def test_numbers_and_lists_of_pandas_and_numpy_are_those_of_python() -> None:
    frame = pd.DataFrame(
        {"label": [1, 2], 5: [np.array(["x", "y"]), ("z",)], "whole": pd.array([1, None], "Int64")}
    )
    table = read_table(frame)
    assert table.columns == ["label", "5", "whole"]
    assert table.column("5") == [["x", "y"], ["z"]]
    assert table.column("whole") == [1, None]
    assert {type(value) for value in table.column("label")} == {int}
    assert read_table({"label": np.array([3, 4])}).column("label") == [3, 4]


def test_class_numbers_become_names_wherever_datasets_wrote_them(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["card", "rate"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": names, "labels": datasets.List(names)}
    )
    data = datasets.Dataset.from_dict(
        {"text": ["a", "b", "c"], "label": [1, 0, None], "labels": [[0, 1], [], [1]]}, features=features
    )
    data.to_parquet(tmp_path / "a.parquet")
    for source in (
        data,
        data.with_format("numpy"),
        tmp_path / "a.parquet",
        pq.read_table(tmp_path / "a.parquet"),
    ):
        table = read_table(source)
        assert table.column("label") == ["rate", "card", None]
        assert table.column("labels") == [["card", "rate"], [], ["rate"]]


def test_splits_of_a_dataset_dict() -> None:
    part = datasets.Dataset.from_dict({"text": ["a"]})
    both = datasets.DatasetDict({"train": part, "test": part})
    assert read_table(both, split="test").column("text") == ["a"]
    assert read_table(datasets.DatasetDict({"train": part})).column("text") == ["a"]
    with pytest.raises(
        DataError, match=r"several splits; give one of its splits 'train', 'test', as in data\['train"
    ):
        read_table(both)


def test_several_sources_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nfrom a file,x\n")
    table = read_table([str(tmp_path / "a.csv"), pd.DataFrame(COLUMNS), pa.table(COLUMNS)], name="train")
    assert table.column("text") == ["from a file", *TEXTS, *TEXTS]
    assert table.place(6) == ("train[3] (pyarrow Table)", 2)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (pd.Series(["a"]), "pandas Series"),
        (3, "int"),
        ([pa.table(COLUMNS), 3], "int"),
        (iter(ROWS), "list_iterator"),
        (np.zeros(3), "numpy ndarray"),
    ],
)
def test_anything_else_is_refused_with_what_is_taken(source: Any, kind: str) -> None:
    with pytest.raises(
        TypeError, match=rf"train.* is {kind}; give a path, .*DataFrame, a pyarrow Table.*dict of lists"
    ):
        MetricDataModule(train=source).read()


def test_columns_that_make_no_table() -> None:
    with pytest.raises(DataError, match=r"must be of one length, got 'text': 2, 'label': 1"):
        read_table({"text": ["a", "b"], "label": ["x"]})
    with pytest.raises(DataError, match="column 'text' of dict of lists is str, not a list"):
        read_table({"text": "a"})
    with pytest.raises(DataError, match="the column 'text' more than once"):
        read_table(pd.DataFrame([["a", "b"]], columns=["text", "text"]))
    with pytest.raises(DataError, match=r"1 bad row .*: str instead of a dict in row 2"):
        read_table([{"text": "a"}, "b"])
    problems = Problems(skip=True)
    assert read_table([{"text": "a"}, "b", {"label": "c"}], problems=problems).broken == {1}
    with pytest.raises(DataError, match="train: the list of files is empty"):
        MetricDataModule(train=[]).read()


def test_texts_of_judgements_may_be_in_memory_too() -> None:
    queries, corpus = [{"id": 1, "text": "card?"}], pd.DataFrame({"id": [1, 2], "text": ["a card", "a rate"]})
    data = MetricDataModule(
        train={"query_id": [1], "document_id": [2]}, supervision=Judgements(queries=queries, corpus=corpus)
    )
    data.read()
    assert data.vocabulary.texts == ["a card", "a rate", "card?"]


def test_no_library_is_imported_for_lists_and_dicts() -> None:
    code = (
        "import sys; from lit_metric.data.in_memory import part_of_object;"
        "from lit_metric.data.errors import Problems;"
        "part_of_object([{'text': 'a'}], None, Problems(), ''); part_of_object(3, None, Problems(), '');"
        "print(*{'pandas', 'polars', 'datasets'} & {*sys.modules})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_items_of_a_frame() -> None:
    items = labelled_items(read_table(pd.DataFrame({"text": ["a", "b"], "label": [1.0, 2.0]})))
    assert (items.rows, items.labels) == ([["a"], ["b"]], ["1", "2"])
