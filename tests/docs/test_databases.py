"""The recipes of ``docs/search.md`` for databases, as they stand, against a full sort."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_metric import TextEncoder
from tests.end_to_end.command import run
from tests.small import Small, questions, write_csv

PAGE = Path(__file__).parents[2] / "docs" / "search.md"


def recipe(name: str) -> str:
    """The code below a database's name."""
    found = re.search(
        rf"^{name} \(tested\):\n\n```py\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert found
    return found[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "package"), [("DuckDB", "duckdb"), ("LanceDB", "lancedb"), ("Qdrant", "qdrant_client")]
)
def test_a_database_takes_the_file_as_it_is(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    pytest.importorskip(package)
    rows = [("where is my card w5", "a"), *questions(40, seed=2)]
    write_csv(tmp_path / "questions.csv", rows)
    encoder = TextEncoder(small / "backbone")
    encoder.save(tmp_path / "runs" / "banking77" / "model")
    model = "runs/banking77/model"
    run(tmp_path, "encode", "--model", model, "--input", "questions.csv", "--output", "vectors.parquet")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(recipe(name), name, "exec"), names)
    hits = names["hits"]
    if name == "LanceDB":
        hits = [(hit["text"], 1 - hit["_distance"]) for hit in hits]
    elif name == "Qdrant":
        hits = [(hit.payload["text"], hit.score) for hit in hits]
    vectors = encoder.encode([text for text, _ in rows])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = encoder.encode(["where is my card"])[0]
    similar = unit @ (query / np.linalg.norm(query))
    order = np.argsort(-similar)[:3]
    assert [text for text, _ in hits] == [rows[place][0] for place in order]
    assert [cosine for _, cosine in hits] == pytest.approx(similar[order].tolist(), abs=1e-5)
