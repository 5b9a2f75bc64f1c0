"""Every source gives the same table, and what cannot be read is named by file, column and row."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_metric.data import DataError, Labels, Problems, ReadOptions, read_table
from tests.data.formats.tables import labelled_items

TEXTS = ["where is my card", 'he said "no", twice', "line\nbreak", "нуль\x00byte", "  padded "]
LABELS = ["card", "refusal", "01", "NA", "card"]


def write_csv(path: Path, separator: str = ",") -> Path:
    quoted = [(text.replace('"', '""'), label) for text, label in zip(TEXTS, LABELS, strict=True)]
    lines = [f"text{separator}label"] + [f'"{text}"{separator}{label}' for text, label in quoted]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_jsonl(path: Path) -> Path:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.table({"text": TEXTS, "label": pa.array(LABELS).dictionary_encode()}), path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def contents(source: object, **options: str) -> tuple[list[str], list[str]]:
    table = read_table(source, **options)  # type: ignore[arg-type]
    return table.column("text"), table.column("label")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", write_csv),
        ("a.tsv", lambda path: write_csv(path, "\t")),
        ("a.jsonl", write_jsonl),
        ("a.parquet", write_parquet),
    ],
)
def test_each_kind_of_file_gives_the_texts_and_labels_as_they_were(tmp_path, name, write):
    assert contents(write(tmp_path / name)) == (TEXTS, LABELS)
    assert contents(str(tmp_path / name)) == (TEXTS, LABELS)


def test_csv_with_byte_order_mark_blank_lines_and_a_long_text(tmp_path):
    long = "x" * 200_000
    (tmp_path / "a.csv").write_text(
        f"\ufefftext,label\r\n{long},a\r\n\r\nb,c\r\n", encoding="utf-8", newline=""
    )
    assert contents(tmp_path / "a.csv") == ([long, "b"], ["a", "c"])


def test_lists_and_patterns_are_read_in_order_and_rows_know_their_file(tmp_path):
    paths = [
        write_csv(tmp_path / "2.csv"),
        write_jsonl(tmp_path / "1.jsonl"),
        write_parquet(tmp_path / "3.parquet"),
    ]
    table = read_table(paths)
    assert table.column("text") == TEXTS * 3
    assert len(table) == 15
    assert table.place(4) == (str(paths[0]), 5)
    assert table.place(5) == (str(paths[1]), 1)
    assert table.place(14) == (str(paths[2]), 5)
    pattern = read_table(str(tmp_path / "[13].*"))
    assert [part.name for part in pattern.parts] == [str(paths[1]), str(paths[2])]


def test_saved_datasets_with_and_without_splits(tmp_path, cache):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["card", "loan"])}
    )
    train = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": train, "test": train.select([1])}).save_to_disk(tmp_path / "two")
    expected = (["a", "b", "c"], ["loan", "card", None])
    assert contents(tmp_path / "one") == expected
    assert contents(tmp_path / "two", split="train") == expected
    assert contents(f"{tmp_path / 'two'}:test") == (["b"], ["card"])
    with pytest.raises(DataError, match=r"several splits; name one of '.*two:train', '.*two:test'$"):
        read_table(tmp_path / "two")
    with pytest.raises(DataError, match=r"no split 'dev'; name one of '.*two:train', '.*two:test'$"):
        read_table(tmp_path / "two", split="dev")
    with pytest.raises(DataError, match=r"has no splits; leave it out"):
        read_table(tmp_path / "one", split="train")


def test_a_folder_of_files_is_read_by_datasets(tmp_path, cache):
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "train.jsonl")
    (tmp_path / "folder" / "test.jsonl").write_text('{"text": "x", "label": "y"}\n')
    assert contents(tmp_path / "folder", split="train") == (TEXTS, LABELS)
    assert contents(tmp_path / "folder", split="test") == (["x"], ["y"])


def test_hub_ids_go_to_load_dataset_with_their_split(monkeypatch):
    asked = []

    def load_dataset(name: str, split: str | None = None) -> object:
        asked.append((name, split))
        data = datasets.Dataset.from_dict({"text": ["a"], "label": ["b"]})
        return data if split else datasets.DatasetDict({"train": data})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert contents("PolyAI/banking77:test") == (["a"], ["b"])
    assert contents("PolyAI/banking77", split="validation") == (["a"], ["b"])
    assert contents("banking77") == (["a"], ["b"])
    assert asked == [("PolyAI/banking77", "test"), ("PolyAI/banking77", "validation"), ("banking77", None)]


def test_a_hub_id_that_cannot_be_loaded_says_so(monkeypatch):
    def load_dataset(name: str, split: str | None = None) -> object:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"(?s)'some/set' is neither a file nor a folder.*no network"):
        read_table("some/set:train")


def test_missing_sources_list_what_is_there(tmp_path):
    write_csv(tmp_path / "questions.csv")
    with pytest.raises(DataError, match=r"no file '.*question.csv'; '.*' holds 'questions.csv'"):
        read_table(tmp_path / "question.csv")
    with pytest.raises(DataError, match=r"no file matches '.*parquet'; '.*' holds 'questions.csv'"):
        read_table(str(tmp_path / "*.parquet"))
    with pytest.raises(DataError, match=r"there is no folder '.*nowhere' either"):
        read_table(tmp_path / "nowhere" / "a.csv")
    with pytest.raises(DataError, match="list of files is empty"):
        read_table([])
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(DataError, match=r"a.xlsx is of an unknown kind; .* '.parquet', '.csv'"):
        read_table(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="single file; leave split out"):
        read_table(tmp_path / "questions.csv", split="train")


def test_files_that_cannot_be_parsed_name_all_rows(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nfine,x\nmy card, please,y\nfine,z\none\ntwo, three,w\n")
    with pytest.raises(DataError) as error:
        read_table(tmp_path / "a.csv")
    assert str(error.value) == (
        f"{tmp_path / 'a.csv'}: 3 bad rows (counted from 1, without a header): 3 fields where the header has "
        "2 in rows 2, 5; 1 field where the header has 2 in row 4. Quote fields that hold the separator."
    )

    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n[1, 2]\n')
    with pytest.raises(
        DataError, match=r"no valid JSON \(Expecting value\) in row 2; no object in braces in row 3\."
    ):
        read_table(tmp_path / "a.jsonl")

    (tmp_path / "twice.csv").write_text("text,label,text\na,b,c\n")
    with pytest.raises(DataError, match="the column 'text' more than once"):
        read_table(tmp_path / "twice.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="no header line"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_table(tmp_path / "a.parquet")


def test_quotes_within_fields_are_never_guessed_at(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"say ""hi"", please",x\nan "odd" one,y\n"two\nlines",z\n"a" b,w\nc,v\n')
    assert contents(path, problems=Problems(skip=True)) == (
        ['say "hi", please', 'an "odd" one', "two\nlines", None, "c"],
        ["x", "y", "z", None, "v"],
    )
    with pytest.raises(DataError, match=r"a quoted field that continues after its end .* in row 4\."):
        read_table(path)
    # Without its end, a quote would make one text of all that follows.
    path.write_text('text,label\na,x\n"b,y\nc,z\n')
    with pytest.raises(DataError, match=r"a.csv, row 2: a quotation mark opens a field that is never closed"):
        read_table(path, problems=Problems(skip=True))


def test_a_split_of_a_folder_by_a_relative_path_is_no_hub_id(tmp_path, cache, monkeypatch):
    part = datasets.Dataset.from_dict({"text": ["a"], "label": ["b"]})
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "my" / "saved")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", None)
    assert contents("my/saved:test") == (["a"], ["b"])
    with pytest.raises(DataError, match=r"my/saved has no split 'dev'; name one of 'my/saved:train', 'my/s"):
        read_table("my/saved:dev")


def test_lines_that_cannot_be_parsed_may_be_left_out(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nfine,x\nmy card, please,y\ngood,z\n")
    (tmp_path / "b.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": \n')
    problems = Problems(skip=True)
    table = read_table([tmp_path / "a.csv", tmp_path / "b.jsonl"], problems=problems)
    assert table.broken == {1, 4}
    assert table.column("text") == ["fine", None, "good", "a", None]
    content = Labels().read({"test": table}, ReadOptions(problems))
    assert content.vocabulary.texts == ["fine", "good", "a"]
    assert [(Path(each["file"]).name, each["row"], each["column"]) for each in problems.rows()] == [
        ("a.csv", 2, ""),
        ("b.jsonl", 2, ""),
    ]
    assert problems.rows()[0]["problem"] == "3 fields where the header has 2"


def test_bytes_that_are_no_utf8_are_reported_with_their_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\ngood,x\n" + b"caf\xe9,y\n")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "fine", "label": "x"}\n{"text": "caf\xe9", "label": "x"}\n')
    broken = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": broken, "label": ["x", "y"]}), tmp_path / "c.parquet")
    for name in ("a.csv", "b.jsonl", "c.parquet"):
        with pytest.raises(
            DataError, match=rf"{name}: 1 bad row .*column 'text': broken characters .* row 2"
        ):
            labelled_items(read_table(tmp_path / name))


def test_a_column_missing_from_one_file_names_that_file(tmp_path):
    write_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("text,intent\nx,y\n")
    table = read_table([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert table.columns == ["text"]
    with pytest.raises(DataError, match=r"b.csv has no column 'label'; it has 'text', 'intent'"):
        table.column("label")


def test_files_of_installed_packages(tmp_path, monkeypatch):
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "carrier" / "rows.csv").write_text("text\na\nb\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(read_table("package:carrier/rows.csv")) == 2
    with pytest.raises(DataError, match=r"there is no '.*carrier/row\.csv'.*holds 'rows\.csv'"):
        read_table("package:carrier/row.csv")
    with pytest.raises(DataError, match="no package 'nowhere_at_all' here; try `pip install nowhere-at-all`"):
        read_table("package:nowhere_at_all/rows.csv")


@pytest.mark.skipif(
    "LIT_METRIC_DATA" not in os.environ, reason="LIT_METRIC_DATA does not name a folder of real data"
)
def test_real_questions_and_packages():
    folder = Path(os.environ["LIT_METRIC_DATA"])
    questions = labelled_items(read_table(str(folder / "banking77" / "*.parquet")))
    assert len(questions) == 13_083
    assert len(set(questions.labels)) == 77
    packages = next(iter((folder / "debian").glob("*.parquet")))
    items = labelled_items(read_table(packages), tags="tags", key="name")
    assert items.kind == "set"
    assert len(items) == 29_793
    assert len({tag for row in items.rows for tag in row}) == 597
    assert len(set(items.labels)) == 57
