"""The encoder of texts: what a vector is, what is trained, what is kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders import (
    AttentionPooling,
    CLSPooling,
    LastTokenPooling,
    MeanPooling,
    Pooling,
    TextEncoder,
)
from lit_metric.encoders.text import length_chunks
from tests.encoders.conftest import MINILM
from tests.encoders.sentences import SENTENCES
from tests.encoders.tokens import model_folder

TEXTS = ["w5 w6 w7", "", "w8", "w9 w10 w11 w12 w13 w14 w15 w16", "w5 w6 w7", "w4 w59"]


def batch(encoder: TextEncoder, ids: Tensor | None = None, texts: list[str] = TEXTS) -> EncoderInput:
    return EncoderInput(
        encoder.tokenizer.tokenize_ragged(texts), Ragged.from_lists([[row] for row in range(len(texts))]), ids
    )


def transformers_states(folder: str, text: str) -> Tensor:
    """``[length, h]``, the last hidden states of one text by transformers alone."""
    tokens = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=tokens["input_ids"]).last_hidden_state[0]


def test_vectors_are_the_pooled_states_of_transformers(tiny: str) -> None:
    encoder = TextEncoder(tiny, normalize=False).eval()
    expected = torch.stack([transformers_states(tiny, text).mean(0) for text in TEXTS])
    torch.testing.assert_close(encoder(batch(encoder)), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected.numpy(), atol=1e-5)
    first = TextEncoder(tiny, pooling=CLSPooling())
    expected = torch.stack([transformers_states(tiny, text)[0] for text in TEXTS])
    torch.testing.assert_close(first(batch(first)), expected, atol=1e-5, rtol=1e-5)
    unit = expected / expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(first.encode(TEXTS), unit.numpy(), atol=1e-5)


def test_a_causal_model_with_last_token_pooling(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "qwen3")
    encoder = TextEncoder(folder, pooling=LastTokenPooling(), packing="always", normalize=False)
    expected = torch.stack([transformers_states(folder, text)[-1] for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("family", "packed"), [("mpnet", True), ("deberta-v2", False)])
def test_families_with_their_own_attention(family: str, packed: bool, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, family)
    encoder = TextEncoder(folder, normalize=False)
    assert encoder.backbone.packed == packed
    expected = torch.stack([transformers_states(folder, text).mean(0) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), expected.numpy(), atol=2e-5)


def test_minilm_equals_sentence_transformers(minilm: str) -> None:
    from sentence_transformers import SentenceTransformer

    texts = list(SENTENCES)
    if os.environ.get("LIT_METRIC_DATA"):
        import pyarrow.parquet as parquet

        table = parquet.read_table(Path(os.environ["LIT_METRIC_DATA"], "banking77", "test.parquet"))
        texts += table["text"].to_pylist()[:50]
    encoder = TextEncoder(MINILM)
    assert encoder.backbone.packed
    assert (encoder.tokenizer.max_length, encoder.normalize, encoder.dimension) == (256, True, 384)
    expected = SentenceTransformer(minilm, device="cpu").encode(texts)
    np.testing.assert_allclose(encoder.encode(texts, max_tokens=2000), expected, atol=1e-5)
    padded = TextEncoder(MINILM, packing="never")
    np.testing.assert_allclose(padded.encode(texts[:20]), expected[:20], atol=1e-5)


def test_items_name_texts_in_any_order_and_repeatedly(tiny: str) -> None:
    encoder = TextEncoder(tiny)
    tokens = batch(encoder).tokens
    vectors = encoder(batch(encoder))
    picked = Ragged.from_lists([[3], [0], [3]])
    torch.testing.assert_close(encoder(EncoderInput(tokens, picked)), vectors[[3, 0, 3]])
    with pytest.raises(ValueError, match="SetEncoder"):
        encoder(EncoderInput(tokens, Ragged.from_lists([[0, 1], [2]])))


def test_encode_restores_order_and_modes(tiny: str) -> None:
    encoder = TextEncoder(tiny, dropout=0.5, projection=3)
    encoder.train()
    encoder.pooling.eval()
    modes = [module.training for module in encoder.modules()]
    one_by_one = np.concatenate([encoder.encode([text]) for text in TEXTS])
    for max_tokens in (1, 12, 10_000):
        np.testing.assert_allclose(encoder.encode(TEXTS, max_tokens), one_by_one, atol=1e-6)
    assert modes == [module.training for module in encoder.modules()]
    assert one_by_one.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(one_by_one, axis=1), 1, atol=1e-6)
    assert encoder.encode([]).shape == (0, 3)
    np.testing.assert_array_equal(encoder.encode("a text"), encoder.encode(["a text"])[0])
    with pytest.raises(TypeError, match="text"):
        encoder.encode([["a", "list"]])


def test_chunks_are_full_but_not_more() -> None:
    lengths = torch.tensor([3, 9, 1, 4, 4, 20, 2])
    chunks = list(length_chunks(lengths, 10))
    assert sorted(torch.cat(chunks).tolist()) == list(range(7))
    assert [lengths[chunk].tolist() for chunk in chunks] == [[20], [9], [4, 4], [3, 2, 1]]


def test_the_projection_and_dropout_take_part(tiny: str) -> None:
    encoder = TextEncoder(tiny, projection=3, hidden=5, dropout=0.3)
    inputs = batch(encoder)
    encoder.train()
    assert not torch.equal(encoder(inputs), encoder(inputs))
    encoder.eval()
    first, second = encoder.projection
    hidden = torch.nn.functional.gelu(first.linear(encoder.features(inputs)))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(encoder(inputs), second.linear(hidden))  # type: ignore[union-attr, operator]


def test_freezing(tiny: str) -> None:
    def trained(**arguments: object) -> set[str]:
        encoder = TextEncoder(tiny, projection=3, **arguments)  # type: ignore[arg-type]
        return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}

    everything = trained()
    assert trained(freeze=True) == {"projection.0.linear.weight", "projection.0.linear.bias"}
    assert not any("embeddings" in name for name in trained(freeze=["embeddings"]))
    assert everything - trained(freeze=["encoder.layer.1"]) == {
        name for name in everything if "encoder.layer.1." in name
    }
    assert not any(name.endswith("LayerNorm.bias") for name in trained(freeze=["*.LayerNorm.bias"]))
    with pytest.raises(ValueError, match=r"'encoder\.layer\.9'; its parts are embeddings, encoder, pooler"):
        TextEncoder(tiny, freeze=["encoder.layer.9"])


def test_all_that_is_trained_gets_a_gradient(tiny: str) -> None:
    encoder = TextEncoder(tiny, pooling=AttentionPooling(heads=2), projection=3)
    encoder(batch(encoder)).square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_a_frozen_backbone_runs_in_evaluation_mode(tiny: str) -> None:
    for pooling in (None, AttentionPooling()):
        encoder = TextEncoder(tiny, pooling=pooling, projection=3, freeze=True, dropout=0.5)
        encoder.train()
        assert not encoder.backbone.training
        assert encoder.projection.training
        first = encoder(batch(encoder))
        assert torch.equal(encoder(batch(encoder)), first)
        first.sum().backward()
        assert encoder.projection[0].linear.weight.grad is not None  # type: ignore[union-attr]
        assert all(parameter.grad is None for parameter in encoder.backbone.parameters())


def test_frozen_texts_are_encoded_once(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(tiny, freeze=True, projection=3)
    inputs = batch(encoder)
    expected = encoder(inputs)
    calls: list[int] = []
    forward = encoder.backbone.forward
    monkeypatch.setattr(encoder.backbone, "forward", lambda t: (calls.append(len(t)), forward(t))[1])
    known = batch(encoder, torch.tensor([7, 3, 20, 11, 8, 0]))
    torch.testing.assert_close(encoder(known), expected)
    torch.testing.assert_close(encoder(known), expected)
    some = torch.tensor([2, 0])
    torch.testing.assert_close(encoder(known.select(some)), expected[some])
    assert calls == [6]
    # the projection is not part of what is kept
    with torch.no_grad():
        encoder.projection[0].linear.weight.mul_(2)  # type: ignore[union-attr]
    assert not torch.allclose(encoder(known), expected)
    assert calls == [6]
    # but the weights of the backbone are
    with torch.no_grad():
        encoder.backbone.model.embeddings.LayerNorm.weight.mul_(2)
    torch.testing.assert_close(encoder(known), encoder(inputs))
    assert calls == [6, 6, 6]
    assert not any("table" in name for name in encoder.state_dict())
    encoder.clear_cache()
    encoder(known)
    assert calls == [6, 6, 6, 6]
    encoder.double()
    assert encoder(known).dtype == torch.float64


def test_nothing_is_kept_while_something_below_is_trained(tiny: str) -> None:
    for arguments in ({"freeze": ["embeddings"]}, {"freeze": True, "pooling": AttentionPooling()}):
        encoder = TextEncoder(tiny, **arguments)  # type: ignore[arg-type]
        encoder(batch(encoder, torch.arange(len(TEXTS))))
        assert encoder.table.count == 0
    encoder = TextEncoder(tiny, freeze=True, cache_frozen=False)
    encoder(batch(encoder, torch.arange(len(TEXTS))))
    assert encoder.table.count == 0


@pytest.mark.parametrize("family", ["bert", "qwen3", "mpnet"])
@pytest.mark.parametrize(("pooling", "take"), [(MeanPooling, "mean"), (CLSPooling, "first")])
def test_a_prompt_is_seen_by_the_backbone_and_kept_out_of_pooling(
    family: str, pooling: type[Pooling], take: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path, family)
    encoder = TextEncoder(folder, pooling(), prompts={"query": "w20 w21 "}, pool_prompt=False)
    expected = []
    for text in TEXTS:
        states = transformers_states(folder, "w20 w21 " + text)[3:]  # [CLS] and the prompt's two
        expected.append(states.mean(0) if take == "mean" else states[0])
    vectors = torch.nn.functional.normalize(torch.stack(expected), dim=1)
    np.testing.assert_allclose(encoder.encode(TEXTS, role="query"), vectors.numpy(), atol=1e-5)
    # each in its role, whatever the order
    roles = ["query", "document"] * 3
    alone = {role: encoder.encode(TEXTS, role=role) for role in ("query", "document")}
    np.testing.assert_allclose(
        encoder.encode(TEXTS, role=roles), [alone[role][row] for row, role in enumerate(roles)], atol=1e-6
    )
