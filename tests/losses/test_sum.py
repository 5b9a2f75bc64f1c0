from __future__ import annotations

import pytest
import torch
from jsonargparse import ArgumentParser

from lit_metric.losses import InfoNCELoss, Loss, LossContext, NPairLoss, ProxyNCALoss, SumLoss, TripletLoss
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
