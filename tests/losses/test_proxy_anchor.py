from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss as PeerLoss
from torch import Tensor

from lit_metric.losses import LossContext, ProxyAnchorLoss
from tests.losses.cases import cosines
from tests.losses.test_proxies import CLASSES, COUNTS, batch, of_classes
from tests.losses.test_proxy_nca import PLACES


def naive(anchors: Tensor, proxies: Tensor, margin: float, scale: float) -> tuple[Tensor, Tensor]:
    scores = cosines(proxies, anchors)
    positive, negative, met = scores.new_zeros(()), scores.new_zeros(()), 0
    for place in range(len(proxies)):
        of_p, of_n = scores.new_zeros(()), scores.new_zeros(())
        for item, label in enumerate(CLASSES.tolist()):
            if label in PLACES and PLACES[label] == place:
                of_p = of_p + torch.exp(-scale * (scores[place, item] - margin))
            elif label in PLACES:
                of_n = of_n + torch.exp(scale * (scores[place, item] + margin))
        met += bool(of_p > 0)
        positive, negative = positive + torch.log(1 + of_p), negative + torch.log(1 + of_n)
    return positive / met, negative / len(proxies)


def test_against_a_naive_loop() -> None:
    loss = ProxyAnchorLoss(0.15, 8.0)
    loss.setup(LossContext(4, COUNTS))
    loss.double()
    anchors, candidates = batch()
    output = loss.on_pairs(anchors, candidates, of_classes(CLASSES))
    positive, negative = naive(anchors, loss.proxies.detach(), 0.15, 8.0)
    torch.testing.assert_close(output["positive"], positive)
    torch.testing.assert_close(output["negative"], negative)
    assert output["proxies_used"].item() == pytest.approx(3 / 4)  # the last class is not in the batch
    assert "anchors_used" not in output


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2], [0, 0, 0, 2, 2, 0], [1] * 6])
def test_pytorch_metric_learning(labels: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    theirs, ours = PeerLoss(3, 4, margin=0.1, alpha=32), ProxyAnchorLoss()
    ours.setup(LossContext(4, torch.ones(3, dtype=torch.int64)))
    ours.double()
    theirs.proxies.data = ours.proxies.data
    result = ours.on_pairs(embeddings, embeddings, of_classes(torch.tensor(labels), 6))["loss"]
    torch.testing.assert_close(result, theirs(embeddings, torch.tensor(labels)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -0.1}, "margin must be at least 0 and below 1, not -0.1"),
        ({"margin": 1.0}, "margin must be at least 0 and below 1, not 1.0"),
        ({"scale": 0.0}, "scale must be above 0 and finite, not 0.0"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProxyAnchorLoss(**arguments)
