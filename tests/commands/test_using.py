"""What is done with a trained encoder from the command line."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from lit_metric import Encoder, SetEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders import MeanPooling
from tests.end_to_end.command import run
from tests.small import Small, questions, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def texts(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, str]:
    """An encoder of texts and where it is saved."""
    folder = tmp_path_factory.mktemp("texts")
    encoder = TextEncoder(small / "backbone", projection=8)
    encoder.save(folder)
    return encoder, str(folder)


@pytest.fixture(scope="module")
def sets(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[SetEncoder, str]:
    """An encoder of sets and where it is saved."""
    folder = tmp_path_factory.mktemp("sets")
    encoder = SetEncoder(TextEncoder(small / "backbone"))
    encoder.save(folder)
    return encoder, str(folder)


@pytest.fixture(scope="module")
def prompted(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, str]:
    """One encoder with a prompt for each role, and where it is saved."""
    folder = tmp_path_factory.mktemp("prompted")
    prompts = {"query": "w40 w41 ", "passage": "w42 "}
    encoder = TextEncoder(small / "backbone", prompts=prompts, pool_prompt=False)
    encoder.save(folder)
    return encoder, str(folder)


@pytest.fixture(scope="module")
def towers(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[TwoTowerEncoder, str]:
    """A tower of sets of tags for queries, one of texts for documents, and where they are saved."""
    folder = tmp_path_factory.mktemp("towers")
    document = TextEncoder(small / "backbone", prompts={"document": "w42 "})
    encoder = TwoTowerEncoder(SetEncoder(TextEncoder(small / "backbone")), document)
    encoder.save(folder)
    return encoder, str(folder)


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


def shown(told: str) -> list[tuple[float, int]]:
    """Cosines and rows of what ``search`` printed."""
    return [(float(one), int(row)) for one, row in re.findall(r"│ +(-?\d\.\d{3}) +│ +(\d+) +│", told)]


def test_search_shows_the_nearest_rows(
    tmp_path: Path, texts: tuple[Encoder, str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    encoder, model = texts
    monkeypatch.setenv("COLUMNS", "400")
    corpus = write_csv(
        tmp_path / "in.csv", [(*row, f"[key{at}]") for at, row in enumerate(ROWS)], ["text", "label", "id"]
    )
    queries = ["w9 w10 w30", ROWS[4][0]]
    asked = ["--query", queries[0], "--query", queries[1]]
    run(tmp_path, "search", "--model", model, "--corpus", corpus, *asked, "-k", "5", "--key", "id")
    told = capsys.readouterr().out
    similar = encoder.encode(queries) @ encoder.encode([text for text, _ in ROWS]).T
    expected = [(query, row) for query in range(2) for row in np.argsort(-similar[query])[:5]]
    found = shown(told)
    assert [row for _, row in found] == [row + 1 for _, row in expected]
    assert [cosine for cosine, _ in found] == pytest.approx([similar[each] for each in expected], abs=6e-4)
    assert found[5] == (1.0, 5)  # the query that stands in the corpus
    assert f"[key{expected[0][1]}]" in told
    assert f"nearest to: {queries[0]}" in told
    assert ROWS[expected[0][1]][0] in told


def test_search_among_sets(
    small: Small, tmp_path: Path, sets: tuple[Encoder, str], capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, model = sets
    tags = pq.read_table(small / "test.parquet").column("tags").to_pylist()
    run(
        tmp_path,
        "search",
        "--model",
        model,
        "--corpus",
        small / "test.parquet",
        "--query",
        "w9, w30,,w9",
        "-k",
        "40",
    )
    found = shown(capsys.readouterr().out)
    similar = (
        encoder.encode([["w9", "w30"]]) @ encoder.encode([list(dict.fromkeys(row)) for row in tags]).T
    )[0]
    assert len(found) == 30  # there are no more
    assert [cosine for cosine, _ in found] == pytest.approx(sorted(similar, reverse=True), abs=6e-4)


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


def test_search_asks_in_the_role_of_queries(
    tmp_path: Path,
    prompted: tuple[Encoder, str],
    towers: tuple[Encoder, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = write_csv(tmp_path / "in.csv", ROWS)
    words = [text for text, _ in ROWS]

    def cosines(model: str, *more: str) -> list[float]:
        run(tmp_path, "search", "--model", model, "--corpus", corpus, "--query", "w9,w30", *more)
        return [cosine for cosine, _ in shown(capsys.readouterr().out)]

    for encoder, model, query in ((*prompted, "w9,w30"), (*towers, ["w9", "w30"])):
        similar = encoder.encode([query], role="query") @ encoder.encode(words, role="document").T
        assert cosines(model) == pytest.approx(sorted(similar[0], reverse=True)[:10], abs=6e-4)
    encoder, model = prompted
    similar = encoder.encode(["w9,w30"], role="passage") @ encoder.encode(words, role="query").T
    told = cosines(model, "--role", "query", "--query_role", "passage")
    assert told == pytest.approx(sorted(similar[0], reverse=True)[:10], abs=6e-4)


def test_export_of_two_towers_names_both_folders(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    TwoTowerEncoder(TextEncoder(small / "backbone"), TextEncoder(small / "backbone")).save(tmp_path / "model")
    with caplog.at_level(logging.INFO):
        run(tmp_path, "export", "--model", "model", "--output", "out")
    assert caplog.messages[-1] == (
        'Wrote out; use it with SentenceTransformer("out/query") and SentenceTransformer("out/document")'
    )
    assert all(SentenceTransformer(str(tmp_path / "out" / name)) for name in ("query", "document"))


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
        ("export --model {towers} --output out", "sentence-transformers has no counterpart of SetEncoder"),
        ("export --model {sets} --output out", "sentence-transformers has no counterpart of SetEncoder"),
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
