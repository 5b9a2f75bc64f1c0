from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss as PeerLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from lit_metric.losses import DensePairs, InfoNCELoss, LossContext, MatryoshkaLoss, ProxyAnchorLoss
from tests.losses.cases import random_batch


def test_each_number_of_components_is_a_loss_of_its_own() -> None:
    anchors, candidates, pairs = random_batch(dimension=6)
    inner = InfoNCELoss(0.3)
    output = MatryoshkaLoss(inner, [6, 3, 1], [1.0, 0.5, 0.25]).on_pairs(anchors, candidates, pairs)
    apart = {
        number: inner.on_pairs(anchors[:, :number], candidates[:, :number], pairs) for number in (6, 3, 1)
    }
    torch.testing.assert_close(
        output["loss"], apart[6]["loss"] + 0.5 * apart[3]["loss"] + 0.25 * apart[1]["loss"]
    )
    for number, alone in apart.items():
        assert torch.equal(output[f"dim{number}"], alone["loss"])
        assert torch.equal(output[f"dim{number}/anchors_used"], alone["anchors_used"])


def test_sentence_transformers() -> None:
    # Its own, on multiple negatives ranking, given embeddings in place of a model.
    generator = torch.Generator().manual_seed(0)
    embeddings = [torch.randn(5, 8, generator=generator) for _ in range(2)]

    class Given(torch.nn.Module):
        def forward(self, features: dict) -> dict:
            return {"sentence_embedding": embeddings[features["side"]]}

        def get_embedding_dimension(self) -> int:
            return 8

    model = Given()
    peer = PeerLoss(model, MultipleNegativesRankingLoss(model, scale=5.0), [8, 4, 2], [1.0, 0.5, 2.0])
    theirs = peer([{"side": 0}, {"side": 1}], None)
    same = torch.eye(5, dtype=torch.bool)
    ours = MatryoshkaLoss(InfoNCELoss(1 / 5.0), [8, 4, 2], [1.0, 0.5, 2.0])
    torch.testing.assert_close(ours.on_pairs(*embeddings, DensePairs(same, ~same))["loss"], theirs)


def test_components_beyond_the_largest_number_get_no_gradient() -> None:
    anchors, candidates, pairs = random_batch(dimension=6)
    anchors.requires_grad_()
    MatryoshkaLoss(InfoNCELoss(0.3), [2, 4]).on_pairs(anchors, candidates, pairs)["loss"].backward()
    assert anchors.grad.any(dim=0).tolist() == [True] * 4 + [False] * 2


def test_proxies_are_cut_alike() -> None:
    loss = MatryoshkaLoss(ProxyAnchorLoss(scale=4.0), [4, 2])
    assert loss.requires_labels
    loss.setup(LossContext(6, torch.tensor([2, 2])))
    assert loss.loss.proxies.shape == (2, 4)
    anchors, candidates, pairs = random_batch(dimension=6, dtype=torch.float32)
    classes = torch.tensor([0, 1, 0, 1, 1, 0])
    pairs.anchor_labels = classes
    output = loss.on_pairs(anchors, candidates, pairs)
    scores = F.normalize(loss.loss.proxies[:, :2]) @ F.normalize(anchors[:, :2]).T
    own = classes == torch.arange(2)[:, None]
    positive = torch.log(1 + torch.where(own, torch.exp(-4 * (scores - 0.1)), 0).sum(1)).mean()
    negative = torch.log(1 + torch.where(own, 0, torch.exp(4 * (scores + 0.1))).sum(1)).mean()
    torch.testing.assert_close(output["dim2"], (positive + negative).detach())


def test_more_components_than_there_are() -> None:
    loss = MatryoshkaLoss(InfoNCELoss(), [2, 8])
    message = "to take 8 components, but embeddings have 4; change its dimensions"
    with pytest.raises(ValueError, match=message):
        loss.on_pairs(*random_batch(dimension=4))
    with pytest.raises(ValueError, match=message):
        loss.setup(LossContext(4, torch.tensor([1, 1])))


@pytest.mark.parametrize(
    ("dimensions", "weights", "message"),
    [
        ([], None, r"dimensions must be different numbers above 0, not \[\]"),
        ([4, 0], None, "dimensions must be different numbers above 0"),
        ([4, 4], None, "dimensions must be different numbers above 0"),
        ([4, 2], [1.0], r"weights must be 2 finite numbers above 0, one a dimension, not \[1.0\]"),
        ([4], [0.0], "weights must be 1 finite numbers above 0"),
    ],
)
def test_settings_that_make_no_sense(
    dimensions: list[int], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MatryoshkaLoss(InfoNCELoss(), dimensions, weights)
