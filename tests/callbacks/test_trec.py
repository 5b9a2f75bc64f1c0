"""Rankings in TREC's format, and what ir-measures makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_metric import MetricDataModule, TextEncoder
from lit_metric.callbacks import WriteTrecRun
from lit_metric.callbacks.trec import _names, _rankings, write_trec
from lit_metric.evaluation import evaluate, evaluation_of
from lit_metric.loggers import RunLogger
from tests.small import Small, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def judged(small: Small) -> MetricDataModule:
    """Queries and documents with grades, after ``read``."""
    from lit_metric.data import Judgements

    folder = Path(small / "cranfield")
    known = Judgements(str(folder / "queries.parquet"), str(folder / "corpus.parquet"), folds=5)
    data = MetricDataModule(train=str(folder / "qrels.parquet"), supervision=known, cache_dir=small / "cache")
    data.read()
    return data


def lines(path: Path) -> list[list[str]]:
    return [line.split(" ") for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["labels", "judgements"])
def test_the_ranking_is_that_of_our_measures(kind: str, small: Small, tmp_path: Path) -> None:
    data = small.data() if kind == "labels" else judged(small)
    encoder = TextEncoder(small / "backbone")
    data.prepare(encoder.tokenizer)
    measured = evaluate(encoder, data, "test", evaluation_of(data, "test"))
    run, qrels = write_trec(tmp_path, encoder, data, "test")
    ranked: dict[str, list[str]] = {}
    last: dict[str, float] = {}
    for query, zero, document, rank, score, name in lines(run):
        assert (zero, name) == ("Q0", "lit-metric")
        assert query != document
        ranked.setdefault(query, []).append(document)
        assert int(rank) == len(ranked[query])
        assert np.float32(score) < last.get(query, np.inf)
        last[query] = float(np.float32(score))
    grades: dict[str, dict[str, int]] = {}
    for query, _, document, grade in lines(qrels):
        grades.setdefault(query, {})[document] = int(grade)
    # By hand: hit rate and mean reciprocal rank, over the queries with a relevant document.
    first = []
    for query, known in grades.items():
        found = [place for place, name in enumerate(ranked[query], 1) if known.get(name, 0) > 0]
        first.append(found[0])
    assert np.mean([rank == 1 for rank in first]) == pytest.approx(measured["hit_rate@1"])
    assert np.mean([1 / rank for rank in first]) == pytest.approx(measured["mrr"], abs=1e-6)
    if kind == "judgements":
        assert {*grades} <= {*map(str, (data.items.keys or []))} or all(key.isdigit() for key in grades)
        measures = pytest.importorskip("ir_measures")
        asked = {"ndcg@10": measures.nDCG @ 10, "recall@10": measures.R @ 10, "map@10": None}
        asked["map@10"] = measures.AP @ 10
        asked["mrr"] = measures.RR
        theirs = measures.calc_aggregate(
            asked.values(),
            [*measures.read_trec_qrels(str(qrels))],
            [*measures.read_trec_run(str(run))],
        )
        for name, measure in asked.items():
            assert theirs[measure] == pytest.approx(measured[name], abs=1e-6), name


def test_ties_and_names() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.5, 1.0]])
    corpus = torch.tensor([3, 4, 5, 7])
    names = {3: "a", 4: "b", 5: "c", 7: "d"}
    found = [line.split() for line in _rankings(scores, torch.tensor([7]), corpus, names, 2)]
    assert [(line[0], line[2], line[3]) for line in found] == [("d", "a", "1"), ("d", "b", "2")]
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert [np.float32(line[4]) for line in found] == [np.float32(0.5), below]
    assert _names(["x", "y", "x y"], torch.tensor([0, 1])) == {0: "x", 1: "y"}
    assert _names(["x", "y", "x y"], torch.tensor([0, 2])) == {0: "0", 2: "2"}
    assert _names(["x", "x"], torch.tensor([0, 1])) == {0: "0", 1: "1"}
    for options, message in (({"depth": 0}, "at least one"), ({"name": "a b"}, "no blanks")):
        with pytest.raises(ValueError, match=message):
            WriteTrecRun(**options)  # type: ignore[arg-type]


def test_the_callback_writes_after_a_test(small: Small, tmp_path: Path) -> None:
    logger = RunLogger("one", str(tmp_path))
    fit = trainer(tmp_path, WriteTrecRun(depth=3), logger=logger)
    fit.test(small.learner(), small.data(), verbose=False)
    assert len(lines(tmp_path / "one" / "test.run")) == 3 * 30
    fit.validate(small.learner(), small.data(), verbose=False)
    assert (tmp_path / "one" / "validation.qrels").exists()
