"""Which metrics matter for which kind of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_metric import MetricDataModule
from lit_metric.batching import MixturePart
from lit_metric.data import Judgements, Labels, Pairs, Supervision, Triples
from lit_metric.evaluation import evaluate, evaluation_of
from tests.small import Small, write_csv


def judged(small: Small, folder: Path, grades: tuple[int, int]) -> tuple[str, Supervision]:
    rows = [(f"q{row}", f"d{(row + step) % 60}", str(grades[step])) for row in range(60) for step in (0, 1)]
    path = write_csv(folder / "judged.csv", rows, ("query", "document", "relevance"))
    return path, Judgements(small / "cranfield/queries.parquet", small / "cranfield/corpus.parquet")


def kinds(small: Small, folder: Path) -> dict[str, tuple[str, Supervision | None]]:
    entities = write_csv(folder / "entities.csv", [(f"e{n}", f"w{n}") for n in range(4, 30)], ("id", "text"))
    facts = [(f"e{n}", "near", f"e{n + step}") for n in range(4, 20) for step in (1, 2)]
    return {
        "map@r": (small / "train.csv", None),
        "mrr": (small / "pairs/pairs.parquet", Pairs("words", "definition")),
        "spearman": (small / "similarity/similarity.parquet", None),
        "tot": (small / "sugarcrepe/triplets.parquet", Pairs("caption", "caption2", "negative")),
        "filtered_mrr": (
            write_csv(folder / "facts.csv", facts, ("head", "relation", "tail")),
            Triples(entities),
        ),
        "ndcg@10": (small / "movies/movies.parquet", Labels(tags="cast", labels="genres")),
    }


@pytest.mark.parametrize("main", ["map@r", "mrr", "spearman", "tot", "filtered_mrr", "ndcg@10"])
def test_the_main_metric_is_measured(small: Small, tmp_path: Path, main: str) -> None:
    source, supervision = kinds(small, tmp_path)[main]
    data = MetricDataModule(train=source, supervision=supervision, validation_share=0.3)
    data.cache_dir = small / "cache"
    data.read()
    assert data.main_metric == data.headline_metrics[0] == main
    assert len(data.headline_metrics) <= 5
    encoder = small.learner().encoder
    if main == "ndcg@10":
        return  # sets need another encoder
    data.prepare(encoder.tokenizer)
    results = evaluate(encoder, data, "validation", evaluation_of(data, "validation"))
    assert 0 < abs(results[main]) <= 1
    assert {*data.headline_metrics} <= {*results}


@pytest.mark.parametrize(("grades", "main"), [((1, 1), "mrr"), ((1, 0), "mrr"), ((2, 1), "ndcg@10")])
def test_grades_matter_where_they_differ(
    small: Small, tmp_path: Path, grades: tuple[int, int], main: str
) -> None:
    source, supervision = judged(small, tmp_path, grades)
    data = MetricDataModule(train=source, supervision=supervision)
    data.read()
    assert data.main_metric == main


@pytest.mark.parametrize(("scores", "there"), [(("0", "1"), True), (("0", "0.5", "1"), False)])
def test_average_precision_of_pairs_needs_two_scores(
    small: Small, tmp_path: Path, scores: tuple[str, ...], there: bool
) -> None:
    rows = [(f"w4 w{n}", f"w5 w{n}", scores[n % len(scores)]) for n in range(6, 36)]
    source = write_csv(tmp_path / "scored.csv", rows, ("sentence1", "sentence2", "score"))
    data = MetricDataModule(train=source, validation=source)
    data.read()
    assert ("pair_ap" in data.headline_metrics) == there


@pytest.mark.parametrize("name", ["intents", "intents.v2", "values"])
def test_a_mixture_has_the_mean_of_the_main_metrics(small: Small, tmp_path: Path, name: str) -> None:
    sets: dict[str, Any] = {
        name: MixturePart(small / "train.csv"),
        "pairs": MixturePart(small / "pairs/pairs.parquet", supervision=Pairs("words", "definition")),
    }
    data = MetricDataModule(mixture=sets, validation_share=0.3, cache_dir=small / "cache")
    data.read()
    assert data.main_metric == "mean"
    assert data.headline_metrics == ["mean", f"{name}/map@r", "pairs/mrr"]
    encoder = small.learner().encoder
    data.prepare(encoder.tokenizer)
    results = evaluate(encoder, data, "validation", evaluation_of(data, "validation"))
    assert results["mean"] == pytest.approx((results[f"{name}/map@r"] + results["pairs/mrr"]) / 2)


def test_scores_of_training_pairs_decide_nothing_for_a_test_split_without_scores(small: Small) -> None:
    data = MetricDataModule(
        train=[{"text1": f"w{n}", "text2": f"w{n} w4", "score": n % 3} for n in range(6, 36)],
        test=[{"text1": f"w{n} w5", "text2": f"w{n}"} for n in range(6, 12)],
        validation_share=0.2,
    )
    data.read()
    assert data.headlines("validation")[0] == "spearman"
    assert data.headlines("test")[0] == "mrr"
