"""Losses made of losses: sums, and shortened embeddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss as PeerLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from lit_metric.losses import (
    DensePairs,
    InfoNCELoss,
    Loss,
    LossContext,
    MatryoshkaLoss,
    NPairLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SumLoss,
    SymmetricLoss,
    TripletLoss,
)
from tests.losses.cases import random_batch

CLASSES = torch.tensor([0, 1, 0, 1, -1, 0])


def test_value_and_gradient_are_those_of_the_losses_added_up() -> None:
    near, far, own = InfoNCELoss(0.3), TripletLoss(0.5, mining="hard", distance="dot"), ProxyNCALoss()
    own.setup(LossContext(4, torch.tensor([3, 2])))
    own.double()
    anchors, candidates, pairs = random_batch()
    pairs.anchor_labels = CLASSES
    inputs = anchors.requires_grad_(), candidates.requires_grad_(), own.proxies
    apart = {
        "near": near.on_pairs(*inputs[:2], pairs),
        "far": far.on_pairs(*inputs[:2], pairs),
        "own": own.on_pairs(*inputs[:2], pairs),
    }
    by_hand = apart["near"]["loss"] + 0.25 * apart["far"]["loss"] + 2 * apart["own"]["loss"]
    both = SumLoss({"near": near, "far": far, "own": own}, {"far": 0.25, "own": 2.0})
    output = both.on_pairs(*inputs[:2], pairs)
    torch.testing.assert_close(output["loss"], by_hand)
    torch.testing.assert_close(
        torch.autograd.grad(output["loss"], inputs), torch.autograd.grad(by_hand, inputs)
    )
    for name, alone in apart.items():
        assert torch.equal(output[name], alone["loss"])
        for part in alone.keys() - {"loss"}:
            assert torch.equal(output[f"{name}/{part}"], alone[part])
    assert [name for name, value in output.items() if value.requires_grad] == ["loss"]


def test_classes_are_wanted_if_one_of_them_wants_them() -> None:
    assert not SumLoss({"a": InfoNCELoss(), "b": NPairLoss()}).requires_labels
    deep = SumLoss({"a": InfoNCELoss(), "b": SumLoss({"c": ProxyNCALoss()})})
    assert deep.requires_labels
    deep.setup(LossContext(5, torch.tensor([1, 1, 1])))
    assert {name: tuple(weight.shape) for name, weight in deep.named_parameters()} == {
        "losses.b.losses.c.proxies": (3, 5)
    }


def test_nothing_to_learn_from_reaches_everything() -> None:
    anchors, candidates, pairs = random_batch()
    nothing = torch.zeros_like(pairs.positive)
    loss = SumLoss({"a": InfoNCELoss(learnable=True), "b": NPairLoss()}).double()
    inputs = anchors.requires_grad_(), candidates.requires_grad_(), *loss.parameters()
    value = loss.on_pairs(*inputs[:2], type(pairs)(nothing, nothing))["loss"]
    assert value == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(value, inputs))


def test_configured_from_text() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Loss, "loss")
    near = {"class_path": "lit_metric.losses.InfoNCELoss", "init_args": {"temperature": 0.07}}
    own = {"class_path": "lit_metric.losses.ProxyAnchorLoss"}
    given = {"losses": {"near": near, "own": own}, "weights": {"own": 0.5}}
    config = parser.parse_object({"loss": {"class_path": "lit_metric.losses.SumLoss", "init_args": given}})
    loss = parser.instantiate(config).loss
    assert loss.losses["near"].temperature == 0.07
    assert loss.weights == {"near": 1.0, "own": 0.5}
    assert loss.requires_labels


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        ([], None, "a sum needs at least one loss"),
        (["a.b"], None, "'a.b' can't be the name of a loss"),
        (["keys"], None, "'keys' can't be the name of a loss"),
        (["loss"], None, "'loss' can't be the name of a loss"),
        (["near"], {"far": 1.0}, "weights name far, but the losses are near"),
        (["near"], {"near": 0.0}, "the weight of near must be above 0 and finite, not 0.0"),
    ],
)
def test_settings_that_make_no_sense(names: list[str], weights: dict | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SumLoss({name: NPairLoss() for name in names}, weights)


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
    message = "needs 8 components, but embeddings have 4; change its dimensions"
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
def test_dimensions_that_make_no_sense(
    dimensions: list[int], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MatryoshkaLoss(InfoNCELoss(), dimensions, weights)


def test_both_directions_over_edited_texts_are_those_of_triplet_clip() -> None:
    """½ [CE over (S_xy ‖ S_xy') + CE over S_yx]: an edited text y' is searched, and doesn't search itself."""
    generator = torch.Generator().manual_seed(0)
    x, y, edited = F.normalize(torch.randn(3, 5, 4, generator=generator), dim=2)
    own = torch.arange(5)
    forward = F.cross_entropy(torch.cat([x @ y.T, x @ edited.T], dim=1) / 0.2, own)
    backward = F.cross_entropy(y @ x.T / 0.2, own)
    found = SymmetricLoss(InfoNCELoss(0.2))(x, y, edited)
    torch.testing.assert_close(found, (forward + backward) / 2)
