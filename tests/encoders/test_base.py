"""Encoders written down, saved and loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lit_metric.configurable import rebuilt
from lit_metric.encoders import (
    AttentionPooling,
    Encoder,
    MaxPooling,
    Pooling,
    Projection,
    SetEncoder,
    TextEncoder,
)
from tests.encoders.tokens import model_folder

TEXTS = ["w5 w6 w7", "W8", "w9 w10"]


class Foreign(Pooling):
    """A pooling from outside the package."""

    def forward(self, states):  # type: ignore[no-untyped-def]
        return MaxPooling()(states)


def scramble(encoder: Encoder) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def text_encoder(source: str) -> TextEncoder:
    return TextEncoder(
        source,
        AttentionPooling(heads=2, empty="learned"),
        [Projection(5, activation="tanh", dropout=0.3), Projection(4, bias=False)],
        max_length=9,
        prompt="w4 ",
        lower_case=True,
        normalize=False,
        freeze=["embeddings"],
        dropout=0.2,
    )


def test_a_saved_encoder_needs_nothing_else(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "source")
    encoder = text_encoder(source)
    scramble(encoder)
    expected = encoder.encode(TEXTS)
    encoder.save(tmp_path / "saved")
    shutil.rmtree(source)
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = Encoder.load(moved)
    assert isinstance(loaded, TextEncoder)
    np.testing.assert_array_equal(loaded.encode(TEXTS), expected)
    assert loaded.tokenizer.fingerprint == encoder.tokenizer.fingerprint
    assert not loaded.normalize
    assert loaded.backbone.model.config.hidden_dropout_prob == 0.2
    assert [layer.dropout for layer in loaded.projection] == [0.3, 0.0]  # type: ignore[union-attr]
    frozen = [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
    # the backbone is saved once
    own = load_file(moved / "encoder.safetensors")
    assert not any(name.startswith("backbone.") for name in own)


def test_a_saved_set_encoder(tmp_path: Path, tiny: str) -> None:
    encoder = SetEncoder(text_encoder(tiny), projection=3, hidden=6, normalize_texts=True, tag_dropout=0.1)
    scramble(encoder)
    sets = [["w5", "w6"], [], ["w7"]]
    encoder.save(tmp_path)
    loaded = Encoder.load(tmp_path)
    assert isinstance(loaded, SetEncoder)
    np.testing.assert_array_equal(loaded.encode(sets), encoder.encode(sets))
    assert (loaded.tag_dropout, loaded.normalize_texts) == (0.1, True)
    loaded.save(tmp_path / "again")
    np.testing.assert_array_equal(Encoder.load(tmp_path / "again").encode(sets), encoder.encode(sets))


def test_a_spec_is_json_and_builds_the_same(tiny: str) -> None:
    encoder = SetEncoder(text_encoder(tiny), AttentionPooling(score="dot"))
    copy = rebuilt(json.loads(json.dumps(encoder.spec())))
    copy.load_state_dict(encoder.state_dict())
    np.testing.assert_array_equal(copy.encode([["w5", "w6"]]), encoder.encode([["w5", "w6"]]))
    assert copy.spec() == encoder.spec()


def test_a_folder_may_not_name_foreign_classes(tmp_path: Path, tiny: str) -> None:
    TextEncoder(tiny, Foreign()).save(tmp_path)
    with pytest.raises(ValueError, match=r"tests\.encoders\.test_base\.Foreign lies outside lit_metric"):
        Encoder.load(tmp_path)
    assert isinstance(Encoder.load(tmp_path, trust_remote_code=True), TextEncoder)


def test_a_folder_may_not_ask_for_remote_code(tmp_path: Path, tiny: str) -> None:
    TextEncoder(tiny).save(tmp_path)
    described = json.loads((tmp_path / "encoder.json").read_text())
    described["init_args"]["trust_remote_code"] = True
    (tmp_path / "encoder.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="asks to run code"):
        Encoder.load(tmp_path)


def test_a_folder_from_before_projections_had_dropout(tmp_path: Path, tiny: str) -> None:
    encoder = text_encoder(tiny)
    encoder.save(tmp_path)
    described = json.loads((tmp_path / "encoder.json").read_text())
    for layer in described["init_args"]["projection"]:
        del layer["init_args"]["dropout"]
    (tmp_path / "encoder.json").write_text(json.dumps(described))
    np.testing.assert_array_equal(Encoder.load(tmp_path).encode(TEXTS), encoder.encode(TEXTS))


def test_damaged_folders(tmp_path: Path, tiny: str) -> None:
    with pytest.raises(FileNotFoundError, match="no encoder was saved there"):
        Encoder.load(tmp_path)
    TextEncoder(tiny, projection=3).save(tmp_path)
    with pytest.raises(ValueError, match=r"holds a whole encoder: lit_metric\.load"):
        TextEncoder(str(tmp_path))
    described = json.loads((tmp_path / "encoder.json").read_text())
    described["init_args"]["projection"] = None
    (tmp_path / "encoder.json").write_text(json.dumps(described))
    with pytest.raises(
        ValueError, match=r"unexpected \['projection.0.linear.bias', 'projection.0.linear.weight'\]"
    ):
        Encoder.load(tmp_path)
    (tmp_path / "encoder.json").write_text(json.dumps(described | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        Encoder.load(tmp_path)
    described["class_path"] = "lit_metric.encoders.pooling.MaxPooling"
    (tmp_path / "encoder.json").write_text(json.dumps(described | {"init_args": {}}))
    with pytest.raises(ValueError, match="MaxPooling, which is no encoder"):
        Encoder.load(tmp_path)


@pytest.mark.parametrize("kind", ["text", "set"])
def test_encoding_in_half_precision(tiny: str, kind: str) -> None:
    encoder: Encoder = text_encoder(tiny)
    items: list[object] = [*TEXTS]
    if kind == "set":
        encoder, items = SetEncoder(encoder), [TEXTS, TEXTS[:1], TEXTS[1:]]
    encoder.normalize = True
    scramble(encoder)
    exact, half = encoder.encode(items), encoder.encode(items, precision="bfloat16")
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose((exact * half).sum(1), 1, atol=2e-3)
    assert not np.array_equal(exact, half)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(encoder.encode(items), half)
    assert np.array_equal(encoder.encode(items), exact)
    with pytest.raises(ValueError, match="precision is 'int8'; choose one of float32, bfloat16, float16"):
        encoder.encode(items, precision="int8")  # type: ignore[arg-type]
