"""``lit-metric mine``: the negatives are those of a full sort, and other trainers read the files."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset, load_dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses

from lit_metric import SetEncoder, TextEncoder
from lit_metric.hub import export
from tests.end_to_end.command import run
from tests.small import Small, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = ["--filters", "[]", "--draw", "TopK"]


@pytest.fixture(scope="module")
def model(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, str]:
    """An encoder of texts, and where it is saved."""
    folder = tmp_path_factory.mktemp("model")
    encoder = TextEncoder(small / "backbone", dropout=0.0)
    encoder.save(folder)
    return encoder, str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_METRIC_CACHE", str(tmp_path_factory.mktemp("cache")))


def mine(folder: Path, model: str, *options: Any) -> None:
    run(folder, "mine", "--model", model, *map(str, options))


def unit(encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
    vectors = encoder.encode(list(texts)).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def labelled(small: Small) -> tuple[list[str], list[str]]:
    with open(small / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def test_negatives_of_labelled_items_are_the_nearest_of_other_labels(
    small: Small, tmp_path: Path, model: tuple[TextEncoder, str]
) -> None:
    texts, labels = labelled(small)
    assert len(set(texts)) == len(texts)
    mine(
        tmp_path,
        model[1],
        "--data.train",
        small / "train.csv",
        *PLAIN,
        "--negatives",
        3,
        "--output",
        "a.parquet",
    )
    vectors = unit(model[0], texts)
    similar = vectors @ vectors.T
    expected = []
    for row, label in enumerate(labels):
        others = [other for other in np.argsort(-similar[row]) if labels[other] != label]
        expected.append([texts[other] for other in others[:3]])
    rows = table(tmp_path / "a.parquet")
    assert list(rows[0]) == ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    assert [row["anchor"] for row in rows] == texts
    assert [[row[f"negative_{n}"] for n in (1, 2, 3)] for row in rows] == expected
    own = dict(zip(texts, labels, strict=True))
    assert all(own[row["positive"]] == own[row["anchor"]] != "" for row in rows)
    assert all(row["positive"] != row["anchor"] for row in rows)
    assert len({row["positive"] for row in rows}) > 20  # drawn, not always the first of the class
    details = table(tmp_path / "a.details.parquet")
    assert [row["id"] for row in details] == [str(number) for number in range(72)]
    for number, row in enumerate(details):
        places = [int(each["id"]) for each in row["negatives"]]
        assert [texts[place] for place in places] == expected[number]
        scores = [each["score"] for each in [*row["negatives"], *row["positives"]]]
        places += [int(row["positives"][0]["id"])]
        np.testing.assert_allclose(scores, similar[number][places], atol=1e-5)
        positives = [similar[number][o] for o in range(72) if labels[o] == labels[number] and o != number]
        assert row["best_positive"] == pytest.approx(max(positives), abs=2e-3)
        assert row["mean_positive"] == pytest.approx(np.mean(positives), abs=2e-3)


def test_what_each_filter_dropped_is_listed(
    small: Small, tmp_path: Path, model: tuple[TextEncoder, str]
) -> None:
    texts, labels = labelled(small)
    how = [
        *["--filters+=AbsoluteMargin", "--filters.margin=0.0", "--filters.positive_score=mean"],
        *["--filters+=MaxScore", "--filters.max_score=0.99"],
        "--top_k",
        9,
    ]
    mine(
        tmp_path, model[1], "--data.train", small / "train.csv", *how, "--explain", 5, "--output", "a.parquet"
    )
    details = table(tmp_path / "a.details.parquet")
    explained = [row for row in details if row["dropped"] is not None]
    assert len(explained) == 5
    vectors = unit(model[0], texts)
    seen = set()
    for row in explained:
        anchor = int(row["id"])
        similar = vectors @ vectors[anchor]
        mean = np.mean([similar[o] for o in range(72) if labels[o] == labels[anchor] and o != anchor])
        for each in row["dropped"]:
            place = int(each["id"])
            assert each["text"] == texts[place]
            assert each["score"] == pytest.approx(similar[place], abs=1e-4)
            if place == anchor:
                expected = "RelationFilter: itself"
            elif labels[place] == labels[anchor]:
                expected = "RelationFilter: positive"
            else:
                expected = "AbsoluteMargin" if similar[place] >= mean else "MaxScore"
            assert each["filter"] == expected
            seen.add(expected)
        for each in row["negatives"]:
            assert similar[int(each["id"])] < min(mean, 0.99)
    assert {"RelationFilter: itself", "RelationFilter: positive", "AbsoluteMargin"} <= seen
    about = json.loads(pq.read_schema(tmp_path / "a.details.parquet").metadata[b"lit_metric"])
    assert [each["class_path"].rpartition(".")[2] for each in about["miner"]["init_args"]["filters"]] == [
        "AbsoluteMargin",
        "MaxScore",
    ]
    assert about["report"]["rejected/AbsoluteMargin"] > 0


def test_pairs_give_json_lines_with_all_their_positives(
    small: Small, tmp_path: Path, model: tuple[TextEncoder, str]
) -> None:
    pairs = [("w5 w6", "w30 w31"), ("w5 w6", "w32"), ("w9", "w33 w34"), ("w12 w13", "w35"), ("w9", "w36")]
    source = write_csv(tmp_path / "pairs.csv", pairs, ["question", "answer"])
    columns = ["--data.supervision", "lit_metric.data.Pairs", "--data.supervision.anchor", "question"]
    columns += ["--data.supervision.positive", "answer"]
    mine(
        tmp_path, model[1], "--data.train", source, *columns, *PLAIN, "--negatives", 4, "--output", "a.jsonl"
    )
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    found = {line["query"]: line for line in lines}
    assert set(found) == {"w5 w6", "w9", "w12 w13"}
    documents = [answer for _, answer in pairs]
    for query, line in found.items():
        own = [answer for question, answer in pairs if question == query]
        assert sorted(line["pos"]) == sorted(own)
        similar = unit(model[0], documents) @ unit(model[0], [query])[0]
        others = [place for place in np.argsort(-similar) if documents[place] not in own]
        assert line["neg"] == [documents[place] for place in others[:4]]
        np.testing.assert_allclose(line["neg_scores"], similar[others[:4]], atol=1e-5)
        scores = [similar[documents.index(text)] for text in line["pos"]]
        np.testing.assert_allclose(line["pos_scores"], scores, atol=1e-5)
    # As FlagEmbedding reads it: the JSON reader of datasets, one of pos and some of neg for each query.
    data = load_dataset("json", data_files=str(tmp_path / "a.jsonl"), split="train", cache_dir=str(tmp_path))
    for row in data:
        passages = [random.choice(row["pos"]), *random.sample(row["neg"], 2)]
        assert all(isinstance(text, str) and text for text in [row["query"], *passages])


def test_judgements_give_documents_that_nobody_judged_relevant(
    small: Small, tmp_path: Path, model: tuple[TextEncoder, str]
) -> None:
    folder = Path(small / "cranfield")
    config = {
        "seed_everything": 4,
        "model": {"class_path": "not.looked.at"},
        "data": {
            "class_path": "lit_metric.MetricDataModule",
            "init_args": {
                "train": str(folder / "qrels.parquet"),
                "cache_dir": str(tmp_path / "cache"),
                "supervision": {
                    "class_path": "lit_metric.data.Judgements",
                    "init_args": {
                        "queries": str(folder / "queries.parquet"),
                        "corpus": str(folder / "corpus.parquet"),
                        "query_id": "query",
                        "document_id": "document",
                        "relevance": "relevance",
                        "text": "text",
                        "folds": 5,
                    },
                },
            },
        },
    }
    # The draw is that of the option, the rest of the miner that of the run.
    miner = {"negatives": 2, "filters": [], "draw": {"class_path": "lit_metric.mining.UniformWindow"}}
    config["data"]["init_args"]["miner"] = {"class_path": "lit_metric.Miner", "init_args": miner}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    how = ["--run", "run.yaml", "--data.bad_rows", "skip", "--draw", "TopK", "--output", "a.parquet"]
    mine(tmp_path, model[1], *how)
    rows = table(tmp_path / "a.parquet")
    queries, corpus = table(folder / "queries.parquet"), table(folder / "corpus.parquet")
    relevant: dict[str, set[str]] = {}
    name = {row["id"]: row["text"] for row in [*queries, *corpus]}
    for row in table(folder / "qrels.parquet"):
        relevant.setdefault(name[row["query"]], set()).add(name[row["document"]])
    documents = [row["text"] for row in corpus]
    vectors = unit(model[0], documents)
    assert 0 < len({row["anchor"] for row in rows}) < 60  # the fold that trains, as in the run
    assert len(rows) == sum(len(relevant[anchor]) for anchor in {row["anchor"] for row in rows})
    for row in rows:
        assert row["positive"] in relevant[row["anchor"]]
        order = np.argsort(-(vectors @ unit(model[0], [row["anchor"]])[0]))
        others = [documents[at] for at in order if documents[at] not in relevant[row["anchor"]]]
        assert [row["negative_1"], row["negative_2"]] == others[:2]
    ids = {each["id"] for row in table(tmp_path / "a.details.parquet") for each in row["negatives"]}
    assert ids <= {row["id"] for row in corpus}


def test_sentence_transformers_trains_on_the_file(
    small: Small, tmp_path: Path, model: tuple[TextEncoder, str]
) -> None:
    how = ["--negatives", 2, "--positives", 3, *PLAIN, "--output", "a.parquet"]
    mine(tmp_path, model[1], "--data.train", small / "train.csv", *how)
    data = Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert len(data) == 3 * 72
    export(model[0], tmp_path / "peer")
    peer = SentenceTransformer(str(tmp_path / "peer"), device="cpu")
    torch.manual_seed(0)
    loss = losses.MultipleNegativesRankingLoss(peer)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=2e-3)

    def told_apart() -> float:
        vectors = {name: peer.encode(data[name], normalize_embeddings=True) for name in data.column_names}
        near = (vectors["anchor"] * vectors["positive"]).sum(1)
        far = [(vectors["anchor"] * vectors[f"negative_{n}"]).sum(1) for n in (1, 2)]
        return float(np.mean(near[None] > np.stack(far)))

    # What its trainer does with columns, in the order of the file; the trainer itself needs accelerate.
    before = told_apart()
    for epoch in range(4):
        for batch in data.shuffle(seed=epoch).iter(batch_size=24):
            value = loss([peer.preprocess(batch[column]) for column in data.column_names], None)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    assert before < 0.3  # they were the nearest
    assert told_apart() > 0.7
    pytest.importorskip("accelerate")
    import sentence_transformers

    arguments = sentence_transformers.SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), max_steps=2, use_cpu=True, report_to="none", save_strategy="no"
    )
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model=peer, args=arguments, train_dataset=data, loss=loss
    )
    trainer.train()
    assert trainer.state.global_step == 2


def test_the_same_seed_gives_the_same_file(
    small: Small, tmp_path: Path, model: tuple[TextEncoder, str]
) -> None:
    how = ["--data.train", small / "train.csv", "--negatives", 2, "--output"]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        mine(tmp_path, model[1], *how, f"{name}.parquet", "--data.seed", seed)
    first, again, other = (table(tmp_path / f"{name}.parquet") for name in "abc")
    assert first == again != other


def test_anchors_with_too_few_negatives_are_left_out_and_counted(
    small: Small, tmp_path: Path, model: tuple[TextEncoder, str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("w5 w6", "a"), ("w6 w7", "a"), ("w9 w8", "b"), ("w9 w10", "b"), ("w9 w11", "b")]
    source = write_csv(tmp_path / "in.csv", rows)
    how = ["--data.train", source, *PLAIN, "--negatives", 3, "--output"]
    with caplog.at_level("INFO"):
        mine(tmp_path, model[1], *how, "a.parquet")
    # Of a there are three others, of b only two.
    assert [row["anchor"] for row in table(tmp_path / "a.parquet")] == ["w5 w6", "w6 w7"]
    assert "3 of 5 anchors found fewer than 3 negatives and are left out" in caplog.text
    mine(tmp_path, model[1], *how, "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [len(line["neg"]) for line in lines] == [3, 3, 2, 2, 2]


def test_bad_rows_that_are_skipped_are_listed(
    small: Small, tmp_path: Path, model: tuple[TextEncoder, str]
) -> None:
    rows = [("w5 w6", "a"), ("w6 w7", "a"), ("", "b"), ("w9 w10", "b"), ("w9 w11", "b"), ("w8 w7", "a")]
    source = write_csv(tmp_path / "in.csv", rows)
    mine(
        tmp_path,
        model[1],
        "--data.train",
        source,
        *PLAIN,
        "--data.bad_rows",
        "skip",
        "--output",
        "new/a.parquet",
    )
    assert [row["row"] for row in table(tmp_path / "new" / "rejected.parquet")] == [3]
    assert len(table(tmp_path / "new" / "a.parquet")) == 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--output a.csv", "--output a.csv: the name must end in .parquet or .jsonl"),
        ("--output a.parquet --positives 0", "--positives 0: at least 1 is needed"),
        ("--output a.parquet --filters+=Nonsense", "there is no class 'Nonsense'"),
        ("--output a.parquet --filters+=TopK", "TopK"),
        ("--output a.parquet --draw UniformWindow --draw.begin 3", "has no option 'begin'; nearest are"),
        ("--output a.parquet --splits [dev]", "there is no dev split; there is train, validation"),
        (
            "--output a.parquet --data.txt text",
            "MetricDataModule has no option 'txt'; nearest are 'text', 'test'",
        ),
        ("--output a.parquet --top_k 0", "--top_k 0 must be at least 1"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(
    small: Small,
    tmp_path: Path,
    model: tuple[TextEncoder, str],
    capsys: pytest.CaptureFixture[str],
    options: str,
    expected: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        mine(tmp_path, model[1], "--data.train", small / "train.csv", *options.split())
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-metric: ")]
    assert expected in line
    assert not list(tmp_path.iterdir())


def test_items_of_another_kind_are_refused(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SetEncoder(TextEncoder(small / "backbone")).save(tmp_path / "sets")
    with pytest.raises(SystemExit):
        mine(tmp_path, str(tmp_path / "sets"), "--data.train", small / "train.csv", "--output", "a.parquet")
    assert "the data has items of kind 'text', but this model encodes 'set'" in capsys.readouterr().err


def test_items_of_several_texts_are_joined(small: Small, tmp_path: Path) -> None:
    SetEncoder(TextEncoder(small / "backbone")).save(tmp_path / "sets")
    how = [
        "--data.train",
        small / "train.parquet",
        "--data.label",
        "section",
        *PLAIN,
        "--output",
        "a.parquet",
    ]
    mine(tmp_path, str(tmp_path / "sets"), *how)
    tags = [", ".join(dict.fromkeys(row["tags"])) for row in table(Path(small / "train.parquet"))]
    rows = table(tmp_path / "a.parquet")
    assert [row["anchor"] for row in rows] == tags
    assert {row["negative_1"] for row in rows} <= set(tags)
