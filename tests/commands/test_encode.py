"""``lit-metric encode`` and ``export``."""

from __future__ import annotations

import csv
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from lit_metric import Encoder, SetEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.commands.encode import encode
from lit_metric.commands.search import search
from lit_metric.encoders import MeanPooling
from tests.end_to_end.command import run
from tests.small import Small, questions, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = [("w5 " * 40, "a"), *questions(20, seed=9), ("w7", "b")]


def test_encode_keeps_the_order_of_rows(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    encoder, model = texts
    source = write_csv(tmp_path / "in.csv", ROWS)
    expected = encoder.encode([text for text, _ in ROWS])
    more = ["--input", source, "--max_tokens", "50", "--output"]
    run(tmp_path, "encode", "--model", model, *more, "new/folder/out.npy")
    vectors = np.load(tmp_path / "new" / "folder" / "out.npy", allow_pickle=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    run(tmp_path, "encode", "--model", model, *more, "new/half.npy", "--precision", "bfloat16")
    half = encoder.encode([text for text, _ in ROWS], 50, precision="bfloat16")
    np.testing.assert_allclose(np.load(tmp_path / "new" / "half.npy"), half, atol=1e-6)
    assert np.abs(half - expected).max() > 1e-4
    run(tmp_path, "encode", "--model", model, *more, "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("text").to_pylist() == [text for text, _ in ROWS]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    np.testing.assert_allclose(np.stack(table.column("embedding").to_numpy()), expected, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "new", "out.parquet"]


def test_tables_keep_all_columns(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    encoder, model = texts
    columns: dict[str, Any] = {
        "id": [7, 8, 9],
        "text": ["w5, w6", 'w7 "w8"', "w9\nw10 ü"],
        "tags": [["a", "b"], [], None],
        "price": [0.5, None, 2.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    expected = encoder.encode(columns["text"])
    for ending in ("parquet", "csv", "jsonl"):
        how = ["--input", "in.parquet", "--output", f"out.{ending}", "--column", "vector"]
        run(tmp_path, "encode", "--model", model, *how)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == [*columns, "vector"]
    assert {name: table.column(name).to_pylist() for name in columns} == columns
    np.testing.assert_allclose(np.stack(table.column("vector").to_numpy()), expected, atol=1e-6)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == columns["text"]
    assert [row["price"] for row in rows] == ["0.5", "", "2.0"]
    assert [row["tags"] for row in rows] == ['["a", "b"]', "[]", ""]
    vectors = [json.loads(row["vector"]) for row in rows]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [{name: line[name] for name in columns} for line in lines] == [
        {name: values[row] for name, values in columns.items()} for row in range(3)
    ]
    assert np.array_equal(np.float32([line["vector"] for line in lines]), np.float32(vectors))


def test_skipped_rows_leave_the_output_alignable(
    tmp_path: Path, texts: tuple[Encoder, str], caplog: pytest.LogCaptureFixture
) -> None:
    encoder, model = texts
    source = write_csv(tmp_path / "in.csv", [("w5", "a"), ("", "b"), ("w7", "c"), (" ", "d"), ("w9", "e")])
    expected = encoder.encode(["w5", "w7", "w9"])
    with caplog.at_level(logging.WARNING):
        for name in ("out.npy", "out.parquet"):
            how = ["--input", source, "--bad_rows", "skip", "--output", f"new/{name}"]
            run(tmp_path, "encode", "--model", model, *how)
    vectors = np.load(tmp_path / "new" / "out.npy", allow_pickle=False)
    assert vectors.shape == (5, 8)
    np.testing.assert_allclose(vectors[[0, 2, 4]], expected, atol=1e-6)
    assert np.isnan(vectors[[1, 3]]).all()
    table = pq.read_table(tmp_path / "new" / "out.parquet")
    assert table.column("row").to_pylist() == [1, 3, 5]  # as in rejected.parquet, from 1
    assert table.column("label").to_pylist() == ["a", "c", "e"]
    np.testing.assert_allclose(np.stack(table.column("embedding").to_numpy()), expected, atol=1e-6)
    assert pq.read_table(tmp_path / "new" / "rejected.parquet").column("row").to_pylist() == [2, 4]
    assert "2 bad rows are left out, and listed in new/rejected.parquet" in caplog.messages
    assert "Their vectors are NaN, so that row i of new/out.npy is row i of the input" in caplog.messages


def test_values_of_several_types_and_broken_characters_are_kept_as_text(
    tmp_path: Path, texts: tuple[Encoder, str]
) -> None:
    lines = ['{"text": "w5", "note": 3}', '{"text": "w6", "note": "three"}', '{"text": "w7", "note": [1]}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    run(tmp_path, "encode", "--model", texts[1], "--input", "in.jsonl", "--output", "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column("note").to_pylist() == ["3", "three", "[1]"]
    (tmp_path / "in.csv").write_bytes(b"text,note\nw5,caf\xe9\nw6,tea\n")
    for ending in ("parquet", "csv", "jsonl"):
        run(tmp_path, "encode", "--model", texts[1], "--input", "in.csv", "--output", f"out.{ending}")
    assert pq.read_table(tmp_path / "out.parquet").column("note").to_pylist() == ["caf\ufffd", "tea"]
    assert "caf\ufffd" in (tmp_path / "out.csv").read_text("utf-8")
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8").splitlines()[0])["note"] == "caf\ufffd"


def test_tables_in_memory_are_taken_from_python(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    encoder, model = texts
    columns = {"text": ["w5 w6", "w9"], "id": [7, 8]}
    rows = [{"text": "w5 w6", "id": 7}, {"text": "w9", "id": 8}]
    sources: list[Any] = [columns, rows, pa.table(columns), pd.DataFrame(columns)]
    for source in sources:
        encode(model, source, str(tmp_path / "out.parquet"))
        table = pq.read_table(tmp_path / "out.parquet")
        assert table.column("id").to_pylist() == [7, 8]
        found = np.stack(table.column("embedding").to_numpy())
        np.testing.assert_allclose(found, encoder.encode(columns["text"]), atol=1e-6)
        search(model, source, ["w9"], k=1, output=str(tmp_path / "found.csv"))
        assert "w9,1,1.0,2,1,w9,8" in (tmp_path / "found.csv").read_text()


def test_how_a_csv_is_written_can_be_said(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    (tmp_path / "in.csv").write_bytes("text|note\nw5|caf\u00e9\nw6|tea, no\n".encode("cp1252"))
    how = ["--input", "in.csv", "--csv.separator", "|", "--csv.encoding", "cp1252", "--output", "out.parquet"]
    run(tmp_path, "encode", "--model", texts[1], *how)
    assert pq.read_table(tmp_path / "out.parquet").column("note").to_pylist() == ["caf\u00e9", "tea, no"]


def test_encode_and_search_import_nothing_that_they_do_not_need(
    tmp_path: Path, texts: tuple[Encoder, str]
) -> None:
    source = write_csv(tmp_path / "in.csv", ROWS)
    program = """
import sys
from lit_metric.commands.encode import encode
from lit_metric.commands.search import search
model, source = sys.argv[1:]
encode(model, source, "out.npy")
search(model, source, ["w5"], output="out.csv")
print([name for name in ("lightning", "datasets", "sentence_transformers", "faiss") if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", program, texts[1], source], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout == "[]\n", found.stderr


def test_encode_sets_of_tags(small: Small, tmp_path: Path, sets: tuple[Encoder, str]) -> None:
    encoder, model = sets
    tags = pq.read_table(small / "test.parquet").column("tags").to_pylist()
    expected = encoder.encode([list(dict.fromkeys(row)) for row in tags])
    run(tmp_path, "encode", "--model", model, "--input", small / "test.parquet", "--output", "a.npy")
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, atol=1e-6)
    rows = [(";".join(row),) for row in tags]
    source = write_csv(tmp_path / "in.csv", rows, ["words"])
    how = ["--tags", "words", "--tag_separator", ";"]
    run(tmp_path, "encode", "--model", model, "--input", source, *how, "--output", "b.parquet")
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column("words").to_pylist() == [";".join(row) for row in tags]
    np.testing.assert_allclose(np.stack(table.column("embedding").to_numpy()), expected, atol=1e-6)


def test_encode_in_a_role(
    tmp_path: Path, prompted: tuple[Encoder, str], towers: tuple[Encoder, str], small: Small
) -> None:
    source = write_csv(tmp_path / "in.csv", ROWS)
    words = [text for text, _ in ROWS]
    found = {}
    for encoder, model in (prompted, towers):
        how = ["encode", "--model", model, "--input", source, "--output", "a.npy", "--role", "document"]
        run(tmp_path, *how)
        found[model] = np.load(tmp_path / "a.npy")
        np.testing.assert_allclose(found[model], encoder.encode(words, role="document"), atol=1e-6)
    assert not np.allclose(*found.values(), atol=0.01)
    run(tmp_path, "encode", "--model", prompted[1], "--input", source, "--output", "a.npy")
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), prompted[0].encode(words), atol=1e-6)
    tags = pq.read_table(small / "test.parquet").column("tags").to_pylist()
    how = ["--input", small / "test.parquet", "--role", "query", "--output", "b.npy"]
    run(tmp_path, "encode", "--model", towers[1], *how)
    expected = towers[0].encode([list(dict.fromkeys(row)) for row in tags], role="query")
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), expected, atol=1e-6)


def test_fields_and_weights_are_read_as_in_training(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = {"title": "w40 ", "cast": "w41 w42 "}
    encoder = SetEncoder(TextEncoder(small / "backbone", prompts=prompts), MeanPooling())
    encoder.save(tmp_path / "model")
    columns = {
        "name": ["w5 w6", "w7", "w5 w6"],
        "actors": [["w8", "w9", "w8"], [], ["w10"]],
        "tags": [["w5", "w6", "w5"], ["w7"], ["w8", "w9"]],
        "shares": [[1.0, 2.0, 4.0], [3.0], [0.5, 1.0]],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")

    def encoded(*how: str) -> np.ndarray:
        given = ["--input", str(tmp_path / "in.parquet"), "--output", "out.npy", *how]
        run(tmp_path, "encode", "--model", str(tmp_path / "model"), *given)
        return np.load(tmp_path / "out.npy")

    found = encoded("--field.title", "name", "--field.cast", "actors")
    roles = [["title", "cast", "cast"], ["title"], ["title", "cast"]]
    rows = [["w5 w6", "w8", "w9"], ["w7"], ["w5 w6", "w10"]]
    np.testing.assert_allclose(found, encoder.encode(rows, role=roles), atol=1e-6)
    found = encoded("--tags", "tags", "--weights", "shares", "--role", "cast")
    rows, shares = [["w5", "w6"], ["w7"], ["w8", "w9"]], [[4.0, 2.0], [3.0], [0.5, 1.0]]
    np.testing.assert_allclose(found, encoder.encode(rows, role="cast", weights=shares), atol=1e-6)
    assert not np.allclose(found, encoder.encode(rows, role="cast"), atol=1e-3)
    with pytest.raises(SystemExit):
        encoded("--field.title", "name", "--role", "cast")
    assert "--role cast: texts have the roles of their --field" in capsys.readouterr().err


def test_export_of_two_towers_is_one_model(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    TwoTowerEncoder(TextEncoder(small / "backbone"), TextEncoder(small / "backbone")).save(tmp_path / "model")
    with caplog.at_level(logging.INFO):
        run(tmp_path, "export", "--model", "model", "--output", "out")
    assert caplog.messages[-2] == 'Wrote out; use it with SentenceTransformer("out")'
    assert re.fullmatch(
        r"sentence-transformers: largest difference \d\.\de-0[6-9] on 74 items", caplog.messages[-1]
    )
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert caplog.messages[-1] in card
    assert all(SentenceTransformer(str(tmp_path / "out" / name)) for name in (".", "query", "document"))


def test_export_is_read_by_sentence_transformers(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    encoder, model = texts
    run(tmp_path, "export", "--model", model, "--output", "exported")
    words = [text for text, _ in ROWS]
    peer = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    np.testing.assert_allclose(peer.encode(words), encoder.encode(words), atol=1e-5)
    # What was exported is itself a model for these commands.
    source = write_csv(tmp_path / "in.csv", ROWS)
    run(tmp_path, "encode", "--model", "exported", "--input", source, "--output", "out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), encoder.encode(words), atol=1e-5)


def test_export_in_the_own_format_is_for_every_encoder(
    tmp_path: Path,
    sets: tuple[Encoder, str],
    towers: tuple[Encoder, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        run(tmp_path, "export", "--model", sets[1], "--output", "out")
    assert 'SentenceTransformer("out", trust_remote_code=True)' in caplog.text
    for (encoder, model), role in ((sets, None), (towers, "query")):
        run(tmp_path, "export", "--model", model, "--output", f"out-{role}", "--format", "lit-metric")
        items = [["w5", "w6"], ["w9"]]
        loaded = Encoder.load(tmp_path / f"out-{role}")
        np.testing.assert_allclose(
            loaded.encode(items, role=role), encoder.encode(items, role=role), atol=1e-6
        )


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "encode --model nowhere --input {csv} --output a.npy",
            "FileNotFoundError: nowhere: there is no such folder here",
        ),
        (
            "encode --model {texts} --input nothere.csv --output a.npy",
            "DataError: there is no file 'nothere.csv'",
        ),
        (
            "encode --model {texts} --input {csv} --output a.txt",
            "--output a.txt: the name must end in .npy, .parquet, .csv or .jsonl",
        ),
        (
            "encode --model {texts} --input {csv} --output a.npy --text body",
            "has no column 'body'; it has 'text', 'label'",
        ),
        (
            "encode --model {texts} --input {parquet} --output a.npy",
            "kind 'set', but this model encodes 'text': name the column with --text",
        ),
        (
            "encode --model {sets} --input {csv} --output a.npy",
            "kind 'text', but this model encodes 'set': name the column with --tags",
        ),
        ("search --model {texts} --corpus {csv} --query x -k 0", "-k 0: at least 1 is needed"),
        ("search --model {sets} --corpus {parquet} --query ,", "--query is empty"),
        ("search --model {texts} --corpus {csv} --query x --key id", "has no column 'id'"),
        (
            "encode --model {texts} --input {csv} --output a.npy --role query",
            "--role query: this model has no roles; leave --role out",
        ),
        (
            "encode --model {prompted} --input {csv} --output a.npy --role querry",
            "--role querry: this model knows query, passage, document",
        ),
        (
            "encode --model {towers} --input {csv} --output a.npy",
            "--role is needed: this model has a tower for queries and one for documents",
        ),
        (
            "search --model {towers} --corpus {csv} --query x --query_role asks",
            "--query_role asks: this model knows query, document",
        ),
        (
            "encode --model {prompted} --input {csv} --output a.npy --field.title text",
            "gives items of kind 'set', but this model encodes 'text'",
        ),
        (
            "encode --model {sets} --input {parquet} --output a.npy --tags tags --weights words",
            "has no column 'words'",
        ),
        (
            "encode --model {texts} --input {csv} --output a.csv --column label",
            "has a column 'label' already; give the vectors another name with --column",
        ),
        (
            "encode --model {texts} --input {csv} --output a.npy --bad_rows drop",
            "Literal['error', 'skip']. Got value: drop",
        ),
        ("search --model {texts} --corpus {csv}", "no query: give --query TEXT, or a file of them with"),
        ("search --model {texts} --corpus {csv} --query x --output a.txt", "must end in .parquet, .csv or"),
        ("export --model {texts} --output out --private true", "add --push OWNER/NAME"),
        ("export --model {texts} --output out --push a/b/c", "can't be the name of a model on the hub"),
        ("export --model {texts} --output {texts}", "exists already and is not an empty folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(
    small: Small,
    tmp_path: Path,
    texts: tuple[Encoder, str],
    sets: tuple[Encoder, str],
    prompted: tuple[Encoder, str],
    towers: tuple[Encoder, str],
    capsys: pytest.CaptureFixture[str],
    command: str,
    expected: str,
) -> None:
    models = {"texts": texts[1], "sets": sets[1], "prompted": prompted[1], "towers": towers[1]}
    names = {**models, "csv": small / "test.csv", "parquet": small / "test.parquet"}
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *(part.format(**names) for part in command.split()))
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-metric: ")]
    assert expected in line
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_loses_nothing(
    tmp_path: Path, texts: tuple[Encoder, str], monkeypatch: Any
) -> None:
    source = write_csv(tmp_path / "in.csv", ROWS)
    (tmp_path / "out.npy").write_bytes(b"precious")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(SystemExit):
        run(tmp_path, "encode", "--model", texts[1], "--input", source, "--output", "out.npy")
    assert (tmp_path / "out.npy").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.npy"]


def test_outputs_are_as_readable_as_other_files(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    source = write_csv(tmp_path / "in.csv", ROWS)
    run(tmp_path, "encode", "--model", texts[1], "--input", source, "--output", "out.npy")
    assert (tmp_path / "out.npy").stat().st_mode == Path(source).stat().st_mode


def test_texts_that_are_cut_are_counted_once_for_all_shards(
    tmp_path: Path, small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    TextEncoder(small / "backbone", max_length=5).save(tmp_path / "short")
    # [CLS] and [SEP] leave room for three words.
    texts = ["w5 w6 w7", "w5 w6 w7 w8", "w5", "w6", "w5 w6 w7 w8 w9"]
    source = write_csv(tmp_path / "in.csv", [(text, "a") for text in texts])
    with caplog.at_level(logging.WARNING, logger="lit_metric"):
        encode(str(tmp_path / "short"), source, str(tmp_path / "out.npy"), shard_rows=2)
    told = [line for line in caplog.messages if "max_length" in line]
    assert told == ["2 of 5 texts are longer than max_length=5 tokens, and are cut there"]
