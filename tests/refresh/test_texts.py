"""Parts of a miner that read texts, in training and in the process that mines meanwhile."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_metric import Refresh
from lit_metric.mining import (
    BM25Proposer,
    DuplicateFilter,
    EncoderGuide,
    GuideFilter,
    JoinedProposer,
    Miner,
    NegativeTable,
    NeighbourProposer,
    versions,
)
from tests.small import Small, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def miner(guide: str) -> Miner:
    return Miner(
        proposer=JoinedProposer([NeighbourProposer(), BM25Proposer()], "round_robin"),
        filters=[DuplicateFilter(0.999), GuideFilter(EncoderGuide(guide), margin=0.01, positives=100)],
        top_k=4,
        sample=0,
    )


def times(mode: str) -> Refresh:
    return Refresh(5, mode, delay=3 if mode == "scheduled" else None)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["inline", "scheduled"])
def test_a_miner_reads_texts_wherever_it_runs(small: Small, tmp_path: Path, mode: str) -> None:
    data, learner = small.data(seed=0, miner=miner(small / "backbone"), refresh=times(mode)), small.learner()
    trainer(tmp_path, max_epochs=2).fit(learner, data)
    assert data.refresher is not None
    tables = data.refresher.task.tables
    assert len(versions(tables)) >= 2
    guide = small.learner().encoder
    texts = [data.texts_of(item)[0] for item in range(len(data.items))]
    vectors = torch.nn.functional.normalize(torch.from_numpy(guide.encode(texts)), dim=1)
    labels = data.relations.labels
    for version in versions(tables):
        table = NegativeTable.open(tables, version)
        assert table.report["rejected/GuideFilter"] > 0
        found = 0
        for anchor, row in zip(table.anchors.tolist(), table.ids.tolist(), strict=True):
            own = [one for one in table.anchors.tolist() if labels[one] == labels[anchor] and one != anchor]
            cosines = vectors[own] @ vectors[anchor]
            for candidate in row:
                if candidate >= 0:
                    found += 1
                    alike = float(vectors[candidate] @ vectors[anchor])
                    assert alike < float(cosines.mean()) - 0.01 + 1e-4
        assert found > 0


@pytest.mark.parametrize("mode", ["inline", "scheduled"])
def test_people_read_the_texts_of_the_sample(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    caplog.set_level(logging.INFO)
    source = Path(small / "train.csv")
    rows = source.read_text().splitlines()
    keyed = [f"{row},row{number}" for number, row in enumerate(rows[1:])]
    (tmp_path / "keyed.csv").write_text("\n".join([f"{rows[0]},name", *keyed]) + "\n")
    keyed_data: Any = {"train": str(tmp_path / "keyed.csv"), "text": "text", "label": "label", "key": "name"}
    data = small.data(**keyed_data, miner=Miner(top_k=4), refresh=times(mode), test=None)
    trainer(tmp_path, max_epochs=2).fit(small.learner(), data)
    assert data.refresher is not None
    tables = data.refresher.task.tables
    keys = {text: f"row{number}" for number, text in enumerate(row.split(",")[0] for row in rows[1:])}
    shown = 0
    for version in versions(tables):
        sample = json.loads((tables / f"v{version:06d}" / "sample.json").read_text())
        for anchor in sample["anchors"]:
            for entry, number in [(anchor, anchor["anchor"]), *((c, c["id"]) for c in anchor["candidates"])]:
                assert [entry["text"]] == data.texts_of(number)
                assert entry["key"] == keys[entry["text"]]
                shown += 1
        NegativeTable.open(tables, version, data.corpus)
    assert shown > 0
    told = "From batch 8 on, negatives are those mined with the weights of batch 5, in "
    assert (told in caplog.text) == (mode == "scheduled")
