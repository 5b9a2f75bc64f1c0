"""``lit-metric mine``: formats of sentence-transformers, scores of a cross-encoder, vectors that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from lit_metric import Encoder, TextEncoder
from tests.end_to_end.command import run
from tests.small import Small, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
PAIRS = [("w5 w6", "w30 w31"), ("w5 w6", "w32"), ("w9", "w33 w34"), ("w12 w13", "w35"), ("w9", "w36")]
DOCUMENTS = [document for _, document in PAIRS]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LIT_METRIC_CACHE", str(folder))
    return folder


@pytest.fixture
def mine(tmp_path: Path, texts: tuple[TextEncoder, str]) -> Any:
    """Mines in five pairs with two negatives each, the nearest, and reads the file."""
    write_csv(tmp_path / "pairs.csv", PAIRS, ["question", "answer"])
    data = ["--data.supervision", "lit_metric.data.Pairs", "--data.supervision.anchor", "question"]
    data += ["--data.supervision.positive", "answer", "--data.train", "pairs.csv"]

    def called(*options: str, model: str = texts[1], name: str = "a.parquet") -> list[dict[str, Any]]:
        how = ["--filters", "[]", "--draw", "TopK", "--negatives", "2", "--output", name]
        run(tmp_path, "mine", "--model", model, *data, *how, *options)
        if name.endswith(".jsonl"):
            return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        rows: list[dict[str, Any]] = pq.read_table(tmp_path / name).to_pylist()
        return rows

    return called


@pytest.fixture(scope="module")
def cross(small: Small, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cross-encoder with random weights."""
    folder = str(tmp_path_factory.mktemp("cross"))
    config = BertConfig.from_pretrained(small / "backbone", num_labels=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small / "backbone").save_pretrained(folder)
    return folder


def expected(encoder: Encoder) -> dict[str, tuple[list[str], list[str]]]:
    """Positives and the two nearest others of each question."""
    found = {}
    vectors = encoder.encode(DOCUMENTS)
    for question in dict.fromkeys(question for question, _ in PAIRS):
        own = [document for asked, document in PAIRS if asked == question]
        order = np.argsort(-(vectors @ encoder.encode([question])[0]))
        found[question] = own, [DOCUMENTS[place] for place in order if DOCUMENTS[place] not in own][:2]
    return found


def test_lists_and_pairs_have_labels_or_scores(mine: Any, texts: tuple[TextEncoder, str]) -> None:
    want = expected(texts[0])
    rows = mine("--output_format", "labeled-list")
    assert [*rows[0]] == ["anchor", "documents", "labels"]
    assert {row["anchor"] for row in rows} == want.keys()
    for row in rows:
        own, others = want[row["anchor"]]
        positives = [text for text, label in zip(row["documents"], row["labels"], strict=True) if label]
        assert sorted(positives) == sorted(own)
        assert row["documents"] == positives + others
        assert row["labels"] == [1] * len(own) + [0, 0]
    scored = mine("--output_format", "labeled-list", "--output_scores", "true")
    assert [*scored[0]] == ["anchor", "documents", "scores"]
    for row in scored:
        similar = texts[0].encode(row["documents"]) @ texts[0].encode([row["anchor"]])[0]
        np.testing.assert_allclose(row["scores"], similar, atol=1e-5)
    pairs = mine("--output_format", "labeled-pair")
    assert [*pairs[0]] == ["anchor", "document", "label"]
    assert [tuple(row.values()) for row in pairs] == [
        (row["anchor"], document, label)
        for row in rows
        for document, label in zip(row["documents"], row["labels"], strict=True)
    ]
    assert [*mine("--output_format", "labeled-pair", "--output_scores", "true")[0]][2] == "score"


def test_scores_of_a_cross_encoder_are_those_of_its_own_library(
    mine: Any, texts: tuple[TextEncoder, str], cross: str, tmp_path: Path
) -> None:
    peer = CrossEncoder(cross, device="cpu")

    def scores(anchor: str, documents: list[str]) -> Any:
        return pytest.approx(peer.predict([(anchor, each) for each in documents]).tolist(), abs=1e-5)

    for row in mine("--cross_encoder", cross, "--output_scores", "true"):
        assert [*row] == ["anchor", "positive", "negative_1", "negative_2", "scores"]
        documents = [row["positive"], row["negative_1"], row["negative_2"]]
        assert documents[1:] == expected(texts[0])[row["anchor"]][1]  # the same choice
        assert row["scores"] == scores(row["anchor"], documents)
    for row in mine("--cross_encoder", cross, name="b.jsonl"):
        assert row["pos_scores"] == scores(row["query"], row["pos"])
        assert row["neg_scores"] == scores(row["query"], row["neg"])
    for row in pq.read_table(tmp_path / "b.details.parquet").to_pylist():  # scores by which filters decided
        similar = (
            texts[0].encode([each["text"] for each in row["negatives"]]) @ texts[0].encode([row["anchor"]])[0]
        )
        assert [each["score"] for each in row["negatives"]] == pytest.approx(similar.tolist(), abs=1e-5)


def test_vectors_are_kept_for_the_next_call(
    mine: Any,
    texts: tuple[TextEncoder, str],
    prompted: tuple[TextEncoder, str],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def hits() -> bool:
        found = "are those of an earlier call" in caplog.text
        caplog.clear()
        return found

    with caplog.at_level("INFO"):
        first = mine("--cache", "off")
        assert not (cache / "mining-vectors").exists()
        assert mine() == first
        assert not hits()
        with monkeypatch.context() as patch:
            patch.setattr("lit_metric.commands.mine.encode_split", lambda *_: 1 / 0)
            assert mine() == first
            assert hits()
            for row in mine("--negatives", "1"):  # other options of the search
                assert row["negative_1"] == expected(texts[0])[row["anchor"]][1][0]
            assert hits()
        mine(model=prompted[1])
        assert not hits()
        write_csv(tmp_path / "pairs.csv", [*PAIRS, ("w14", "w37")], ["question", "answer"])
        mine("--cache", str(tmp_path / "kept"))
        assert not hits()
        (folder,) = (tmp_path / "kept").iterdir()
        (folder / "vectors.npy").write_bytes(b"damaged")
        mine("--cache", str(tmp_path / "kept"))  # made again
        assert "vectors.npy is damaged" in caplog.text
        assert not hits()
        mine("--cache", str(tmp_path / "kept"))
        assert hits()


def test_mistakes_are_told(
    mine: Any, capsys: pytest.CaptureFixture[str], small: Small, tmp_path: Path
) -> None:
    config = BertConfig.from_pretrained(small / "backbone", num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(small / "backbone").save_pretrained(tmp_path / "three")
    for options, name, message in (
        (
            ["--output_format", "labeled-list"],
            "a.jsonl",
            "--output_format and --output_scores are for .parquet",
        ),
        (["--output_format", "triplet"], "a.parquet", "triplet"),
        (["--cross_encoder", "three"], "a.parquet", "--cross_encoder three gives 3 scores for a pair"),
    ):
        with pytest.raises(SystemExit):
            mine(*options, name=name)
        assert message in capsys.readouterr().err
