from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import ProxyNCALoss as PeerLoss
from torch import Tensor

from lit_metric.losses import LossContext, ProxyNCALoss
from tests.losses.test_proxies import CLASSES, COUNTS, batch, of_classes

PLACES = {0: 0, 2: 1, 3: 2, 4: 3}
"""Of the classes that occur."""


def naive(anchors: Tensor, proxies: Tensor, temperature: float, all_of_them: bool) -> Tensor:
    terms = []
    for anchor, label in zip(anchors, CLASSES.tolist(), strict=True):
        if label not in PLACES:
            continue
        x = anchor / anchor.norm()
        weights = [torch.exp(-(x - p / p.norm()).square().sum() / temperature) for p in proxies]
        own = weights[PLACES[label]]
        others = sum(weight for place, weight in enumerate(weights) if place != PLACES[label])
        terms.append(-torch.log(own / (own + others if all_of_them else others)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("denominator", ["all", "others"])
def test_against_a_naive_loop(denominator: str) -> None:
    loss = ProxyNCALoss(0.4, denominator)
    loss.setup(LossContext(4, COUNTS))
    loss.double()
    anchors, candidates = batch()
    output = loss.on_pairs(anchors, candidates, of_classes(CLASSES))
    torch.testing.assert_close(
        output["loss"], naive(anchors, loss.proxies, 0.4, denominator == "all").detach()
    )


def test_pytorch_metric_learning() -> None:
    # Which has proxies for all classes, and takes the sum over all of them.
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    labels = torch.arange(9) % 3
    theirs = PeerLoss(3, 4, softmax_scale=2.5)
    ours = ProxyNCALoss(1 / 2.5)
    ours.setup(LossContext(4, torch.bincount(labels)))
    ours.double()
    theirs.proxies.data = ours.proxies.data
    result = ours.on_pairs(embeddings, embeddings, of_classes(labels, 9))["loss"]
    torch.testing.assert_close(result, theirs(embeddings, labels))


def test_without_its_own_in_the_denominator_the_loss_falls_below_0_hand_computed() -> None:
    loss = ProxyNCALoss(1.0, "others", distance="cosine")
    loss.setup(LossContext(2, torch.tensor([1, 1, 1])))
    with torch.no_grad():
        loss.proxies.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    value = loss.on_pairs(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2), of_classes(torch.tensor([0]), 1))[
        "loss"
    ]
    assert value.item() == pytest.approx(-1 + math.log(1 + math.exp(-1)), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and finite, not 0.0"),
        ({"denominator": "none"}, "'none' is none of all, others"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProxyNCALoss(**arguments)
