"""``lit-metric index`` and ``search --index`` against a full sort."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lit_metric import Encoder, SearchIndex
from tests.commands.test_search import shown
from tests.end_to_end.command import run
from tests.small import Small, questions, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = [(*row, str(number % 3), f"k{number}") for number, row in enumerate(questions(120, seed=9))]
HEADER = ["text", "label", "size", "id"]
TEXTS = [text for text, *_ in ROWS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: tuple[Encoder, str]) -> Path:
    """A CSV file and its index."""
    folder = tmp_path_factory.mktemp("indexed")
    write_csv(folder / "in.csv", ROWS, HEADER)
    run(folder, "index", "--model", texts[1], "--input", "in.csv", "--output", "out", "--shard_rows", "50")
    return folder


def asked(folder: Path, model: str, *more: str) -> None:
    run(folder, "search", "--model", model, "--index", str(folder / "out"), *more)


def test_an_index_shows_the_nearest_rows(
    folder: Path, texts: tuple[Encoder, str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        ".lock",
        "manifest.json",
        "rows",
        "vectors.bin",
    ]
    asked(folder, texts[1], "--query", "w9 w10", "-k", "4", "--key", "id")
    told = capsys.readouterr().out
    similar = (texts[0].encode(["w9 w10"]) @ texts[0].encode(TEXTS).T)[0]
    best = np.argsort(-similar, kind="stable")[:4]
    found = shown(told)
    assert [row for _, row in found] == [place + 1 for place in best]
    assert [cosine for cosine, _ in found] == pytest.approx(similar[best].tolist(), abs=6e-4)
    assert f"│ k{best[0]} " in told
    assert f"│ {TEXTS[best[0]]} " in told
    asked(
        folder,
        texts[1],
        "--query",
        "w9 w10",
        "-k",
        "200",
        "--where",
        "label=" + ROWS[5][1],
        "--where",
        "size=2",
    )
    same = [place for place in np.argsort(-similar, kind="stable") if ROWS[place][1:3] == (ROWS[5][1], "2")]
    assert [row for _, row in shown(capsys.readouterr().out)] == [place + 1 for place in same]
    assert same


def test_queries_come_from_files_standard_input_and_a_prompt(
    folder: Path,
    tmp_path: Path,
    texts: tuple[Encoder, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    queries = ["w9 w10", "w5", "w30 w7"]
    write_csv(tmp_path / "queries.csv", [(text,) for text in queries], ["text"])
    asked(
        folder,
        texts[1],
        "--queries",
        str(tmp_path / "queries.csv"),
        "-k",
        "3",
        "--output",
        f"{tmp_path}/a.parquet",
    )
    similar = texts[0].encode(queries) @ texts[0].encode(TEXTS).T
    best = np.argsort(-similar, axis=1, kind="stable")[:, :3]
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [*rows[0]] == ["query", "rank", "cosine", "row", *HEADER]
    assert [row["row"] for row in rows] == (best + 1).reshape(-1).tolist()
    assert [(row["query"], row["text"], row["id"]) for row in rows] == [
        (query, TEXTS[place], f"k{place}")
        for query, some in zip(queries, best, strict=True)
        for place in some
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(queries) + "\n\n"))
    asked(folder, texts[1], "--queries", "-", "-k", "3", "--output", f"{tmp_path}/b.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert lines == rows
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(queries)))
    capsys.readouterr()
    asked(folder, texts[1], "--queries", "-", "-k", "3")
    assert [row - 1 for _, row in shown(capsys.readouterr().out)] == best.reshape(-1).tolist()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("w9 w10\n\n w5\n"))
    asked(folder, texts[1], "-k", "3")
    assert [row - 1 for _, row in shown(capsys.readouterr().out)] == best[:2].reshape(-1).tolist()
    write_csv(tmp_path / "few.csv", ROWS[:4], HEADER)
    monkeypatch.setattr(sys, "stdin", Terminal("w5\n"))
    run(tmp_path, "search", "--model", texts[1], "--corpus", "few.csv")
    assert len(shown(capsys.readouterr().out)) == 4


def test_an_index_of_sets_in_the_role_of_documents(
    small: Small, tmp_path: Path, towers: tuple[Encoder, str], capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, model = towers
    write_csv(tmp_path / "in.csv", ROWS[:20], HEADER)
    run(tmp_path, "index", "--model", model, "--input", "in.csv", "--output", "out", "--kind", "int8")
    asked(tmp_path, model, "--query", "w9, w30,,w9", "-k", "20")
    similar = encoder.encode([["w9", "w30"]], role="query") @ encoder.encode(TEXTS[:20], role="document").T
    assert [cosine for cosine, _ in shown(capsys.readouterr().out)] == pytest.approx(
        sorted(similar[0], reverse=True), abs=6e-4
    )


def test_rows_are_added_and_an_interrupted_call_goes_on(
    tmp_path: Path, texts: tuple[Encoder, str], monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write_csv(tmp_path / "first.csv", ROWS[:60], HEADER)
    write_csv(tmp_path / "second.csv", [*ROWS[60:90], ("", "bad", "0", "x"), *ROWS[90:]], HEADER)
    encode, calls = Encoder.encode, []

    def counted(self: Encoder, items: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(len(items))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, items, *arguments, **options)

    how = ["index", "--model", texts[1], "--output", "out", "--shard_rows", "25"]
    with monkeypatch.context() as patch:
        patch.setattr(type(texts[0]), "encode", counted)
        with pytest.raises(SystemExit):
            run(tmp_path, *how, "--input", "first.csv", "--kind", "binary")
        with pytest.raises(SystemExit):  # not finished yet
            run(tmp_path, "search", "--model", texts[1], "--index", "out", "--query", "w5")
        run(tmp_path, *how, "--input", "first.csv", "--kind", "binary")
        assert calls == [25, 25, 25, 10]  # the first shard is not encoded again
    more = [*how, "--input", "second.csv", "--bad_rows", "skip", "--add"]
    with monkeypatch.context() as patch:  # cut off after the rows were added
        patch.setattr("lit_metric.commands.index.shutil", None)
        with pytest.raises(AttributeError):
            run(tmp_path, *more[:-5], "--input", "first.csv", "--add")
    index = SearchIndex.open(tmp_path / "out", verify=True)
    assert len(index) == 120
    assert index.columns["id"].to_pylist() == [f"k{n}" for n in [*range(60)] * 2]
    assert (tmp_path / "out" / "shards-60").is_dir()
    write_csv(tmp_path / "new.csv", [("w5", "a")], ["text", "colour"])
    with pytest.raises(SystemExit):  # before anything is encoded
        run(tmp_path, *how, "--input", "new.csv", "--add")
    run(tmp_path, *more)
    assert not [*(tmp_path / "out").glob("shards-*")]
    vectors = np.fromfile(tmp_path / "out" / "vectors.bin", np.float32).reshape(-1, 8)
    expected = texts[0].encode([*TEXTS[:60], *TEXTS])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("index --input in.csv --output out", "out holds an index"),
        ("index --input in.csv --output new --kind IVFx", "FAISS cannot build"),
        (
            "index --input in.csv --output new --nprobe 3",
            "nprobe and ef_search are for FAISS, and kind is 'exact'",
        ),
        ("index --input in.csv --output out --add --kind int8", "--add takes the settings of the index"),
        ("index --input in.csv --output nowhere --add", "nowhere does not exist"),
        ("search --query x", "give --corpus FILE to search, or --index FOLDER, and not both"),
        ("search --query x --index out --corpus in.csv", "and not both"),
        ("search --query x --corpus in.csv --where a=b", "--where is for an index"),
        ("search --query x --index out --where label", "--where label: write COLUMN=VALUE"),
        (
            "search --query x --index out --where colour=red",
            "has no column 'colour'; it has text, label, size, id",
        ),
        (
            "search --query x --index out --key name",
            "--key name: the index has the columns text, label, size, id",
        ),
        ("search --query x --index out --role a", "--role is for a corpus"),
        ("search --index out", "no query: give --query TEXT, or a file of them with --queries; --queries -"),
    ],
)
def test_mistakes_are_told_in_one_line(
    folder: Path, texts: tuple[Encoder, str], capsys: pytest.CaptureFixture[str], command: str, expected: str
) -> None:
    name, *options = command.split()
    with pytest.raises(SystemExit) as stopped:
        run(folder, name, "--model", texts[1], *options)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-metric: ")]
    assert expected in line


def test_another_model_is_refused(
    folder: Path,
    texts: tuple[Encoder, str],
    prompted: tuple[Encoder, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        asked(folder, prompted[1], "--query", "w5")
    assert re.search("of another model, whose weights or settings differ", capsys.readouterr().err)
