"""Losses, measures and samplers of open-metric-learning, on the same random batches."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from lit_metric.batching import PKPlanner
from lit_metric.data import LabelRelations
from lit_metric.losses import Loss, TripletLoss
from lit_metric.metrics import NeighbourMetrics
from tests.metrics.items import SameClass, clustered
from tests.peers.cases import DTYPES, KINDS, agree, batch, count, module, seeds
from tests.peers.test_pytorch_metric_learning import well_formed

PEER = "open-metric-learning"
triplet = module("oml.losses.triplet")
all_triplets = module("oml.miners.inbatch_all_tri")
hard_triplets = module("oml.miners.inbatch_hard_tri")
measures = module("oml.functional.metrics")
balance = module("oml.samplers.balance")


class Case(NamedTuple):
    ours: Loss
    theirs: Any


def mined(margin: float | None, miner: Any) -> Any:
    return triplet.TripletLossWithMiner(margin, miner)


EVERY, HARDEST = all_triplets.AllTripletsMiner(), hard_triplets.HardTripletsMiner()
CASES = {
    "all": Case(TripletLoss(0.5, distance="euclidean"), mined(0.5, EVERY)),
    "all, soft": Case(TripletLoss("soft", distance="euclidean"), mined(None, EVERY)),
    "hard": Case(TripletLoss(0.5, "hard", distance="euclidean"), mined(0.5, HARDEST)),
    "hard, soft": Case(TripletLoss("soft", "hard", distance="euclidean"), mined(None, HARDEST)),
}


@seeds()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_triplet_losses(name: str, dtype: torch.dtype, seed: int) -> None:
    case = CASES[name]
    for kind in KINDS:
        given = batch(kind, seed, dtype)
        # It wants a positive for every anchor, and its soft margin overflows.
        if not given.whole or (kind == "large norms" and "soft" in name):
            continue
        agree(
            PEER,
            "TripletLoss",
            lambda e, given=given: case.ours.on_pairs(e, e, given.pairs)["loss"],
            lambda e, given=given: case.theirs(e, given.labels.tolist()),
            [given.embeddings],
            gradient=not given.ties,
        )


@seeds(quick=3)
def test_measures_of_search(seed: int) -> None:
    n = 30 + 7 * (seed % 9)
    vectors, labels = clustered(n, classes=2 + seed % 5, seed=seed)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    scores = (unit @ unit.T).fill_diagonal_(-2)
    order = scores.argsort(dim=1, descending=True)[:, : n - 1]
    same = (labels[:, None] == labels) & ~torch.eye(n, dtype=torch.bool)
    queries = [row for row in range(n) if same[row].any()]
    relevant = [same[row].nonzero()[:, 0] for row in queries]
    found = [order[row] for row in queries]
    metric = NeighbourMetrics(SameClass(labels), ks=(1, 3, 5), graded=(n,))
    metric.update(vectors, torch.arange(n))
    ours = {name: float(value) for name, value in metric.compute().items()}
    theirs = measures.calc_retrieval_metrics(found, relevant, None, (1, 3, 5), (1,), (n,), verbose=False)
    for k in (1, 3, 5):
        assert ours[f"hit_rate@{k}"] == pytest.approx(float(theirs["cmc"][k]), abs=1e-6)
        count(PEER, "recall")
    assert ours["precision@1"] == pytest.approx(float(theirs["precision"][1]), abs=1e-6)
    assert ours[f"map@{n}"] == pytest.approx(float(theirs["map"][n]), abs=1e-6)
    each = [
        float(measures.calc_precision([torch.isin(items, own)], [len(own)], (len(own),))[0])
        for items, own in zip(found, relevant, strict=True)
    ]
    assert ours["r_precision"] == pytest.approx(sum(each) / len(each), abs=1e-6)
    count(PEER, "precision and average precision", 3)


@seeds(quick=2)
def test_batches_of_classes(seed: int) -> None:
    labels = torch.arange(12).repeat(6)[torch.randperm(72, generator=torch.Generator().manual_seed(seed))]
    relations = LabelRelations(labels, [str(number) for number in range(12)], torch.arange(72))
    plan = PKPlanner(4, 3).plan(torch.arange(72), relations, seed, 0)
    theirs = [*balance.BalanceSampler(labels.tolist(), 4, 3)]
    for batches in (plan.anchors.tolist(), theirs):
        well_formed(batches, labels.tolist(), 4, 3)
    assert (len(theirs), len(plan)) == (3, 6)  # an epoch there takes each class once, here each item
    count(PEER, "PKPlanner", len(plan))
