"""The model card of an export."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from lit_metric import hub
from lit_metric.before_after import worse_than_before
from lit_metric.commands.export import export
from lit_metric.data import DataError
from lit_metric.encoders import AttentionPooling, SetEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.hub.card import card, escaped, fenced, run_of
from lit_metric.hub.card_examples import examples_of
from tests.encoders.conftest import tiny  # noqa: F401

CONFIG = {
    "seed_everything": 7,
    "trainer": {
        "max_epochs": 3,
        "callbacks": [
            {"class_path": "x.BestCheckpoint", "init_args": {"monitor": "val/map@r"}},
        ],
    },
    "model": {
        "class_path": "lit_metric.MetricLearner",
        "init_args": {
            "encoder": {"class_path": "lit_metric.TextEncoder", "init_args": {"backbone": "org/base"}},
            "loss": {"class_path": "lit_metric.losses.InfoNCELoss", "init_args": {"temperature": 0.05}},
            "lr": None,
        },
    },
    "data": {"train": "/home/somebody/secret/a|b ```.csv", "test": ["other/test.parquet"], "text": "body"},
}
REPORT = {
    "split": "test",
    "before": {"map@r": 0.5, "mrr": 0.25, "knn1_accuracy": None},
    "after": {"map@r": 0.625, "mrr": 0.125, "a|b<i>": 1.0, "knn1_accuracy": None},
    "seconds": 12.4,
    "steps": 1200,
    "texts": 54321,
}


@pytest.fixture
def run(tmp_path: Path, tiny: str) -> Path:  # noqa: F811
    """The folder of a run."""
    folder = tmp_path / "run"
    TextEncoder(tiny, prompts={"query": "w5 "}).save(folder / "model")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(REPORT), encoding="utf-8")
    return folder


def test_a_card_says_how_it_was_trained_and_what_was_measured(run: Path, tmp_path: Path) -> None:
    export(str(run), str(tmp_path / "my model"))
    path = tmp_path / "my model" / "README.md"
    found = ModelCard.load(path)
    assert found.data.library_name == "sentence-transformers"
    assert found.data.pipeline_tag == "sentence-similarity"
    assert found.data.base_model == "org/base"
    results = {each.metric_type: each.metric_value for each in found.data.eval_results}
    assert results == {"map@r": 0.625, "mrr": 0.125, "a|b<i>": 1.0}
    assert {(each.dataset_name, each.dataset_split) for each in found.data.eval_results} == {
        ("test.parquet", "test")
    }
    text = found.text
    for line in (
        "# my model",
        "- train: a\\|b \\`\\`\\`.csv",
        "- test: test.parquet",
        "In all: 54,321 texts encoded in training steps, 1,200 steps, 12 seconds.",
        "| map@r | 0.5000 | 0.6250 | +0.1250 |",
        "| mrr | 0.2500 | 0.1250 | -0.1250 |",
        "| a\\|b&lt;i> | – | 1.0000 | – |",
        'model = SentenceTransformer("my model")',
        'vectors = model.encode_query(["a text"])',
        'vectors = encoder.encode(["a text"], role="query")',
        "lit-metric encode --model 'my model' --input items.csv --output vectors.parquet --role query",
    ):
        assert line in text.splitlines(), line
    # What a fence of three ticks would end stands in a longer one.
    settings = text.split("````yaml\n")[1].split("\n````\n")[0]
    shown = yaml.safe_load(settings)
    assert shown["data"] == {"train": "a|b ```.csv", "test": ["test.parquet"], "text": "body"}
    assert shown["model"]["init_args"]["loss"]["init_args"] == {"temperature": 0.05}
    assert "lr" not in shown["model"]["init_args"]
    assert "secret" not in text
    assert "Warning" not in text
    assert "sentence-transformers: largest difference" in text


def test_a_card_warns_where_training_made_it_worse(run: Path, tmp_path: Path) -> None:
    worse = REPORT | {"after": {"map@r": 0.4, "mrr": 0.9}}
    (run / "metrics.json").write_text(json.dumps(worse), encoding="utf-8")
    export(str(run / "model"), str(tmp_path / "out"))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    said = worse_than_before({"main_metric": "map@r", "before": {"map@r": 0.5}, "after": {"map@r": 0.4}})
    assert said is not None
    assert f"**Warning:** {said}." in text
    assert "map@r is lower after training than before (by 0.1000)" in text


def test_a_card_that_cannot_be_written_costs_nothing(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "config.yaml").write_text("model: [", encoding="utf-8")
    export(str(run), str(tmp_path / "out"))
    assert "The model card could not be written" in caplog.text
    assert hub.load(tmp_path / "out").encode(["w5"]).shape == (1, 32)
    (run / "config.yaml").write_text("- a list", encoding="utf-8")
    (run / "metrics.json").write_text('{"before": 3, "after": {"mrr": "high"}}', encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        export(str(run), str(tmp_path / "odd"))
    assert "Not measured." in (tmp_path / "odd" / "README.md").read_text(encoding="utf-8")


def test_usage_is_that_of_the_encoder(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    sets = SetEncoder(TextEncoder(tiny), AttentionPooling(heads=2))
    (tmp_path / "lit_metric_modules.py").touch()
    text = card("org/tags", tmp_path, sets, [], None)
    for line in (
        'model = SentenceTransformer("org/tags", trust_remote_code=True)',
        'vectors = model.encode(["a tag | another tag"])',
        'vectors = encoder.encode([["a tag", "another tag"]])',
        "- The order of the texts of an item has no meaning.",
    ):
        assert line in text.splitlines(), line
    assert "without the folder of its run" in text
    towers = card("x", tmp_path, TwoTowerEncoder(TextEncoder(tiny), sets), [], None)
    assert 'vectors = model.encode_document(["a tag | another tag"])' in towers
    assert "Queries: Encodes texts as vectors of 32 components by a TextEncoder" in towers


def test_where_a_run_is_found(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    assert run_of(run) == run_of(run / "model") == run_of(checkpoint) == run
    assert run_of(tmp_path) is run_of("org/name") is None


def test_a_text_means_nothing_but_itself() -> None:
    assert escaped("a\n| b\\ <script> [x](y) *z*") == r"a \| b\\ &lt;script> \[x\](y) \*z\*"
    assert fenced("a ```` b", "sh") == "`````sh\na ```` b\n`````"


def write_run(run: Path, data: dict[str, object]) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "data": data}), encoding="utf-8")


def test_examples_are_shown_on_request_without_meaning(run: Path, tmp_path: Path) -> None:
    texts = ["<script>alert(1)</script>", "a | b `c`\n# title", "long " * 100, "d", "e", "", "d"]
    rows = "".join(json.dumps({"body": text, "label": "x"}) + "\n" for text in texts)
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    write_run(run, {"train": str(tmp_path / "train.jsonl"), "text": "body"})
    export(str(run), str(tmp_path / "none"))
    assert "alert" not in (tmp_path / "none" / "README.md").read_text(encoding="utf-8")
    export(str(run), str(tmp_path / "some"), card_examples=9)
    lines = (tmp_path / "some" / "README.md").read_text(encoding="utf-8").splitlines()
    shown = lines[lines.index("Some of the training data:") + 2 :][:6]
    assert shown[0] == "- &lt;script>alert(1)&lt;/script>"
    assert shown[1] == r"- a \| b \`c\` \# title"
    assert shown[2].endswith("…")
    assert len(shown[2]) <= 202
    assert shown[3:] == ["- d", "- e", ""]
    assert examples_of(run, 2) == [texts[0], "long " * 39 + "long…"]


def test_examples_are_items_of_any_supervision(run: Path, tmp_path: Path) -> None:
    write_run(run, {"train": [{"tags": ["red", "round"], "label": "x"}, {"tags": ["blue"], "label": "y"}]})
    assert examples_of(run, 5) == ["red | round", "blue"]
    corpus = [{"id": "d1", "text": "an answer"}]
    known = {
        "class_path": "Judgements",
        "init_args": {"queries": [{"id": "q", "text": "a"}], "corpus": corpus},
    }
    write_run(run, {"train": "qrels.tsv", "supervision": known})
    assert examples_of(run, 5) == ["an answer"]
    pairs = {"class_path": "lit_metric.data.Pairs", "init_args": {"anchor": "one", "positive": "two"}}
    write_run(run, {"train": [{"one": "a", "two": "b"}], "supervision": pairs})
    assert examples_of(run, 5) == ["a"]
    write_run(run, {"train": [{"anchor": "a", "positive": "b"}]})
    assert examples_of(run, 5) == ["a"]


def test_examples_that_cannot_be_read_are_refused(run: Path, tmp_path: Path) -> None:
    write_run(run, {"train": str(tmp_path / "gone.csv")})
    with pytest.raises(DataError, match=r"gone\.csv"):
        export(str(run), str(tmp_path / "out"), card_examples=2)
    assert not (tmp_path / "out").exists()
    write_run(run, {})
    with pytest.raises(DataError, match=r"names no training data"):
        export(str(run), str(tmp_path / "out"), card_examples=2)
    with pytest.raises(DataError, match="needs the folder of the run"):
        examples_of(None, 2)
    with pytest.raises(ValueError, match="card_examples -1"):
        export(str(run), str(tmp_path / "out"), card_examples=-1)
