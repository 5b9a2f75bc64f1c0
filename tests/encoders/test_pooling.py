"""Poolings against loops over rows, and the properties that a pooling of sets must have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.pooling import (
    AttentionPooling,
    CLSPooling,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    Projection,
    drop_values,
    unit_rows,
)
from tests.encoders.gradients import assert_equal_with_gradients

LENGTHS = [3, 1, 0, 6, 2]
SIZE = 8


def states(lengths: list[int] = LENGTHS) -> Ragged:
    values = torch.randn(sum(lengths), SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Ragged.from_lengths(values, torch.tensor(lengths))


def trained(**arguments: object) -> AttentionPooling:
    """Attention pooling that has left its starting point."""
    pooling = AttentionPooling(dimension=SIZE, **arguments).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return pooling


def naive_attention(pooling: AttentionPooling, row: Tensor) -> Tensor:
    """``e_i = v^T tanh(W x_i + b)`` or ``q^T x_i / sqrt(h)``, a softmax and a weighted sum per head."""
    width = SIZE // pooling.heads
    parts = []
    for head in range(pooling.heads):
        query = pooling.query[head]
        if pooling.context:
            scores = [query @ torch.tanh(inner) for inner in naive_context(pooling, row)]
        elif pooling.score == "feedforward":
            scores = [query @ torch.tanh(pooling.inner.weight @ x + pooling.inner.bias) for x in row]
        else:
            scores = [query @ x / math.sqrt(SIZE) for x in row]
        weights = torch.softmax(torch.stack(scores), 0)
        slices = row[:, head * width : (head + 1) * width]
        parts.append(sum(w * x for w, x in zip(weights, slices, strict=True)))
    return torch.cat(parts)  # type: ignore[arg-type]


def naive_context(pooling: AttentionPooling, row: Tensor) -> list[Tensor]:
    """``W n_i + U c_i + P (n_i * c_i) + b`` with ``c_i`` the mean of the others' ``n``."""
    normal = [(x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() for x in row]
    found = []
    for place, own in enumerate(normal):
        others = normal[:place] + normal[place + 1 :]
        company = torch.stack(others).mean(0) if others else torch.zeros_like(own)
        terms = (
            pooling.inner.weight @ own + pooling.inner.bias,
            pooling.others.weight @ company,
            pooling.agreement.weight @ (own * company),
        )
        found.append(sum(terms))
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("pooling", "reduce"),
    [
        (MeanPooling(), lambda row: row.mean(0)),
        (MaxPooling(), lambda row: row.amax(0)),
        (CLSPooling(), lambda row: row[0]),
        (LastTokenPooling(), lambda row: row[-1]),
    ],
)
def test_simple_poolings_equal_loops(pooling: Pooling, reduce: object) -> None:
    given = states()
    found = pooling(given)
    for row in range(len(given)):
        expected = reduce(given[row]) if len(given[row]) else torch.zeros(SIZE).double()  # type: ignore[operator]
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize(
    "arguments",
    [{"hidden": 5}, {"hidden": 5, "context": True}, {"score": "dot"}],
    ids=["feedforward", "context", "dot"],
)
def test_attention_equals_its_formula(arguments: dict[str, object], heads: int) -> None:
    pooling, given = trained(heads=heads, **arguments), states()
    values = given.values.clone().requires_grad_()
    found = pooling(Ragged(values, given.offsets))
    rows = [values[given.offsets[row] : given.offsets[row + 1]] for row in range(len(given))]
    expected = torch.stack([naive_attention(pooling, row) if len(row) else torch.zeros(SIZE) for row in rows])
    assert_equal_with_gradients(found, expected, [values, *pooling.parameters()])


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("arguments", [{}, {"context": True}, {"score": "dot"}])
def test_attention_starts_as_the_mean_and_can_leave_it(arguments: dict[str, Any], heads: int) -> None:
    pooling = AttentionPooling(heads=heads, dimension=SIZE, **arguments).double()
    given = states()
    torch.testing.assert_close(pooling(given), MeanPooling()(given))
    pooling(given).sin().sum().backward()
    assert pooling.query.grad is not None
    assert (pooling.query.grad.norm(dim=1) > 1e-6).all()


