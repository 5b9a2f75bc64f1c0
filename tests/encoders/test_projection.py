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


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="swish"):
        Projection(2, activation="swish")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes 4 components, not 5"):
        Projection(2, input_dimension=4).build(5)
    with pytest.raises(ValueError, match="hidden needs projection"):
        projections(None, hidden=4)
