"""Parts of a miner that read texts, in training and in the process that mines meanwhile."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

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
    )


def times(mode: str) -> Refresh:
    return Refresh(5, mode, delay=3 if mode == "scheduled" else None)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["inline", "scheduled"])
def test_a_miner_reads_texts_wherever_it_runs_and_people_read_those_of_its_sample(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    caplog.set_level(logging.INFO)
    header, *rows = Path(small / "train.csv").read_text().splitlines()
    keyed = [f"{row},row{number}" for number, row in enumerate(rows)]
    (tmp_path / "keyed.csv").write_text("\n".join([f"{header},name", *keyed]) + "\n")
    keys = {row.split(",")[0]: f"row{number}" for number, row in enumerate(rows)}
    named: Any = {"train": str(tmp_path / "keyed.csv"), "text": "text", "label": "label", "key": "name"}
    data = small.data(**named, seed=0, miner=miner(small / "backbone"), refresh=times(mode), test=None)
    trainer(tmp_path, max_epochs=2).fit(small.learner(), data)
    assert data.refresher is not None
    tables = data.refresher.task.tables
    assert len(versions(tables)) >= 2
    told = "From batch 8 on, negatives are those mined with the weights of batch 5, in "
    assert (told in caplog.text) == (mode == "scheduled")
    guide = small.learner().encoder
    texts = [data.texts_of(item)[0] for item in range(len(data.items))]
    vectors = torch.nn.functional.normalize(torch.from_numpy(guide.encode(texts)), dim=1)
    for version in versions(tables):
        table = NegativeTable.open(tables, version, data.corpus)
        assert table.report["rejected/GuideFilter"] > 0
        assert candidates_that_the_guide_let_pass(table, vectors, data.relations.labels) > 0
        if mode == "scheduled" and version > 2:
            continue  # the last batch asked for it: it may be ready, but training never took it up
        sample = json.loads((tables / f"v{version:06d}" / "sample.json").read_text())
        shown = 0
        for anchor in sample["anchors"]:
            for entry, number in [(anchor, anchor["anchor"]), *((c, c["id"]) for c in anchor["candidates"])]:
                assert [entry["text"]] == data.texts_of(number)
                assert entry["key"] == keys[entry["text"]]
                shown += 1
        assert shown > 0


def candidates_that_the_guide_let_pass(table: NegativeTable, vectors: Tensor, labels: Tensor) -> int:
    """How many candidates there are, after a look at the guide's cosines of each."""
    found = 0
    for anchor, row in zip(table.anchors.tolist(), table.ids.tolist(), strict=True):
        own = [one for one in table.anchors.tolist() if labels[one] == labels[anchor] and one != anchor]
        cosines = vectors[own] @ vectors[anchor]
        for candidate in row:
            if candidate >= 0:
                found += 1
                alike = float(vectors[candidate] @ vectors[anchor])
                assert alike < float(cosines.mean()) - 0.01 + 1e-4
    return found
