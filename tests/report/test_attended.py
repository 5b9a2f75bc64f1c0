"""Attention weights against a softmax by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_metric.encoders import AttentionPooling, MeanPooling, SetEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.report.attended import attention_of
from tests.encoders.tokens import model_folder

DIMENSION = 32
"""Of the tiny model."""
TAGS = [["w4 w5", "w6", "w7"], [], ["w6"]]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model_folder(Path(tmp_path_factory.mktemp("model")))


def pooling(seed: int, heads: int = 2) -> AttentionPooling:
    made = AttentionPooling(heads=heads)
    made.build(DIMENSION)
    with torch.no_grad():
        made.query.copy_(torch.randn(made.query.shape, generator=torch.Generator().manual_seed(seed)))
    return made


def by_hand(pooling: AttentionPooling, states: Tensor) -> Tensor:
    """``[heads, parts]``, a softmax over the parts of one item."""
    scores = torch.tanh(states @ pooling.inner.weight.T + pooling.inner.bias) @ pooling.query.T
    exponentials = scores.double().exp()
    return (exponentials / exponentials.sum(dim=0)).T


@pytest.mark.parametrize("normalize_texts", [False, True])
def test_tags_are_weighed_as_by_hand(backbone: str, normalize_texts: bool) -> None:
    text = TextEncoder(backbone)
    trained = SetEncoder(text, pooling(0), normalize_texts=normalize_texts)
    untrained = SetEncoder(text, pooling(1), normalize_texts=normalize_texts)
    trained.train()
    first, second = attention_of(untrained, trained, TAGS, [5, 6, 7])
    assert all(module.training for module in trained.pooling.modules())
    assert (first.item, first.kind, first.parts) == (5, "tags", TAGS[0])
    assert (second.item, second.parts) == (7, ["w6"])  # the empty item isn't there
    plain = TextEncoder(backbone, normalize=normalize_texts)
    states = torch.from_numpy(plain.encode(TAGS[0]))
    with torch.no_grad():
        for found, encoder in ((first.before, untrained), (first.after, trained)):
            wanted = by_hand(encoder.pooling, states)  # type: ignore[arg-type]
            torch.testing.assert_close(torch.tensor(found).double(), wanted, atol=1e-5, rtol=1e-4)
    assert second.after == [[1.0], [1.0]]


def test_weights_of_tags_count(backbone: str) -> None:
    encoder = SetEncoder(TextEncoder(backbone))  # untrained attention is the weighted mean
    (found,) = attention_of(None, encoder, [["w4", "w5"]], [0], weights=[[3.0, 1.0]])
    assert found.before is None
    assert found.after[0] == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("role", [None, "query"])
def test_tokens_are_weighed_as_by_hand(backbone: str, role: str | None) -> None:
    encoder = TextEncoder(backbone, pooling=pooling(2, 4), prompts={"query": "w9 w10 "}, pool_prompt=False)
    (found,) = attention_of(None, encoder, ["w4 w5"], [3], role)
    ids = encoder.tokenizer.tokenize(["w4 w5"], role)
    hidden = 3 if role else 0  # [CLS] w9 w10
    with torch.no_grad():
        states = encoder.eval().backbone.model(torch.tensor(ids)).last_hidden_state[0, hidden:]
        wanted = by_hand(encoder.pooling, states)  # type: ignore[arg-type]
    names = ["[CLS]", "w4", "w5", "[SEP]"]
    assert (found.kind, found.parts) == ("tokens", names[1:] if role else names)
    torch.testing.assert_close(torch.tensor(found.after).double(), wanted, atol=1e-5, rtol=1e-4)


def test_poolings_without_weights_have_none(backbone: str) -> None:
    mean, attention = TextEncoder(backbone, pooling=MeanPooling()), TextEncoder(backbone, pooling=pooling(3))
    assert attention_of(attention, mean, ["w4"], [0]) == []
    (found,) = attention_of(mean, attention, ["w4"], [0])
    assert found.before is None


def test_a_tower_is_chosen_by_role(backbone: str) -> None:
    towers = TwoTowerEncoder(TextEncoder(backbone, pooling=pooling(4)), TextEncoder(backbone))
    assert len(attention_of(None, towers, ["w4"], [0], "query")) == 1
    assert attention_of(None, towers, ["w4"], [0], "document") == []