def test_context_weighs_a_value_by_its_company() -> None:
    """The same value, in two rows of other values: only with context do its odds against a third differ."""
    first, second, third = states([3]).values
    rows = Ragged.from_lengths(
        torch.stack([first, second, third, first, second, -third]), torch.tensor([3, 3])
    )
    for context in (False, True):
        weights = trained(context=context).weights(rows).squeeze(1)
        odds = weights[0] / weights[1], weights[3] / weights[4]
        assert (abs(odds[0] - odds[1]) < 1e-9) != context


def test_heads_weigh_differently() -> None:
    weights = trained(heads=4).weights(states())
    assert weights.shape == (sum(LENGTHS), 4)
    assert not torch.allclose(weights[:, 0], weights[:, 1])


@pytest.mark.parametrize(
    "pooling",
    [MeanPooling(), MaxPooling(), trained(heads=2), trained(context=True), trained(score="dot")],
)
def test_the_order_of_a_row_makes_no_difference(pooling: Pooling) -> None:
    given = states()
    order = torch.cat(
        [given.offsets[row] + torch.randperm(length) for row, length in enumerate(LENGTHS)],
    )
    torch.testing.assert_close(pooling(Ragged(given.values[order], given.offsets)), pooling(given))


@pytest.mark.parametrize(
    "pooling",
    [MeanPooling(), MaxPooling(), CLSPooling(), LastTokenPooling(), trained(heads=2), trained(context=True)],
)
def test_a_row_does_not_depend_on_its_neighbours(pooling: Pooling) -> None:
    given = states()
    alone = torch.cat([pooling(given.select(torch.tensor([row]))) for row in range(len(given))])
    torch.testing.assert_close(pooling(given), alone)


def test_gradients_of_the_simple_poolings() -> None:
    given = states()
    for pooling in (MeanPooling(), MaxPooling(), CLSPooling(), LastTokenPooling()):
        values = given.values.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, pooling=pooling: pooling(Ragged(x, given.offsets)), values)


def test_empty_rows() -> None:
    nothing = Ragged(torch.zeros(0, SIZE).double(), torch.tensor([0, 0]))
    for pooling in (MeanPooling(), MaxPooling(), CLSPooling(), LastTokenPooling(), trained()):
        assert torch.equal(pooling(nothing), torch.zeros(1, SIZE).double())
    learned = trained(empty="learned")
    found = learned(states())
    torch.testing.assert_close(found[2], learned.empty_vector)
    torch.testing.assert_close(found[3], naive_attention(learned, states()[3]))
    found.sum().backward()
    assert learned.empty_vector.grad is not None
    torch.testing.assert_close(learned.empty_vector.grad, torch.ones(SIZE).double())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="3 heads don't divide 8"):
        AttentionPooling(heads=3, dimension=SIZE)
    with pytest.raises(ValueError, match="additive"):
        AttentionPooling(score="additive")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mean"):
        AttentionPooling(empty="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heads is 0"):
        AttentionPooling(heads=0)
    with pytest.raises(ValueError, match="context needs score='feedforward', not 'dot'"):
        AttentionPooling(score="dot", context=True)
    with pytest.raises(RuntimeError, match="dimension"):
        AttentionPooling()(states())
    with pytest.raises(ValueError, match="for 8 components, the states have 4"):
        AttentionPooling(dimension=8).build(4)


