"""Tables of token vectors: where they come from, what they give, and how they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model2vec import StaticModel
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sklearn.decomposition import PCA
from tokenizers import Tokenizer

from lit_metric import hub
from lit_metric.data import Ragged
from lit_metric.encoders import (
    AttentionPooling,
    EncoderInput,
    Projection,
    SetEncoder,
    StaticEncoder,
    TextEncoder,
    TwoTowerEncoder,
    distill,
)
from lit_metric.encoders.description import build_described, check_rebuildable, describe
from tests.encoders.models import VOCABULARY
from tests.encoders.sentences import SENTENCES
from tests.encoders.tokens import word_tokenizer

TEXTS = ["w5 w6 w7", "w8 w9 w8", "w10 unknown w11", "", "w12", "unknown"]
IDS = [[5, 6, 7], [8, 9, 8], [10, 3, 11], [], [12], [3]]
"""Tokens of the texts; 3 is the unknown one."""


def table_of(source: str) -> np.ndarray:
    """The input embeddings in a folder of a tiny BERT."""
    return load_file(Path(source, "model.safetensors"))["embeddings.word_embeddings.weight"].numpy()


def means(table: np.ndarray, rows: list[list[int]]) -> np.ndarray:
    return np.stack([table[row].mean(0) if row else np.zeros(table.shape[1], table.dtype) for row in rows])


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def model2vec_folder(folder: Path, **options: Any) -> StaticModel:
    """A model of model2vec with random vectors, saved."""
    draw = np.random.default_rng(0)
    count = options.pop("count", VOCABULARY)
    vectors = draw.normal(size=(count, 16)).astype(options.pop("dtype", np.float32))
    tokenizer = word_tokenizer().backend_tokenizer
    tokenizer.post_processor = None
    model = StaticModel(vectors, tokenizer, **options)
    model.save_pretrained(folder)
    return model


def test_of_a_transformer_the_input_embeddings_are_taken(tiny: str) -> None:
    encoder = StaticEncoder(tiny, normalize=False)
    np.testing.assert_allclose(encoder.encode(TEXTS), means(table_of(tiny), IDS), atol=1e-6)
    assert encoder.dimension == 32
    assert encoder.tokenizer.tokenize(TEXTS) == IDS
    assert encoder.tokenizer.fingerprint != TextEncoder(tiny).tokenizer.fingerprint


def test_what_a_transformer_does_with_its_outputs_is_left_out(minilm: str) -> None:
    encoder = StaticEncoder(minilm)
    assert (encoder.dimension, encoder.tokenizer.max_length, encoder.normalize) == (384, 512, True)
    reference = SentenceTransformer(minilm, device="cpu")
    table = reference[0].auto_model.embeddings.word_embeddings.weight.detach().numpy()
    ids = reference.tokenizer(SENTENCES, add_special_tokens=False, truncation=True, max_length=512)
    expected = unit(means(table, ids["input_ids"]))
    np.testing.assert_allclose(encoder.encode(SENTENCES), expected, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": True},
        {"normalize": True, "dtype": np.float16},
        {"normalize": True, "weights": np.linspace(0.1, 2, VOCABULARY).astype(np.float32)},
        {
            "normalize": True,
            "count": 7,
            "token_mapping": np.arange(VOCABULARY) % 7,
            "weights": np.linspace(0.1, 2, VOCABULARY).astype(np.float32),
        },
        {"normalize": False},
        {"normalize": True, "max_length": 2},
    ],
    ids=["plain", "half", "weights", "mapping", "raw", "short"],
)
def test_a_model_of_model2vec_gives_its_vectors(tmp_path: Path, options: dict[str, Any]) -> None:
    texts = [text for text in TEXTS if options["normalize"] or "unknown" not in text]
    tolerance = 2e-3 if "dtype" in options else 1e-6
    model = model2vec_folder(tmp_path / "modules", **options)
    encoder = StaticEncoder(str(tmp_path / "modules"))
    np.testing.assert_allclose(encoder.encode(texts), model.encode(texts), atol=tolerance)
    assert isinstance(hub.load(tmp_path / "modules"), StaticEncoder)
    # As older versions wrote it, and as files are often copied: without modules.
    (tmp_path / "modules" / "modules.json").unlink()
    plain = StaticEncoder(str(tmp_path / "modules"))
    np.testing.assert_array_equal(plain.encode(texts), encoder.encode(texts))


def test_a_model_of_sentence_transformers_gives_its_vectors(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(VOCABULARY, 16)).astype(np.float32)
    tokenizer = Tokenizer.from_str(word_tokenizer().backend_tokenizer.to_str())
    reference = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=table)], device="cpu", prompts={"query": "w20 "}
    )
    reference.save(str(tmp_path))
    encoder = hub.load(tmp_path)
    assert isinstance(encoder, StaticEncoder)
    long = ["w5 w6 " * 400]
    np.testing.assert_allclose(encoder.encode(TEXTS + long), reference.encode(TEXTS + long), atol=1e-6)
    np.testing.assert_allclose(
        encoder.encode(TEXTS, role="query"), reference.encode(TEXTS, prompt_name="query"), atol=1e-6
    )


def test_an_export_gives_the_same_vectors(tiny: str, tmp_path: Path) -> None:
    encoder = StaticEncoder(
        tiny, projection=[Projection(8, activation="tanh")], max_length=4, prompts={"query": "w20 "}
    )
    hub.export(encoder, tmp_path / "export")
    texts = [*TEXTS, "w5 w6 w7 w8 w9 w10", "[CLS] w5"]
    reference = SentenceTransformer(str(tmp_path / "export"), device="cpu")
    again = hub.load(tmp_path / "export")
    for role, given in ((None, {}), ("query", {"prompt_name": "query"})):
        expected = encoder.encode(texts, role=role)
        np.testing.assert_allclose(reference.encode(texts, **given), expected, atol=1e-6)
        np.testing.assert_allclose(again.encode(texts, role=role), expected, atol=1e-6)
    for number, score in enumerate(("feedforward", "dot")):
        layer = Projection(8, bias=False)
        weighed = StaticEncoder(tiny, AttentionPooling(score=score), [layer] if number else None)
        with torch.no_grad():
            weighed.pooling.query.normal_()
        hub.export(weighed, tmp_path / score)
        reference = SentenceTransformer(str(tmp_path / score), device="cpu")
        np.testing.assert_allclose(reference.encode(texts), weighed.encode(texts), atol=1e-6)
        plain = hub.load(tmp_path / score)
        np.testing.assert_allclose(plain.encode(texts), weighed.encode(texts), atol=1e-6)
        flat = StaticEncoder(tiny, projection=[layer] if number else None)
        assert np.abs(flat.encode(texts) - plain.encode(texts)).max() > 0.01
    plain = StaticEncoder(tiny)
    hub.export(plain, tmp_path / "plain")
    # model2vec leaves out unknown words.
    known = [text for text in TEXTS if "unknown" not in text]
    other = StaticModel.from_pretrained(tmp_path / "plain", normalize=True)
    np.testing.assert_allclose(other.encode(known), plain.encode(known), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": AttentionPooling(empty="learned")},
        {"pooling": AttentionPooling(), "normalize": False},
        {"pooling": AttentionPooling(), "projection": 4},
        {"lower_case": True},
    ],
)
def test_what_is_no_mean_needs_a_file_of_modules(tiny: str, tmp_path: Path, options: dict[str, Any]) -> None:
    encoder = StaticEncoder(tiny, **options)
    if isinstance(encoder.pooling, AttentionPooling):
        with torch.no_grad():
            encoder.pooling.query.normal_()
    hub.export(encoder, tmp_path / "export")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path / "export"), device="cpu")
    peer = SentenceTransformer(str(tmp_path / "export"), device="cpu", trust_remote_code=True)
    texts = [*TEXTS, "W5 w6"]
    np.testing.assert_allclose(peer.encode(texts), encoder.encode(texts), atol=1e-6)


def test_distilling_is_encoding_each_token_then_pca_then_weights(tiny: str, tmp_path: Path) -> None:
    encoder = TextEncoder(tiny, prompt="w30 ", replacements={"-": " "}).train()
    static = distill(encoder, tmp_path / "static", dimension=8, sif=1e-3)
    assert encoder.training
    # One by one, by the model itself; 0 to 3 are special.
    alone = []
    with torch.inference_mode():
        for number in range(4, VOCABULARY):
            states = encoder.backbone.model.eval()(torch.tensor([[1, number, 2]])).last_hidden_state
            alone.append(states[0].mean(0).numpy())
    reduced = PCA(8, svd_solver="full").fit_transform(np.stack(alone).astype(np.float64))
    chances = 1 / np.arange(2, len(alone) + 2)
    chances /= chances.sum()
    expected = np.zeros((VOCABULARY, 8))
    expected[4:] = reduced * (1e-3 / (1e-3 + chances))[:, None]
    found = static.backbone.table.weight.detach().numpy()
    # scikit-learn chooses the signs in another way.
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-5)
    texts = ["w5-w6", *TEXTS]
    read = StaticEncoder(str(tmp_path / "static"))
    assert read.tokenizer.replacements == {"-": " "}
    np.testing.assert_array_equal(read.encode(texts), static.encode(texts))
    np.testing.assert_array_equal(hub.load(tmp_path / "static").encode(texts), static.encode(texts))
    np.testing.assert_allclose(static.encode(texts), unit(means(found, [[5, 6], *IDS])), atol=1e-6)
    # Unknown words don't change the direction.
    np.testing.assert_allclose(static.encode(["w10 w11"]), static.encode(["w10 unknown w11"]), atol=1e-6)


def test_without_pca_and_weights_a_token_is_where_the_encoder_puts_it(tiny: str, tmp_path: Path) -> None:
    encoder = TextEncoder(tiny, projection=6)
    static = distill(encoder, tmp_path, dimension=None, sif=None)
    np.testing.assert_allclose(static.encode(["w7", "w9"]), encoder.encode(["w7", "w9"]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 33}, "dimension is 33; the encoder has 32"),
        ({"dimension": 0}, "dimension is 0"),
        ({"dimension": 8, "sif": 0.0}, r"sif is 0\.0"),
    ],
)
def test_distilling_refuses(tiny: str, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distill(TextEncoder(tiny), tmp_path, **options)


def test_only_a_transformer_is_distilled(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"not of a SetEncoder: distill its text tower, encoder\.text"):
        distill(SetEncoder(TextEncoder(tiny)), tmp_path)
    with pytest.raises(TypeError, match="not of a StaticEncoder"):
        distill(StaticEncoder(tiny), tmp_path)


def test_saved_and_loaded_it_is_the_same(tiny: str, tmp_path: Path) -> None:
    encoder = StaticEncoder(
        tiny, AttentionPooling(2), 4, hidden=6, dropout=0.3, replacements={"-": " "}, max_length=5
    )
    with torch.no_grad():
        for value in encoder.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    check_rebuildable(encoder)
    encoder.save(tmp_path)
    for again in (hub.load(tmp_path), build_described(describe(encoder), encoder.state_dict())):
        assert isinstance(again, StaticEncoder)
        np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
        assert again.spec()["init_args"]["dropout"] == 0.3
        assert again.tokenizer.fingerprint == encoder.tokenizer.fingerprint
    (tmp_path / "backbone" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"without model\.safetensors"):
        hub.load(tmp_path)


def test_sets_and_towers(tiny: str, tmp_path: Path) -> None:
    sets = SetEncoder(StaticEncoder(tiny), projection=4)
    towers = TwoTowerEncoder(StaticEncoder(tiny), TextEncoder(tiny, freeze=True))
    expected = unit(means(table_of(tiny), [[5], [5, 6]]))
    vectors = sets.text.encode(["w5", "w5 w6"])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    for number, (encoder, items) in enumerate(((sets, [["w5", "w6 w7"], ["w8"]]), (towers, TEXTS))):
        check_rebuildable(encoder)
        encoder.save(tmp_path / str(number))
        role = {} if encoder is sets else {"role": "query"}
        again = hub.load(tmp_path / str(number)).encode(items, **role)
        np.testing.assert_array_equal(again, encoder.encode(items, **role))
    with torch.no_grad():
        towers.query.pooling = AttentionPooling(dimension=32)
    np.testing.assert_allclose(
        towers.encode(TEXTS, role="query"), StaticEncoder(tiny).encode(TEXTS), atol=1e-6
    )


def test_gradients_are_those_of_a_dense_table(tiny: str) -> None:
    encoder = StaticEncoder(tiny, AttentionPooling(2)).double().train()
    table = encoder.backbone.table
    inputs = EncoderInput.of_texts(Ragged.from_lists(IDS))
    found = []
    for table.sparse in (False, True):
        encoder.zero_grad()
        weights = torch.arange(1.0, 6 * 32 + 1, dtype=torch.float64).view(6, 32)
        (encoder(inputs) * weights).sum().backward()
        found.append(table.weight.grad)
    assert found[1].is_sparse
    torch.testing.assert_close(found[1].to_dense(), found[0])
    plain = table.weight.detach().clone().requires_grad_()
    with torch.no_grad():
        encoder.pooling.query.zero_()
    pooled = torch.stack([plain[row].mean(0) if row else plain[:1].sum(0) * 0 for row in IDS])
    (pooled * weights).sum().backward()
    encoder.zero_grad()
    (encoder(inputs) * weights).sum().backward()
    torch.testing.assert_close(table.weight.grad.to_dense(), plain.grad)


def test_dropout_leaves_out_tokens_but_never_all(tiny: str) -> None:
    encoder = StaticEncoder(tiny, dropout=0.5, normalize=False).train()
    tokens = Ragged.from_lists([[5, 6]] * 400 + [[7]] * 3 + [[]])
    with torch.no_grad():
        vectors = encoder(EncoderInput.of_texts(tokens)).numpy()
    table = table_of(tiny)
    kinds = [means(table, [row])[0] for row in ([5], [6], [5, 6])]
    counts = [int(np.isclose(vectors[:400], kind, atol=1e-6).all(1).sum()) for kind in kinds]
    assert sum(counts) == 400
    # Both stay with a chance of a quarter.
    assert counts[2] == pytest.approx(100, abs=45)
    np.testing.assert_allclose(vectors[400:403], np.tile(table[7], (3, 1)), atol=1e-6)
    assert not vectors[403].any()
    np.testing.assert_allclose(encoder.encode(["w5 w6"]), [kinds[2]], atol=1e-6)


def test_a_frozen_table_is_looked_up_once_and_not_trained(tiny: str) -> None:
    encoder = StaticEncoder(tiny, projection=4, freeze=True)
    assert {name for name, value in encoder.named_parameters() if value.requires_grad} == {
        "projection.0.linear.weight",
        "projection.0.linear.bias",
    }
    tokens = Ragged.from_lists(IDS)
    vectors = encoder(EncoderInput.of_texts(tokens, torch.arange(6)))
    assert encoder.table.count == 6
    torch.testing.assert_close(encoder(EncoderInput.of_texts(tokens)), vectors)


def test_mistakes_are_named(tiny: str, tmp_path: Path) -> None:
    model2vec_folder(tmp_path / "static", normalize=True)
    with pytest.raises(ValueError, match=r"is a static model, .*: use a StaticEncoder"):
        TextEncoder(str(tmp_path / "static"))
    with pytest.raises(ValueError, match=r"dropout is 1\.0"):
        StaticEncoder(tiny, dropout=1.0)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        StaticEncoder(str(tmp_path / "nothing here"))
    tokenizer = json.loads((tmp_path / "static" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["more"] = VOCABULARY
    (tmp_path / "static" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=f"token 'more' with id {VOCABULARY}, but the table has"):
        StaticEncoder(str(tmp_path / "static"))
