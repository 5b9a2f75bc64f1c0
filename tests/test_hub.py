"""In and out of other people's formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from lit_metric import hub
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
)
from tests.encoders.conftest import minilm, tiny  # noqa: F401
from tests.encoders.sentences import SENTENCES

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


def test_what_has_no_counterpart_is_refused(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"SetEncoder.*lit_metric\.hub\.load, or export its text tower"):
        hub.export(SetEncoder(TextEncoder(tiny)), tmp_path)
    with pytest.raises(ValueError, match=r"no AttentionPooling, only mean, cls, max, lasttoken"):
        hub.export(TextEncoder(tiny, AttentionPooling()), tmp_path)
    assert not list(tmp_path.iterdir())
