"""``lit-metric classify`` against votes by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lit_metric import Encoder
from tests.end_to_end.command import run
from tests.small import Small, questions, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
KNOWN = questions(48, seed=9)
ASKED = questions(20, seed=10)


def expected(encoder: Encoder, k: int = 5, temperature: float = 0.1) -> list[tuple[str, float, list[int]]]:
    """The label with most votes, its share of the votes, and the neighbours, of each text that is asked."""
    scores = encoder.encode([text for text, _ in ASKED]) @ encoder.encode([text for text, _ in KNOWN]).T
    answers = []
    for row in scores:
        near = np.argsort(-row)[:k]
        votes: dict[str, float] = {}
        for place in near:
            votes[KNOWN[place][1]] = votes.get(KNOWN[place][1], 0) + np.exp(row[place] / temperature)
        best = max(votes, key=votes.__getitem__)
        answers.append((best, votes[best] / sum(votes.values()), near.tolist()))
    return answers


def test_rows_get_the_label_of_their_neighbours(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    encoder, model = texts
    known = write_csv(tmp_path / "known.csv", KNOWN)
    new = write_csv(
        tmp_path / "new.csv", [(text, str(row)) for row, (text, _) in enumerate(ASKED)], ["text", "predicted"]
    )
    how = ["classify", "--model", model, "--labelled", known, "--input", new, "-k", "5"]
    for ending in ("parquet", "jsonl", "csv"):
        run(tmp_path, *how, "--output", f"out.{ending}", "--save", str(tmp_path / "saved"))
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert list(found[0]) == ["text", "input_predicted", "predicted", "confidence", "neighbours"]
    for number, (row, (label, share, near)) in enumerate(zip(found, expected(encoder), strict=True)):
        assert (row["text"], row["input_predicted"], row["predicted"]) == (
            ASKED[number][0],
            str(number),
            label,
        )
        assert row["confidence"] == pytest.approx(share, abs=1e-3)
        assert [(each["item"], each["label"]) for each in row["neighbours"]] == [
            KNOWN[place] for place in near
        ]
        best = encoder.encode([ASKED[number][0]])[0] @ encoder.encode([KNOWN[near[0]][0]])[0]
        assert row["neighbours"][0]["cosine"] == pytest.approx(best, abs=1e-4)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == found
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = [{**row, "neighbours": json.loads(row["neighbours"])} for row in csv.DictReader(file)]
    assert [row["neighbours"] for row in rows] == [row["neighbours"] for row in found]
    # The saved classifier needs neither the model nor the labelled rows.
    run(tmp_path, "classify", "--model", "saved", "--input", new, "--output", "again.parquet")
    assert pq.read_table(tmp_path / "again.parquet").to_pylist() == found


def test_lines_of_standard_input_are_answered_on_the_terminal(
    tmp_path: Path, texts: tuple[Encoder, str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    encoder, model = texts
    monkeypatch.setenv("COLUMNS", "200")
    known = write_csv(tmp_path / "known.csv", KNOWN)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(text for text, _ in ASKED[:3]) + "\n\n"))
    run(tmp_path, "classify", "--model", model, "--labelled", known, "--input", "-", "-k", "5")
    told = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line[1:-1]] for line in told]
    answers = expected(encoder)[:3]
    assert [(row[0], row[2]) for row in rows] == [
        (label, ASKED[at][0]) for at, (label, _, _) in enumerate(answers)
    ]
    assert [row[3] for row in rows] == [KNOWN[near[0]][0] for _, _, near in answers]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(SystemExit):
        run(tmp_path, "classify", "--model", model, "--labelled", known, "--input", "-")
    assert "no lines on standard input" in capsys.readouterr().err


def test_strange_rows_are_refused(tmp_path: Path, texts: tuple[Encoder, str]) -> None:
    encoder, model = texts
    known = write_csv(tmp_path / "known.csv", KNOWN)
    held = questions(30, seed=11)
    write_csv(tmp_path / "held.csv", [(text,) for text, _ in held], ["text"])
    new = write_csv(tmp_path / "new.csv", [*ASKED, ("w1 w1 w1 w2 w3", "none")])
    how = ["--labelled", known, "--input", new, "--refuse", "0.2", "--held_out", "held.csv", "--unknown", "?"]
    run(tmp_path, "classify", "--model", model, *how, "--output", "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    corpus = encoder.encode([text for text, _ in KNOWN])

    def nearest(rows: list[str]) -> np.ndarray:
        return (encoder.encode(rows) @ corpus.T).max(axis=1)

    usual = nearest([text for text, _ in held])
    for row, score in zip(found, nearest([row["text"] for row in found]), strict=True):
        assert row["p_known"] == pytest.approx((1 + (usual <= score).sum()) / 31, abs=1e-5)
        assert (row["predicted"] == "?") == (row["p_known"] <= 0.2)


def test_rows_of_several_labels(small: Small, tmp_path: Path, sets: tuple[Encoder, str]) -> None:
    films = f"{small / 'movies/movies.parquet'}"
    how = [
        "--labelled",
        films,
        "--tags",
        "cast",
        "--labels",
        "genres",
        "--input",
        films,
        "-k",
        "1",
        "--key",
        "title",
    ]
    run(tmp_path, "classify", "--model", sets[1], *how, "--output", "out.parquet")
    for row in pq.read_table(tmp_path / "out.parquet").to_pylist():
        assert sorted(row["predicted"]) == sorted(row["genres"])  # each row is its own neighbour
        assert row["confidence"] == [1.0] * len(row["genres"])
        assert row["neighbours"][0]["item"] == row["title"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--labelled is needed"),
        (["--labelled", "known.csv", "--unknown", "x"], "add it"),
        (["--labelled", "new.csv"], "no column of labels has a usual name; name it with --label"),
        (["--labelled", "known.csv", "--output", "out.txt"], "must end in"),
        (["--labelled", "known.csv", "--refuse", "0.001"], "too low for 48 held-out items"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    tmp_path: Path,
    texts: tuple[Encoder, str],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    write_csv(tmp_path / "known.csv", KNOWN)
    write_csv(tmp_path / "new.csv", [(text,) for text, _ in ASKED], ["text"])
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "classify", "--model", texts[1], "--input", "new.csv", *options)
    told = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    last = told.strip().splitlines()[-1]
    assert last.startswith("lit-metric: ")
    assert message in last
