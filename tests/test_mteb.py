"""A trained encoder as a model of mteb, on a task of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_metric import MetricDataModule, SetEncoder, TextEncoder
from lit_metric.data import Judgements, read_table
from lit_metric.evaluation import evaluate, evaluation_of
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def local_task(mteb: Any, folder: Path) -> Any:
    """The judgements in a folder as a retrieval task."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    def texts(name: str) -> Any:
        table = read_table(str(folder / f"{name}.parquet"))
        columns = {column: table.column(column) for column in table.columns}
        parts = zip(*(values for column, values in columns.items() if column != "id"), strict=True)
        whole = [" ".join(filter(None, row)) for row in parts]
        return Dataset.from_dict({"id": columns["id"], "text": whole})

    qrels = read_table(str(folder / "qrels.parquet"))
    relevant: dict[str, dict[str, int]] = {}
    rows = zip(*(qrels.column(name) for name in ("query", "document", "relevance")), strict=True)
    for query, document, grade in rows:
        relevant.setdefault(query, {})[document] = grade

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Local",
            description="A task on this machine",
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            dataset={"path": "local", "revision": "1"},
        )

        def load_data(self, *given: Any, **options: Any) -> None:
            split = {"corpus": texts("corpus"), "queries": texts("queries"), "relevant_docs": relevant}
            self.dataset = {"default": {"test": {**split, "top_ranked": None}}}
            self.data_loaded = True

    return Local()


def test_mteb_measures_what_we_measure(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    mteb = pytest.importorskip("mteb")
    from mteb.models.models_protocols import EncoderProtocol

    from lit_metric.mteb import MTEBEncoder

    folder = Path(small / "cranfield")
    encoder = TextEncoder(small / "backbone", prompts={"query": "w40 "})
    encoder.save(tmp_path / "model")
    model = MTEBEncoder(tmp_path / "model")
    assert isinstance(model, EncoderProtocol)
    assert model.mteb_model_meta.name == "lit-metric/model"
    results = mteb.evaluate(model, local_task(mteb, folder), cache=None)
    [scores] = results.task_results[0].scores["test"]
    known = Judgements(str(folder / "queries.parquet"), str(folder / "corpus.parquet"))
    data = MetricDataModule(test=str(folder / "qrels.parquet"), supervision=known, cache_dir=small / "cache")
    data.prepare(encoder.tokenizer)
    ours = evaluate(encoder, data, "test", evaluation_of(data, "test"))
    assert scores["ndcg_at_10"] == pytest.approx(ours["ndcg@10"], abs=1e-4)
    assert scores["recall_at_10"] == pytest.approx(ours["recall@10"], abs=1e-4)


def test_similarities_and_refusals(small: Small) -> None:
    pytest.importorskip("mteb")
    from lit_metric.mteb import MTEBEncoder

    encoder = TextEncoder(small / "backbone")
    model = MTEBEncoder(encoder, name="me/mine")
    batches = [{"text": ["w5", "w6"]}, {"text": ["w7"]}]
    vectors = model.encode(batches, prompt_type="query")
    np.testing.assert_array_equal(vectors, encoder.encode(["w5", "w6", "w7"]))
    np.testing.assert_allclose(model.similarity(vectors, vectors), vectors @ vectors.T, atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(vectors, vectors), np.ones(3), atol=1e-6)
    with pytest.raises(TypeError, match="single strings"):
        MTEBEncoder(SetEncoder(encoder))
