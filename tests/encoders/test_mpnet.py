"""What only MPNet has: a bias of relative positions, and an attention of its own.

That packing changes neither outputs nor gradients is in test_packing.py, with the other families.
"""

from __future__ import annotations

import math

import pytest
import torch

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import packing
from lit_metric.encoders.layout import Layout
from lit_metric.encoders.packing import mpnet_forward, padded_forward, position_masks, probe
from tests.encoders.models import VOCABULARY, make


def tokens(lengths: list[int]) -> Ragged:
    ids = torch.randint(5, VOCABULARY, (sum(lengths),), generator=torch.Generator().manual_seed(3))
    return Ragged.from_lengths(ids, torch.tensor(lengths))


def test_a_bucket_adds_the_bias_of_each_pair_and_hides_its_padding() -> None:
    encoder = make("mpnet").encoder
    layout = Layout.of(tokens([3, 9, 2]), max_buckets=2)
    assert [(bucket.rows, bucket.length) for bucket in layout.buckets] == [(2, 3), (1, 9)]
    (short, _), (long, _) = position_masks(encoder, layout)
    for row, length in enumerate((2, 3)):  # sorted by length
        for i in range(3):
            for j in range(3):
                kind = encoder.relative_position_bucket(torch.tensor(j - i))
                bias = encoder.relative_attention_bias.weight[kind]
                expected = bias if j < length else torch.full((4,), -math.inf)
                torch.testing.assert_close(short[row, :, i, j], expected)
    torch.testing.assert_close(long, encoder.compute_position_bias(torch.zeros(1, 9)))


def test_texts_longer_than_the_farthest_bucket() -> None:
    """Distances of 128 and more share one bias; between 8 and there several do."""
    model = make("mpnet", max_position_embeddings=302)
    given = tokens([300, 4, 160, 1])
    torch.testing.assert_close(
        mpnet_forward(model, given), padded_forward(model, given, 1), atol=2e-5, rtol=1e-5
    )


def test_a_bias_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "position_masks", lambda _, layout: [(None, False) for _ in layout.buckets])
    verdict = probe(make("mpnet"), max_length=60, special={0, 1, 2}, padding=1)
    assert "outputs differ" in verdict.reason


def test_a_bias_without_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(encoder: object, layout: Layout) -> list[tuple[torch.Tensor, bool]]:
        return [(mask.detach(), causal) for mask, causal in position_masks(encoder, layout)]

    monkeypatch.setattr(packing, "position_masks", frozen)
    verdict = probe(make("mpnet"), max_length=60, special={0, 1, 2}, padding=1)
    assert verdict.reason == "other parameters take part"


@pytest.mark.parametrize(
    "part",
    ["embeddings", "encoder.layer.0.attention.attn", "encoder.layer.1.attention", "encoder.layer.1.output"],
)
def test_each_dropout_is_the_models(part: str) -> None:
    given, model = tokens([5, 9, 5]), make("mpnet", dropout=0.3)
    expected = mpnet_forward(model, given)
    torch.testing.assert_close(expected, mpnet_forward(make("mpnet"), given))
    model.get_submodule(part).train()
    assert not torch.allclose(mpnet_forward(model, given), expected, atol=1e-3)


def test_the_model_is_left_as_it_is() -> None:
    """Packing changes no class, method or setting: the model works for everybody else as before."""
    model, fresh = make("mpnet"), make("mpnet")
    given = tokens([4, 4])
    assert probe(model, max_length=60, special={0, 1, 2}, padding=1).packed
    for (name, module), other in zip(model.named_modules(), fresh.modules(), strict=True):
        assert type(module) is type(other), name
        assert vars(module).keys() == vars(other).keys(), name
    assert model.config.to_dict() == fresh.config.to_dict()
    ids = given.values.view(2, 4)
    assert torch.equal(model(ids).last_hidden_state, fresh(ids).last_hidden_state)
