"""``lit-metric search`` against a full sort."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lit_metric import Encoder
from tests.end_to_end.command import run
from tests.small import Small, questions, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = [("w5 " * 40, "a"), *questions(20, seed=9), ("w7", "b")]


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


def test_texts_are_shown_as_they_are_on_80_columns(
    tmp_path: Path, texts: tuple[Encoder, str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    odd = ["[/INST] w5", "[bold]w6[/bold] :smile:", "w7\\", "w8\nw9\x1b[31m", "[link=x]w10", "w11 " * 200]
    corpus = write_csv(tmp_path / "in.csv", [(text, f"[/{row}]") for row, text in enumerate(odd)])
    asked = ["--query", "[/INST] w5", "--query", "[INST]", "--key", "label"]
    run(tmp_path, "search", "--model", texts[1], "--corpus", corpus, *asked)
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in told
    first = told[: told.index("nearest to: [INST]")]
    assert first.startswith("nearest to: [/INST] w5")
    for text in (*odd[:3], "w8 w9 [31m", odd[4]):
        assert any(line.rstrip(" │").endswith(f"│ {text}") for line in first.splitlines()), text
    assert all(f"│ [/{row}] " in first for row in range(6))
    assert "…" in first
    assert first.count("w11") == 60  # 240 characters


def test_copies_are_one_result(
    tmp_path: Path, texts: tuple[Encoder, str], capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, model = texts
    words = ["w5 w6", "w9", "w5 w6", "w7 w30", "w9", "w5 w6"]
    corpus = write_csv(tmp_path / "in.csv", [(text, "a") for text in words])
    run(tmp_path, "search", "--model", model, "--corpus", corpus, "--query", "w5 w6", "-k", "2")
    distinct = ["w5 w6", "w9", "w7 w30"]
    similar = (encoder.encode(["w5 w6"]) @ encoder.encode(distinct).T)[0]
    counts = {"w5 w6": ("1", "3"), "w9": ("2", "2"), "w7 w30": ("4", "1")}
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    expected = [distinct[place] for place in np.argsort(-similar)[:2]]
    assert [row[1:] for row in rows] == [[*counts[text], text] for text in expected]


def test_the_same_tags_in_another_order_are_copies(
    tmp_path: Path, sets: tuple[Encoder, str], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_csv(tmp_path / "in.csv", [("w5,w6",), ("w6,w5",), ("w5",)], ["tags"])
    how = ["--corpus", corpus, "--tag_separator", ",", "--query", "w5,w6"]
    run(tmp_path, "search", "--model", sets[1], *how)
    found = re.findall(r"│ +\d\.\d{3} +│ +(\d+) +│ +(\d+) +│", capsys.readouterr().out)
    assert found == [("1", "2"), ("3", "1")]


def test_results_are_written_with_all_columns(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    encoder, model = texts
    header = ["text", "label", "rank"]
    rows = [(*row, str(at)) for at, row in enumerate(ROWS)]
    corpus = write_csv(tmp_path / "in.csv", rows, header)
    queries = ["w9 w10 w30", "w5, w6", ROWS[3][0]]
    write_csv(tmp_path / "queries.csv", [(text,) for text in queries[1:]], ["text"])
    how = ["--corpus", corpus, "--query", queries[0], "--queries", "queries.csv", "-k", "4"]
    for ending in ("csv", "jsonl", "parquet"):
        run(tmp_path, "search", "--model", model, *how, "--output", f"out.{ending}")
    similar = encoder.encode(queries) @ encoder.encode([text for text, _ in ROWS]).T
    expected = [
        (query, rank, place)
        for query in range(3)
        for rank, place in enumerate(np.argsort(-similar[query])[:4], 1)
    ]
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert list(found[0]) == ["query", "rank", "cosine", "row", "copies", "text", "label", "corpus_rank"]
    for row, (query, rank, place) in zip(found, expected, strict=True):
        assert (row["query"], row["rank"], row["row"], row["copies"]) == (queries[query], rank, place + 1, 1)
        assert (row["text"], row["label"], row["corpus_rank"]) == rows[place]
        assert row["cosine"] == pytest.approx(similar[query][place], abs=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == found
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [list(row.values()) for row in csv.DictReader(file)] == [
            [*map(str, row.values())] for row in found
        ]


def test_bad_rows_are_left_out_where_that_is_asked_for(
    tmp_path: Path,
    texts: tuple[Encoder, str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    corpus = write_csv(tmp_path / "in.csv", [("w5", "a"), ("", "b"), ("w7", "c")])
    how = ["search", "--model", texts[1], "--corpus", corpus, "--query", "w7"]
    with pytest.raises(SystemExit):
        run(tmp_path, *how)
    assert "Or give --bad_rows skip to leave them out." in capsys.readouterr().err
    run(tmp_path, *how, "--bad_rows", "skip")
    assert shown(capsys.readouterr().out)[0][1] == 3
    assert any("in.csv: 1 bad row" in message for message in caplog.messages)
