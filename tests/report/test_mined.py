"""What a report shows of mined negatives, against what training met and against hand-made tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_metric import MetricDataModule, Refresh
from lit_metric.data import Batch, DataError
from lit_metric.index import Embeddings
from lit_metric.mining import Miner, NegativeTable, SimANS, versions
from lit_metric.report.false_negatives import LIKELY
from lit_metric.report.mined import mined_negatives
from lit_metric.report.structure import MinedAnchor
from tests.small import Small, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


class Met(pl.Callback):
    """Notes the version of each batch and the negatives that its anchors met."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, dict[int, list[int]]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        data: MetricDataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert data.refresher is not None
        assert batch.mined_negatives is not None
        version = data.refresher.version(len(self.batches))
        rows = dict(zip(batch.anchor_ids.tolist(), batch.mined_negatives.tolist(), strict=True))
        self.batches.append((version, rows))


@pytest.fixture(scope="module")
def run(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MetricDataModule, Met, Any]:
    """Four epochs of 5 batches with a table for each; the first two tables are removed on the way."""
    folder, met = tmp_path_factory.mktemp("run"), Met()
    miner = Miner(top_k=6, negatives=2, draw=SimANS(20.0), sample=12)
    data = small.data(seed=3, miner=miner, refresh=Refresh("epoch", "inline"), test=None)
    learner = small.learner()
    trainer(folder, met, max_epochs=4).fit(learner, data)
    assert data.refresher is not None
    return data.refresher.task.tables, data, met, learner


def by_text(data: MetricDataModule) -> dict[str, int]:
    return {data.texts_of(item)[0]: item for item in range(len(data.items))}


def test_all_versions_are_shown_also_removed_ones(run: Any) -> None:
    folder, data, met, _ = run
    assert versions(folder) == [3, 4]
    found = mined_negatives(folder, data)
    assert found is not None
    assert [each.version for each in found.versions] == [1, 2, 3, 4]
    used = [version for version, _ in met.batches]
    assert [each.batch for each in found.versions] == [used.index(each) for each in (1, 2, 3, 4)]
    assert [each.staleness for each in found.versions] == [0.0] * 4
    assert all(each.stall_seconds is not None and each.stall_seconds > 0 for each in found.versions)
    texts = by_text(data)
    for version in found.versions:
        assert len(version.anchors) == 12
        for anchor in version.anchors:
            label = data.relations.labels[texts[anchor.text]]
            assert anchor.label == data.relations.classes[label]
            for candidate in anchor.candidates:
                assert candidate.label == data.relations.classes[data.relations.labels[texts[candidate.text]]]
                assert (candidate.label == anchor.label) <= candidate.fate.startswith(
                    "dropped: RelationFilter"
                )


def test_drawn_are_those_that_training_met(run: Any) -> None:
    folder, data, met, _ = run
    found, texts = mined_negatives(folder, data), by_text(data)
    assert found is not None
    drawn = 0
    for version in found.versions:
        seen: dict[int, set[int]] = {}
        for used, rows in met.batches:
            for anchor, negatives in rows.items() if used == version.version else ():
                seen.setdefault(anchor, set()).update(negatives)
        for anchor in version.anchors:
            kept = {
                texts[each.text]: each.fate for each in anchor.candidates if each.fate in ("kept", "drawn")
            }
            marked = {item for item, fate in kept.items() if fate == "drawn"}
            assert marked == seen.get(texts[anchor.text], set()) - {-1}
            drawn += len(marked)
    assert drawn > 0


def test_figures_of_versions(run: Any) -> None:
    folder, data, _, _ = run
    found = mined_negatives(folder, data)
    assert found is not None
    tables = {number: NegativeTable.open(folder, number) for number in (3, 4)}
    for number, table in tables.items():
        version = found.versions[number - 1]
        bins = np.linspace(version.low, version.high, len(version.negative_histogram) + 1)
        scores = table.scores[np.isfinite(table.scores)].astype(np.float32)
        positives = table.positives[:, 2].astype(np.float32)
        assert version.negative_histogram == np.histogram(scores, bins)[0].tolist()
        assert version.positive_histogram == np.histogram(positives, bins)[0].tolist()
        share = table.report["rejected/RelativeMargin"] * table.report["examined"]
        assert version.dropped["RelativeMargin"] == round(share * len(table))
    assert found.versions[0].overlap is None
    ours, theirs = (
        {
            anchor.text: {each.text for each in anchor.candidates if each.fate in ("kept", "drawn")}
            for anchor in found.versions[at].anchors
        }
        for at in (3, 2)
    )
    shared = sum(len(ours[text] & theirs[text]) for text in ours)
    assert found.versions[3].overlap == pytest.approx(shared / sum(map(len, ours.values())))


