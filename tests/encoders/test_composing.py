"""References composed with edits, against a loop; and that targets pass through unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import ComposedPooling, SetEncoder, TextEncoder
from tests.encoders.gradients import assert_equal_with_gradients

LENGTHS, SIZE = [2, 1, 0, 4, 2], 6


def states() -> Ragged:
    values = torch.randn(sum(LENGTHS), SIZE, generator=torch.Generator().manual_seed(1)).double()
    return Ragged.from_lengths(values, torch.tensor(LENGTHS))


def trained(hidden: int | None = 5) -> ComposedPooling:
    pooling = ComposedPooling(hidden, dimension=SIZE).double()
    generator = torch.Generator().manual_seed(2)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return pooling


def naive(pooling: ComposedPooling, row: Tensor, weights: Tensor) -> Tensor:
    if not len(row):
        return torch.zeros(SIZE).double()
    reference, *edits = (each / each.norm() for each in row)
    composed = reference
    for edit, weight in zip(edits, weights[1:], strict=True):
        hidden = pooling.inner.weight @ torch.cat([reference, edit]) + pooling.inner.bias
        change = pooling.outer.weight @ F.gelu(hidden) + pooling.outer.bias
        composed = composed + weight / weights[0] * (edit + change)
    return composed


@pytest.mark.parametrize("weighted", [False, True])
def test_it_equals_a_loop_over_edits(weighted: bool) -> None:
    pooling, given = trained(), states()
    values = given.values.clone().requires_grad_()
    weights = torch.rand(len(values), generator=torch.Generator().manual_seed(3)).double() + 0.5
    found = pooling(Ragged(values, given.offsets), weights if weighted else None)
    shares = (weights if weighted else torch.ones_like(weights)).split(LENGTHS)
    expected = torch.stack(
        [naive(pooling, row, own) for row, own in zip(values.split(LENGTHS), shares, strict=True)]
    )
    assert_equal_with_gradients(found, expected, [values, *pooling.parameters()])


def test_before_training_a_query_is_the_sum_and_afterwards_targets_are_still_themselves() -> None:
    given = states()
    unit = F.normalize(given.values, dim=1)
    untrained = ComposedPooling(dimension=SIZE).double()(given)
    torch.testing.assert_close(untrained[0], unit[0] + unit[1])
    torch.testing.assert_close(untrained[3], unit[3:7].sum(0))
    found = trained()(given)
    assert torch.equal(found[1], unit[2])  # a row of one value
    assert not found[2].any()
    assert not torch.allclose(found[0], untrained[0])


def test_the_places_of_reference_and_edit_matter() -> None:
    pooling, given = trained(), states().select(torch.tensor([0]))
    turned = Ragged(given.values.flip(0), given.offsets)
    assert not torch.allclose(pooling(given), pooling(turned), atol=0.1)


def test_dropout_in_training_leaves_targets_alone() -> None:
    pooling = ComposedPooling(dropout=0.5, dimension=SIZE).double()
    torch.nn.init.normal_(pooling.outer.weight)
    first, second = pooling(states()), pooling(states())
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[0])
    pooling.eval()
    assert torch.equal(pooling(states()), pooling(states()))


def test_an_encoder_gives_targets_the_vectors_of_its_text_encoder(tiny: str) -> None:
    text = TextEncoder(tiny, freeze=True)
    encoder = SetEncoder(text, ComposedPooling())
    torch.nn.init.normal_(encoder.pooling.outer.weight)  # type: ignore[union-attr, arg-type]
    targets = ["w5 w6", "w7"]
    found = encoder.encode([[each] for each in targets])
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(text.encode(targets)))
    one, other = encoder.encode([["w5 w6", "w7"], ["w7", "w5 w6"]])
    assert abs(one - other).max() > 0.01


def test_what_would_lose_the_reference_is_refused(tiny: str) -> None:
    text = TextEncoder(tiny, freeze=True)
    with pytest.raises(ValueError, match="ComposedPooling needs each text at its place: leave tag_dropout"):
        SetEncoder(text, ComposedPooling(), tag_dropout=0.1)
    with pytest.raises(TypeError, match="item 1 is a set, which has no order"):
        SetEncoder(text, ComposedPooling()).encode([["w5", "w6"], {"w5", "w6"}])


def test_half_precision_rows_of_nothing_and_bad_arguments() -> None:
    given = states()
    half = Ragged(given.values.bfloat16(), given.offsets)
    assert ComposedPooling(dimension=SIZE)(half).dtype == torch.float32
    nothing = Ragged(torch.zeros(0, SIZE), torch.tensor([0, 0, 0]))
    assert torch.equal(ComposedPooling(dimension=SIZE)(nothing), torch.zeros(2, SIZE))
    with pytest.raises(ValueError, match="hidden is 0"):
        ComposedPooling(0)
    with pytest.raises(ValueError, match="dropout is 1"):
        ComposedPooling(dropout=1)
    with pytest.raises(RuntimeError, match="dimension"):
        ComposedPooling()(given)
    with pytest.raises(ValueError, match="for 6 components, the states have 4"):
        ComposedPooling(dimension=SIZE).build(4)
