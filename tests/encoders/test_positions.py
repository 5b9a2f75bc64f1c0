"""Positions as transformers counts them."""

from __future__ import annotations

import pytest
import torch
from transformers.models.mpnet.modeling_mpnet import create_position_ids_from_input_ids

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.positions import position_ids, positions
from tests.encoders.models import make


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_from_behind_the_padding_as_transformers_does_when_a_text_holds_it(family: str) -> None:
    model = make(family)
    count = getattr(
        model.embeddings, "create_position_ids_from_input_ids", create_position_ids_from_input_ids
    )
    tokens = Ragged.from_lists([[7, 1, 8, 1, 9], [1, 6]])
    expected = [count(tokens[row][None], 1)[0] for row in range(len(tokens))]
    assert torch.equal(position_ids(model, tokens), torch.cat(expected))
    assert expected[0].tolist() == [2, 1, 3, 1, 4]


def test_from_zero() -> None:
    assert position_ids(make("bert"), Ragged.from_lists([[7, 1, 8], [1, 6]])).tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
def test_the_limit_is_the_last_text_that_the_model_takes(family: str) -> None:
    model = make(family)
    limit = positions(model)
    assert limit == 64  # 66 rows in RoBERTa and MPNet, of which the first two belong to padding
    assert model(torch.full((1, limit), 7)).last_hidden_state.shape == (1, limit, 32)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 7))
