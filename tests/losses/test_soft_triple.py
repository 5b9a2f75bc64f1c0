from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import SoftTripleLoss as PeerLoss
from torch import Tensor, nn

from lit_metric.losses import LossContext, ProxyNCALoss, SoftTripleLoss
from lit_metric.losses.soft_triple import spread
from tests.losses.cases import cosines
from tests.losses.test_proxies import CLASSES, COUNTS, batch, of_classes
from tests.losses.test_proxy_nca import PLACES

CENTRES, SCALE, GAMMA, MARGIN, TAU = 3, 5.0, 0.3, 0.05, 0.2


def naive(anchors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    scores = cosines(anchors, centres)
    terms = []
    for row, label in enumerate(CLASSES.tolist()):
        if label not in PLACES:
            continue
        logits = []
        for place in range(len(PLACES)):
            s = [scores[row, CENTRES * place + k] for k in range(CENTRES)]
            total = sum(torch.exp(one / GAMMA) for one in s)
            similarity = sum(torch.exp(one / GAMMA) / total * one for one in s)
            logits.append(torch.exp(SCALE * (similarity - (MARGIN if place == PLACES[label] else 0))))
        terms.append(-torch.log(logits[PLACES[label]] / sum(logits)))
    apart = centres.new_zeros(())
    for place in range(len(PLACES)):
        for s in range(CENTRES):
            for t in range(s):
                one, other = (centres[CENTRES * place + k] for k in (s, t))
                apart = apart + (one / one.norm() - other / other.norm()).norm()
    return sum(terms) / len(terms), TAU * apart / (len(PLACES) * CENTRES * (CENTRES - 1))


def test_against_a_naive_loop() -> None:
    loss = SoftTripleLoss(CENTRES, SCALE, GAMMA, MARGIN, TAU)
    loss.setup(LossContext(4, COUNTS))
    loss.double()
    anchors, candidates = batch()
    output = loss.on_pairs(anchors, candidates, of_classes(CLASSES))
    classified, apart = naive(anchors, loss.proxies.detach())
    torch.testing.assert_close(output["soft_triple"], classified)
    torch.testing.assert_close(output["spread"], apart)
    torch.testing.assert_close(output["loss"].detach(), classified + apart)


def test_pytorch_metric_learning() -> None:
    # Its regulariser is left to the caller.
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    theirs = PeerLoss(3, 4, centers_per_class=CENTRES, la=SCALE, gamma=GAMMA, margin=MARGIN)
    ours = SoftTripleLoss(CENTRES, SCALE, GAMMA, MARGIN, tau=0.0)
    ours.setup(LossContext(4, torch.bincount(labels)))
    ours.double()
    theirs.fc.data = ours.proxies.data.T
    result = ours.on_pairs(embeddings, embeddings, of_classes(labels, 6))["loss"]
    torch.testing.assert_close(result, theirs(embeddings, labels))


def test_one_centre_is_a_normalised_softmax() -> None:
    loss, plain = SoftTripleLoss(1, scale=2.0, margin=0.0), ProxyNCALoss(1 / 2.0, distance="cosine")
    for each in (loss, plain):
        each.setup(LossContext(4, COUNTS))
        each.double()
    plain.proxies.data = loss.proxies.data
    anchors, candidates = batch()
    given = anchors, candidates, of_classes(CLASSES)
    output = loss.on_pairs(*given)
    torch.testing.assert_close(output["loss"], plain.on_pairs(*given)["loss"])
    assert output["spread"] == 0


def test_centres_that_have_merged_stay_finite() -> None:
    loss = SoftTripleLoss(CENTRES)
    loss.setup(LossContext(4, COUNTS))
    with torch.no_grad():
        loss.proxies.copy_(loss.proxies[::CENTRES].repeat_interleave(CENTRES, dim=0))
    anchors, candidates = batch(torch.float32)
    output = loss.on_pairs(anchors, candidates, of_classes(CLASSES))
    output["loss"].backward()
    assert output["spread"].item() == pytest.approx(0, abs=1e-3)
    assert loss.proxies.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"centres": 0}, "a class has at least 1 proxy, not 0"),
        ({"scale": 0.0}, "scale and gamma must be above 0 and finite, not 0.0 and 0.1"),
        ({"gamma": -1.0}, "scale and gamma must be above 0 and finite, not 20.0 and -1.0"),
        ({"margin": 2.0}, r"margin must be in \[0, 2\) and tau at least 0, not 2.0 and 0.2"),
        ({"tau": -0.1}, r"margin must be in \[0, 2\) and tau at least 0, not 0.01 and -0.1"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftTripleLoss(**arguments)


def test_merged_centres_are_at_distance_zero_and_near_ones_are_measured() -> None:
    centres = nn.functional.normalize(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    near = nn.functional.normalize(centres + 1e-5 * torch.randn(5, 64), dim=1)
    assert spread(torch.stack([centres, centres, centres], dim=1)) == 0
    both = torch.stack([centres, near], dim=1).requires_grad_()
    exact = (centres.double() - near.double()).norm(dim=1).sum() / (5 * 2)
    found = spread(both)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=0)
    found.backward()
    assert bool(both.grad.isfinite().all())
