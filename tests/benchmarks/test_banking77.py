"""The comparison with sentence-transformers: its data, its measure, its order, what it keeps."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.neighbors import KNeighborsClassifier

from benchmarks import banking77, peer
from benchmarks.banking77 import Comparison, evaluate, files, summary
from benchmarks.results import BenchmarkError, Finished, write_json
from tests.small import questions


def write(path: Path, count: int, seed: int) -> list[tuple[str, str]]:
    rows = questions(count, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path
    )
    return rows


def test_the_data_come_from_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIT_METRIC_DATA", raising=False)
    with pytest.raises(BenchmarkError, match=r"set LIT_METRIC_DATA to a folder .* banking77/train\.parquet"):
        files("test", tmp_path)
    with pytest.raises(SystemExit, match=r"benchmarks\.banking77: set LIT_METRIC_DATA"):
        banking77.main(["--out", str(tmp_path)])
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    write(tmp_path / "banking77" / "train.parquet", 60, 0)
    with pytest.raises(BenchmarkError, match=r"there is no .*banking77/test\.parquet"):
        files("test", tmp_path)
    write(tmp_path / "banking77" / "test.parquet", 30, 1)
    assert files("test", tmp_path) == (
        tmp_path / "banking77" / "train.parquet",
        tmp_path / "banking77" / "test.parquet",
    )


def test_settings_are_chosen_on_training_texts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    rows = write(tmp_path / "banking77" / "train.parquet", 400, 0)
    write(tmp_path / "banking77" / "test.parquet", 30, 1)
    train, held = (pq.read_table(path).to_pylist() for path in files("validation", tmp_path / "out"))
    assert sorted((row["text"], row["label"]) for row in train + held) == sorted(rows)
    assert 20 < len(held) < 60
    assert {int(hashlib.sha256(row["text"].encode()).hexdigest(), 16) % 10 for row in held} == {0}
    assert {row["text"] for row in held}.isdisjoint(row["text"] for row in train)


def test_both_sides_are_measured_like_this(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.parquet", 80, 0), write(tmp_path / "test.parquet", 50, 1)

    def encode(texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(sum(map(ord, text)) * len(set(text))).normal(size=8) for text in texts]
        vectors = np.stack(rows) + np.array([[text.count("w4")] * 8 for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    corpus, queries = encode([text for text, _ in train]), encode([text for text, _ in test])
    labels, truth = [label for _, label in train], np.array([label for _, label in test])
    nearest = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(corpus, labels)
    precisions, hits = [], []
    for row, own in enumerate(truth):  # MAP@R and hit_rate@1 by their definitions
        order = [place for place in np.argsort(-(queries @ queries[row]), kind="stable") if place != row]
        relevant = [truth[place] == own for place in order]
        total = sum(relevant)
        ranked = [sum(relevant[: k + 1]) / (k + 1) for k in range(total) if relevant[k]]
        precisions.append(sum(ranked) / total)
        hits.append(relevant[0])
    assert evaluate(encode, tmp_path / "train.parquet", tmp_path / "test.parquet") == {
        "knn1_accuracy": pytest.approx((nearest.predict(queries) == truth).mean()),
        "map@r": pytest.approx(np.mean(precisions)),
        "hit_rate@1": pytest.approx(np.mean(hits)),
    }


@pytest.fixture
def comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Comparison, list[list[str]]]:
    """A comparison whose fits are made up, and the list of those that were run."""
    started: list[list[str]] = []

    def fit(config: str, folder: Path, *options: Any, log: Path) -> tuple[dict[str, Any], Finished]:
        started.append(["ours", *map(str, options)])
        (folder / "checkpoints").mkdir(parents=True)
        metrics = {
            "seconds": 100.0,
            "texts_per_second": 90.0,
            "steps": 9,
            "texts": 9000,
            "after": {"map@r": 0.7},
        }
        return metrics, Finished(120.0, 1500.0)

    def run(command: list[Any], log: Path) -> Finished:
        words = [str(word) for word in command]
        started.append(words[words.index("--output") + 2 :])
        folder = Path(words[words.index("--output") + 1])
        write_json(
            folder / "fit.json", {"seconds": 50.0, "steps": 20, "texts": 2560, "texts_per_second": 51.2}
        )
        return Finished(60.0, 2500.0)

    scores = {"knn1_accuracy": 0.9, "map@r": 0.6, "hit_rate@1": 0.8}
    monkeypatch.setattr(banking77, "fit", fit)
    monkeypatch.setattr(banking77, "run", run)
    monkeypatch.setattr(banking77, "evaluate", lambda encode, train, test: scores)
    monkeypatch.setattr("lit_metric.load", lambda folder: type("Encoder", (), {"encode": None}))
    monkeypatch.setattr("sentence_transformers.SentenceTransformer", lambda *_, **__: None)
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", 12, 0)
    options = ["--model.lr", "1e-4"]
    ranking = {"lr": 1e-4, "warmup": 0.1}
    files = tmp_path / "train.parquet", tmp_path / "test.parquet"
    return Comparison(tmp_path / "out", *files, options, 20, ranking), started


def test_contenders_take_turns_and_the_other_recipe_gets_our_time(
    comparison: tuple[Comparison, list[list[str]]], tmp_path: Path
) -> None:
    compared, started = comparison
    results = compared.turns(2)
    expected = []
    for seed in ("0", "1"):
        data = [
            "--data.train",
            str(tmp_path / "train.parquet"),
            "--data.test",
            str(tmp_path / "test.parquet"),
        ]
        expected += [
            ["ours", *data, "--seed_everything", seed, "--model.lr", "1e-4"],
            ["--recipe=batch-hard", "--steps=20", "--lr=5e-05", f"--seed={seed}"],
            # 100 s of ours are twice the 50 s that the peer took for 20 steps.
            ["--recipe=ranking", "--steps=40", "--lr=0.0001", "--warmup=0.1", f"--seed={seed}"],
        ]
    assert started == expected
    assert {name: len(runs) for name, runs in results.items()} == {"ours": 2, "peer": 2, "peer_ranking": 2}
    assert results["ours"][1]["reported"] == {"map@r": 0.7}
    assert not (tmp_path / "out" / "ours-seed-0" / "checkpoints").exists()

    (tmp_path / "out" / "peer-seed-1.json").unlink()
    assert compared.turns(2) == results
    assert started == [*expected, expected[4]]


def test_ratios_are_ours_over_the_peers(comparison: tuple[Comparison, list[list[str]]]) -> None:
    results = comparison[0].turns(2)
    results["peer"][1] = {**results["peer"][1], "map@r": 0.5, "seconds": 70.0}
    frozen = {"knn1_accuracy": 0.7, "map@r": 0.4, "hit_rate@1": 0.5, "settings": {}}
    content = summary(results, frozen)
    assert content["peer"]["map@r"].mean == pytest.approx(0.55)
    assert content["ratio"]["map@r"] == pytest.approx(0.6 / 0.55)
    assert content["ratio"]["seconds"] == pytest.approx(100 / 60)
    assert content["ratio"]["texts_per_second"] == pytest.approx(90 / 51.2)
    assert content["ratio_ranking"]["peak_memory"] == pytest.approx(1500 / 2500)
    assert content["frozen"] == {"knn1_accuracy": 0.7, "map@r": 0.4, "hit_rate@1": 0.5}


def test_the_command_writes_what_it_shows(
    comparison: tuple[Comparison, list[list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    for name in ("train", "test"):
        write(tmp_path / "banking77" / f"{name}.parquet", 12, 0)
    plots: list[Any] = []
    monkeypatch.setattr(banking77, "plot", lambda *given: plots.append(given))
    monkeypatch.setattr(
        Comparison, "frozen", lambda self: {"knn1_accuracy": 0.7, "map@r": 0.4, "hit_rate@1": 0.5}
    )
    monkeypatch.setattr(
        "benchmarks.throughput.training", lambda *_, **__: {"lit-metric": banking77.spread([80, 82])}
    )
    monkeypatch.setattr(
        "benchmarks.throughput.encoding", lambda *_: {"lit-metric": banking77.spread([300, 310])}
    )
    monkeypatch.setattr(peer, "read", lambda path: (["a"], ["b"]))
    banking77.main(["--out", str(tmp_path / "out"), "--seeds", "1", "--steps", "20", "--model.lr", "2e-4"])
    content = json.loads((tmp_path / "out" / "banking77.json").read_text())
    assert content["ours"]["map@r"]["values"] == [0.6]
    assert content["ratio"]["seconds"] == 2.0
    assert content["throughput"]["encoding"]["lit-metric"]["mean"] == 305.0
    assert content["settings"]["options"] == ["--model.lr", "2e-4"]
    assert set(plots[0][2]) == {"knn1_accuracy", "map@r"}
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "by map@r, sentence-transformers, batch-hard is first" in out
        or "by map@r, lit-metric is first" in out
    )
    assert "81.0 ± 1.4 *" in out
    banking77.main(["--out", str(tmp_path / "alone"), "--speed"])
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["throughput.json"]
    assert "81.0 ± 1.4 *" in " ".join(capsys.readouterr().out.split())


def test_pairs_are_of_one_class_and_batches_of_different_ones() -> None:
    labels = [label for _, label in questions(50, 0)]
    first, second = peer.pairs(labels, classes=4, steps=30, seed=3)
    assert len(first) == len(second) == 120
    for start in range(0, 120, 4):
        batch = list(zip(first[start : start + 4], second[start : start + 4], strict=True))
        assert all(labels[one] == labels[other] and one != other for one, other in batch)
        assert len({labels[one] for one, _ in batch}) == 4
    assert set(first) | set(second) == set(range(50))
    assert peer.pairs(labels, 4, 30, 3) == (first, second)
    assert peer.pairs(labels, 4, 30, 4) != (first, second)


@pytest.mark.filterwarnings("ignore")
def test_the_peers_batches_are_those_that_were_drawn() -> None:
    rows = questions(50, 0)
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    model = type("Model", (), {})()
    data, loss, sampler, count = peer.ready("ranking", model, texts, labels, batch_size=8, steps=5, seed=0)
    first, second = peer.pairs(labels, 4, 5, 0)
    assert count == 4
    assert type(loss).__name__ == "MultipleNegativesRankingLoss"
    assert list(sampler(data, batch_size=4, drop_last=True, seed=1)) == [
        list(range(start, start + 4)) for start in range(0, 20, 4)
    ]
    assert data["anchor"][:] == [texts[place] for place in first]
    assert data["positive"][:] == [texts[place] for place in second]
    data, loss, sampler, count = peer.ready("batch-hard", model, texts, labels, batch_size=8, steps=5, seed=0)
    assert (sampler, count, type(loss).__name__) == ("group_by_label", 8, "BatchHardSoftMarginTripletLoss")
    assert [sorted(set(labels))[number] for number in data["label"][:]] == labels
    with pytest.raises(ValueError, match="recipe is 'softmax'; choose one of batch-hard, batch-all, ranking"):
        peer.ready("softmax", model, texts, labels, 8, 5, 0)


def test_the_peers_trainer_needs_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name)
    )
    path = tmp_path / "train.parquet"
    write(path, 12, 0)
    arguments = ["--train", str(path), "--recipe", "ranking", "--steps", "1", "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match="pip install accelerate"):
        peer.main(arguments)
