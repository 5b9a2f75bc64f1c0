"""Embeddings of ``lit-metric predict`` in the order of the rows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_metric import MetricDataModule, MetricLearner, SetEncoder, TextEncoder
from lit_metric.batching import MixturePart
from lit_metric.callbacks import WriteEmbeddings
from lit_metric.data import Batch, Pairs, read_table
from lit_metric.data.shards import Shards
from lit_metric.encoders import AttentionPooling
from lit_metric.losses import InfoNCELoss
from tests.small import Small, questions, trainer, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


def test_rows_stand_as_in_the_file(small: Small, tmp_path: Path) -> None:
    rows = [(text,) for text, _ in questions(40, seed=3)]
    rows[3], rows[7] = ("w5",), ("w6 " * 30,)  # of unequal length, so batches take them out of order
    source = write_csv(tmp_path / "new.csv", rows, ["text"])
    learner = small.learner(dropout=0.5)
    predicted = trainer(tmp_path).predict(learner, small.data(predict=source, max_tokens=60))
    assert predicted is not None
    assert len(predicted) > 3
    vectors = np.load(tmp_path / "predictions.npy", allow_pickle=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, learner.encode([text for (text,) in rows]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("split", ["test", "train", "validation"])
def test_what_is_encoded_when_nothing_is_named(small: Small, tmp_path: Path, split: str) -> None:
    learner = small.learner()
    data = MetricDataModule(**{split: small / "test.csv"}, validation_share=0.4, cache_dir=small / "cache")
    trainer(tmp_path).predict(learner, data)
    texts = [data.texts_of(item)[0] for item in data.splits[split].tolist()]
    expected = learner.encode(texts)
    np.testing.assert_allclose(np.load(tmp_path / "predictions.npy"), expected, atol=1e-5)
    assert len(texts) == (18 if split == "train" else 30)


def test_an_interrupted_prediction_continues(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(text,) for text, _ in questions(40, seed=3)]
    source = write_csv(tmp_path / "new.csv", rows, ["text"])
    learner, data = small.learner(), small.data(predict=source, max_tokens=60)
    encoded: list[int] = []
    step = learner.predict_step

    def interrupted(batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        encoded.append(len(batch.anchor_ids))
        if limit and sum(encoded) > limit:
            raise RuntimeError("the power is off")
        return step(batch, batch_idx)

    learner.predict_step = interrupted  # type: ignore[method-assign]
    limit = 25
    with pytest.raises(RuntimeError, match="power"):
        trainer(tmp_path, WriteEmbeddings(shard_items=8)).predict(learner, data)
    names = [path.name for path in sorted((tmp_path / "predictions.shards").glob("0*"))]
    assert names == ["00000.npy", "00001.npy", "00002.npy"]
    before = {name: (tmp_path / "predictions.shards" / name).read_bytes() for name in names}
    assert [len(np.load(tmp_path / "predictions.shards" / name)) for name in before] == [8, 8, 8]
    limit, encoded[:] = 0, []
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, WriteEmbeddings(shard_items=8)).predict(
            learner, small.data(predict=source, max_tokens=60), return_predictions=False
        )
    assert sum(encoded) == 16
    assert "3 of 5 shards are done already" in caplog.text
    vectors = np.load(tmp_path / "predictions.npy", allow_pickle=False)
    np.testing.assert_allclose(vectors, learner.encode([text for (text,) in rows]), atol=1e-5)
    assert not (tmp_path / "predictions.shards").exists()


def test_a_part_of_the_items_is_no_prediction(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path, limit_predict_batches=1).predict(small.learner(), small.data(max_tokens=60))
    assert "items are missing: repeat without limit_predict_batches" in caplog.text
    assert not (tmp_path / "predictions.npy").exists()


def test_shards_of_other_weights_are_made_anew(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = small.learner()
    shards = Shards(tmp_path / "predictions.shards", {"model": "another"}, 4, ".npy")
    shards.start()
    shards.write(0, lambda path: path.write_text("old"))
    trainer(tmp_path, WriteEmbeddings(shard_items=8)).predict(learner, small.data())
    assert "holds shards of another job, which differs in" in caplog.text
    texts = read_table(small / "test.csv").column("text")
    np.testing.assert_allclose(np.load(tmp_path / "predictions.npy"), learner.encode(texts), atol=1e-5)
    with pytest.raises(ValueError, match="at least one item"):
        WriteEmbeddings(shard_items=0)


def read_predictions(folder: Path) -> tuple[np.ndarray, list[int] | None]:
    rows = folder / "predictions-rows.npy"
    return np.load(folder / "predictions.npy"), np.load(rows).tolist() if rows.exists() else None


@pytest.mark.parametrize("supervision", [None, Pairs(anchor="text", positive="label", symmetric=False)])
def test_rows_that_were_left_out_are_nan_in_their_place(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, supervision: Pairs | None
) -> None:
    texts = ["w5", " ", "w6 w7", "", "w8"]
    learner = small.learner()
    data = MetricDataModule(
        test=small / "test.csv",
        predict={"text": texts},
        bad_rows="skip",
        supervision=supervision,
        cache_dir=str(small / "cache"),
    )
    with caplog.at_level(logging.INFO):
        trainer(tmp_path).predict(learner, data)
    vectors, rows = read_predictions(tmp_path)
    assert (len(vectors), rows) == (5, None)
    assert np.isnan(vectors[[1, 3]]).all()
    np.testing.assert_allclose(vectors[[0, 2, 4]], learner.encode(["w5", "w6 w7", "w8"]), atol=1e-5)
    assert "Wrote 3 embeddings" in caplog.text
    assert "the other 2 rows were skipped, and are NaN" in caplog.text


def test_rows_of_a_split_by_a_column_are_listed(small: Small, tmp_path: Path) -> None:
    rows = {
        "text": ["w5", "w6", " ", "w7", "w8"],
        "label": ["a", "a", "a", "a", "b"],
        "part": ["train", "train", "test", "test", "test"],
    }
    learner = small.learner()
    data = MetricDataModule(train=rows, split="part", bad_rows="skip", cache_dir=str(small / "cache"))
    trainer(tmp_path).predict(learner, data)
    vectors, places = read_predictions(tmp_path)
    assert places == [3, 4]
    np.testing.assert_allclose(vectors, learner.encode(["w7", "w8"]), atol=1e-5)


def test_rows_of_a_mixture_are_those_of_its_sources_in_turn(small: Small, tmp_path: Path) -> None:
    source = {"text": ["w5", "", "w6"], "label": ["a", "a", "a"]}
    parts = {name: MixturePart(test=source, predict={"text": ["", name]}) for name in ("w7", "w8")}
    learner = small.learner()
    data = MetricDataModule(mixture=parts, bad_rows="skip", cache_dir=str(small / "cache"))
    trainer(tmp_path).predict(learner, data)
    vectors, places = read_predictions(tmp_path)
    assert places is None
    assert np.isnan(vectors).all(1).tolist() == [True, False, True, False]
    np.testing.assert_allclose(vectors[[1, 3]], learner.encode(["w7", "w8"]), atol=1e-5)


def test_rows_are_read_as_they_are_needed(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("all rows were read")

    monkeypatch.setattr("lit_metric.data.readers.stored", refused)  # keeps the rows of a text file
    texts = [text for text, _ in questions(23, seed=3)]
    texts[8:16] = [""] * 8  # a whole shard
    source = write_csv(tmp_path / "new.csv", [(text,) for text in texts], ["text"])
    learner = MetricLearner(TextEncoder(small / "backbone"))
    predicted = trainer(tmp_path, WriteEmbeddings(shard_items=8)).predict(
        learner, small.data(predict=source, bad_rows="skip")
    )
    kept = [*range(8), *range(16, 23)]
    vectors = np.load(tmp_path / "predictions.npy", allow_pickle=False)
    assert np.isnan(vectors).all(1).nonzero()[0].tolist() == [*range(8, 16)]
    expected = learner.encode([texts[row] for row in kept])
    np.testing.assert_allclose(vectors[kept], expected, atol=1e-5)
    assert predicted is not None
    assert sorted(torch.cat([each["ids"] for each in predicted]).tolist()) == kept  # type: ignore[index]


def test_sets_are_encoded_in_blocks(small: Small, tmp_path: Path) -> None:
    tags = [["w5", "w6"], ["w7"], ["w6", "w8", "w5"], ["w9"], ["w7", "w5"]]
    encoder = SetEncoder(TextEncoder(small / "backbone", freeze=True), AttentionPooling())
    learner = MetricLearner(encoder)
    data = MetricDataModule(predict={"tags": tags}, cache_dir=small / "cache")
    trainer(tmp_path, WriteEmbeddings(shard_items=2)).predict(learner, data)
    vectors = np.load(tmp_path / "predictions.npy", allow_pickle=False)
    np.testing.assert_allclose(vectors, learner.encode(tags), atol=1e-5)


def test_a_checkpoint_of_a_learned_loss_encodes_without_it(small: Small, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", max_epochs=1)
    run.fit(small.learner(InfoNCELoss(0.2, learnable=True)), small.data())
    run.save_checkpoint(path := tmp_path / "all.ckpt")
    learner = MetricLearner(TextEncoder(small / "backbone"))
    data = MetricDataModule(predict={"text": ["w5", "w6 w7"]}, cache_dir=small / "cache")
    trainer(tmp_path).predict(learner, data, ckpt_path=path)
    trained = MetricLearner.load_from_checkpoint(path)
    vectors = np.load(tmp_path / "predictions.npy", allow_pickle=False)
    np.testing.assert_allclose(vectors, trained.encode(["w5", "w6 w7"]), atol=1e-5)