def test_other_data_give_texts_only(run: Any, small: Small) -> None:
    folder = run[0]
    other = small.data(train=small / "many_train.csv", test=None, miner=Miner())
    other.read()
    found = mined_negatives(folder, other)
    assert found is not None
    assert found.false_negative_share is None
    anchor = found.versions[0].anchors[0]
    assert anchor.text
    assert anchor.label == ""
    assert {each.fate for each in anchor.candidates} >= {"kept"}
    assert not any(each.fate == "drawn" for each in anchor.candidates)


def test_nothing_mined_is_none_and_damage_is_told(tmp_path: Path, run: Any) -> None:
    assert mined_negatives(tmp_path / "nothing", run[1]) is None
    (tmp_path / "v000001").mkdir()
    (tmp_path / "v000001" / "sample.json").write_text('{"version": 1, "anchors": [{}]}')
    with pytest.raises(DataError, match=r"sample.json is damaged .*remove it"):
        mined_negatives(tmp_path, run[1])


@pytest.fixture
def judged(small: Small, tmp_path: Path) -> dict[str, MinedAnchor]:
    """Items of one direction for each class but for one, which lies among another class."""
    lines = ["text,label"]
    lines += [f"{name} number {row},{name}" for name in ("red", "blue") for row in range(30)]
    lines += ["Red number 3 !,blue"]  # nearly the text of a red one, but far from the red ones
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    data = small.data(train=str(tmp_path / "rows.csv"), test=None, miner=Miner(), validation_share=0.1)
    data.read()
    labels = data.relations.labels
    train = data.splits["train"].sort().values
    directions = torch.eye(2)[labels[train]]
    moved = int(train[labels[train] == data.relations.classes.index("blue")][0])
    directions[train == moved] = torch.eye(2)[data.relations.classes.index("red")]
    noise = 0.1 * torch.from_numpy(np.random.default_rng(0).normal(size=(len(train), 2))).float()
    vectors = Embeddings(train, F.normalize(directions + noise, dim=1))
    table = Miner(filters=[], top_k=40, sample=100).mine(vectors, data.relations)
    table.save(tmp_path / "negatives", corpus=data.corpus, weights="", step=0, epoch=0)
    found = mined_negatives(tmp_path / "negatives", data, [vectors])
    assert found is not None
    assert f"a probability of {LIKELY:.0%} or more" in found.rule
    anchors = {anchor.text: anchor for anchor in found.versions[0].anchors}
    kept = [each for anchor in anchors.values() for each in anchor.candidates if each.fate == "kept"]
    assert found.false_negative_share == sum(each.false_negative for each in kept) / len(kept)
    anchors["moved"] = anchors[data.texts_of(moved)[0]]
    return anchors


def test_likely_false_negatives_by_neighbours_and_by_text(judged: dict[str, MinedAnchor]) -> None:
    moved = judged.pop("moved")
    red = [each for each in moved.candidates if each.fate == "kept"]
    assert red
    for each in red:  # most of the moved anchor's neighbours are red
        assert each.label == "red"
        assert each.false_negative
    assert any("its label has a probability of" in each.reason for each in red)
    for text, anchor in judged.items():
        for each in anchor.candidates:
            if each.fate != "kept":
                assert not each.false_negative
                continue
            if "red number 3" in each.text.casefold():
                assert "its text is nearly" in each.reason  # that of a positive, whichever class it is of
            elif moved.text not in (text, each.text):
                assert not each.false_negative
            if each.text == moved.text and anchor.label == "red":
                assert "the anchor's label has a probability of" in each.reason


def test_a_sample_without_news_of_its_use_is_read(run: Any, tmp_path: Path) -> None:
    """As runs of earlier versions wrote it."""
    folder, data, _, _ = run
    sample = json.loads((folder / "v000001" / "sample.json").read_text())
    for name in ("use", "histogram", "report", "rows"):
        del sample[name]
    (tmp_path / "v000001").mkdir()
    (tmp_path / "v000001" / "sample.json").write_text(json.dumps(sample))
    found = mined_negatives(tmp_path, data)
    assert found is not None
    version = found.versions[0]
    assert (version.batch, version.staleness, version.stall_seconds) == (None, None, None)
    assert version.dropped == {}
    assert version.negative_histogram == []