def test_dropping_values_keeps_one_of_each_row() -> None:
    torch.manual_seed(0)
    rows = Ragged.from_lengths(torch.arange(3000), torch.tensor([1, 0, 5] * 500))
    dropped = drop_values(rows, 0.9)
    assert torch.equal(dropped.lengths > 0, rows.lengths > 0)
    assert torch.equal(dropped.values, dropped.values.unique())  # order kept, nothing twice
    for row in range(len(rows)):
        assert set(dropped[row].tolist()) <= set(rows[row].tolist())
    # of five, each stays with 0.1, and at least one does: 0.5 + 0.9 ** 5 expected
    assert dropped.lengths[2::3].float().mean().item() == pytest.approx(0.5 + 0.9**5, abs=0.1)
    assert torch.equal(drop_values(rows, 0.0).values, rows.values)


def test_unit_rows_leave_zero_alone() -> None:
    found = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_weights_count_a_value_more_often() -> None:
    rows = states()
    weights = torch.tensor([1, 3, 2, 1, 1, 2, 4, 1, 1, 3, 5, 2], dtype=torch.float64)
    assert len(weights) == len(rows.values)
    cut = weights.split(LENGTHS)
    repeated = Ragged.from_lengths(
        rows.values.repeat_interleave(weights.long(), 0), torch.tensor([int(row.sum()) for row in cut])
    )
    poolings = [MeanPooling(), trained(heads=2), trained(score="dot"), trained(empty="learned")]
    for pooling in poolings:
        torch.testing.assert_close(pooling(rows, weights), pooling(repeated), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(pooling(rows, 0.01 * weights), pooling(repeated), atol=1e-12, rtol=1e-12)
    for other in (MaxPooling(), CLSPooling(), LastTokenPooling()):
        assert torch.equal(other(rows, weights), other(rows))


def test_weighted_attention_starts_as_the_weighted_mean() -> None:
    rows = states()
    weights = torch.rand(len(rows.values), generator=torch.Generator().manual_seed(4)).double() + 0.1
    expected = torch.zeros(len(LENGTHS), SIZE, dtype=torch.float64)
    places = zip(rows.values.split(LENGTHS), weights.split(LENGTHS), strict=True)
    for number, (row, weight) in enumerate(places):
        if len(row):
            expected[number] = (weight.unsqueeze(1) * row).sum(0) / weight.sum()
    for pooling in (MeanPooling(), AttentionPooling(heads=4, dimension=SIZE).double()):
        torch.testing.assert_close(pooling(rows, weights), expected, atol=1e-12, rtol=1e-12)


def test_layers_follow_their_formula() -> None:
    layers, size = Projection.stack(3, 5, 4)
    x = torch.randn(7, 4)
    first, second = layers
    hidden = torch.nn.functional.gelu(x @ first.linear.weight.T + first.linear.bias)  # type: ignore[union-attr]
    torch.testing.assert_close(layers(x), hidden @ second.linear.weight.T + second.linear.bias)  # type: ignore[union-attr]
    assert size == 3


def test_what_an_encoder_may_be_given() -> None:
    one = Projection(2, bias=False, activation="tanh", input_dimension=4)
    two = Projection(3)
    assert list(Projection.stack(None, None, 4)[0]) == []
    assert list(Projection.stack(one, None, 4)[0]) == [one]
    assert list(Projection.stack([one, two], None, 4)[0]) == [one, two]
    torch.testing.assert_close(one(torch.ones(1, 4)), torch.tanh(one.linear.weight.sum(1))[None])
    layers, size = Projection.stack([], None, 4)
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
    layers, _ = Projection.stack(3, 5, 4)
    assert layers.training
    x = torch.randn(7, 4)
    torch.testing.assert_close(layers(x), layers.eval()(x))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_out_of_range(dropout: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        Projection(2, dropout=dropout)


def test_bad_arguments_of_a_projection() -> None:
    with pytest.raises(ValueError, match="swish"):
        Projection(2, activation="swish")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes 4 components, not 5"):
        Projection(2, input_dimension=4).build(5)
    with pytest.raises(ValueError, match="hidden needs projection"):
        Projection.stack(None, 4, 8)
