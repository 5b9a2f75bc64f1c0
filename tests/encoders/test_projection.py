"""Projections against their formula."""

from __future__ import annotations

import pytest
import torch

from lit_metric.encoders.projection import Projection, projections, stack


def test_layers_follow_their_formula() -> None:
    layers, size = stack(projections(3, hidden=5), 4)
    x = torch.randn(7, 4)
    first, second = layers
    hidden = torch.nn.functional.gelu(x @ first.linear.weight.T + first.linear.bias)  # type: ignore[union-attr]
    torch.testing.assert_close(layers(x), hidden @ second.linear.weight.T + second.linear.bias)  # type: ignore[union-attr]
    assert size == 3


def test_what_an_encoder_may_be_given() -> None:
    one = Projection(2, bias=False, activation="tanh", input_dimension=4)
    assert projections(None) == []
    assert projections(one) == [one]
    assert projections([one, one]) == [one, one]
    torch.testing.assert_close(one(torch.ones(1, 4)), torch.tanh(one.linear.weight.sum(1))[None])
    layers, size = stack([], 4)
    assert size == 4
    assert torch.equal(layers(torch.ones(1, 4)), torch.ones(1, 4))


def test_dropout_is_of_the_input_and_in_training_only() -> None:
    layer = Projection(3, activation="tanh", dropout=0.25, input_dimension=4)
    x = torch.randn(7, 4)
    weight, bias = layer.linear.weight, layer.linear.bias
    torch.testing.assert_close(layer.eval()(x), torch.tanh(x @ weight.T + bias))
    torch.manual_seed(0)
    found = layer.train()(x)
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(x, 0.25)
    assert 0 < (dropped == 0).sum() < dropped.numel()
    torch.testing.assert_close(found, torch.tanh(dropped @ weight.T + bias))


def test_the_dropped_share_is_the_given_one_and_the_mean_is_kept() -> None:
    layer = Projection(100, bias=False, dropout=0.3, input_dimension=100)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.eye(100))
    torch.manual_seed(0)
    found = layer(torch.ones(1000, 100))
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.7]))
    # 5 standard deviations of a share among 100,000
    assert abs((found == 0).double().mean().item() - 0.3) < 5 * (0.3 * 0.7 / 100_000) ** 0.5


def test_numbers_of_components_ask_for_no_dropout() -> None:
    layers, _ = stack(projections(3, hidden=5), 4)
    assert layers.training
    x = torch.randn(7, 4)
    torch.testing.assert_close(layers(x), layers.eval()(x))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_out_of_range(dropout: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        Projection(2, dropout=dropout)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="swish"):
        Projection(2, activation="swish")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes 4 components, not 5"):
        Projection(2, input_dimension=4).build(5)
    with pytest.raises(ValueError, match="hidden needs projection"):
        projections(None, hidden=4)
