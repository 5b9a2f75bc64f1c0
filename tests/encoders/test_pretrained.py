"""What would give wrong vectors without a word is refused when a model is loaded."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BartConfig, BartModel, T5Config, T5Model, ViTConfig, ViTModel

from lit_metric.encoders import TextEncoder
from tests.encoders.models import VOCABULARY
from tests.encoders.tokens import model_folder, word_tokenizer

TEXTS = ["w5 w6 w7", "W8 w9"]


def rename(folder: Path, change: dict[str, str]) -> None:
    """Give the weights whose names start with a key another beginning, or none at all with ""."""
    path = folder / "model.safetensors"
    weights = {}
    for name, value in load_file(path).items():
        start = next((each for each in change if name.startswith(each)), None)
        if start is None:
            weights[name] = value
        elif change[start]:
            weights[change[start] + name.removeprefix(start)] = value
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod."])
def test_weights_under_another_name_are_refused(prefix: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    rename(tmp_path, {"": prefix})
    message = f"lacks 37 weights .* embeddings.LayerNorm.bias, .* under the prefix '{prefix}'"
    with pytest.raises(ValueError, match=message):
        TextEncoder(folder)


def test_one_missing_weight_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    rename(tmp_path, {"encoder.layer.1.output.dense.bias": ""})
    with pytest.raises(
        ValueError, match=r"lacks 1 weights .*: encoder\.layer\.1\.output\.dense\.bias; it is not a"
    ):
        TextEncoder(folder)


def test_a_missing_pooler_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = model_folder(tmp_path)
    expected = TextEncoder(folder).encode(TEXTS)
    rename(tmp_path, {"pooler.": "", "embeddings.": "embeddings."})
    with caplog.at_level(logging.INFO, logger="lit_metric"):
        np.testing.assert_array_equal(TextEncoder(folder).encode(TEXTS), expected)
    assert not caplog.records


def test_weights_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = model_folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["head.weight"] = weights["pooler.dense.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.INFO, logger="lit_metric"):
        TextEncoder(folder)
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: weights that the model has no place for are not read: head.weight"
    ]


def test_weights_of_other_shapes_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(
        ValueError, match=r"intermediate\.dense\.bias is \(48,\) in the file and \(40,\)"
    ) as told:
        TextEncoder(folder)
    assert "\n" not in str(told.value)


def test_a_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(folder)
    message = (
        rf"'new' with id {VOCABULARY}, .* {VOCABULARY} rows .*resize_token_embeddings\({VOCABULARY + 1}\)"
    )
    with pytest.raises(ValueError, match=message):
        TextEncoder(folder)


def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config.json doesn.t name.*base_model_name_or_path"):
        TextEncoder(folder)


def test_models_that_can_t_encode_texts_are_refused_in_one_line(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    BartModel(
        BartConfig(vocab_size=VOCABULARY, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes)
    ).save_pretrained(tmp_path / "bart")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**small)).save_pretrained(tmp_path / "vit")
    for name, message in {
        "bart": "bart is an encoder with a decoder.*t5",
        "vit": "no table of token",
    }.items():
        word_tokenizer().save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=message) as told:
            TextEncoder(str(tmp_path / name))
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 400


def test_of_t5_the_encoder_is_taken(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    whole = T5Model(T5Config(vocab_size=VOCABULARY, dropout_rate=0.0, **sizes)).eval()
    whole.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    encoder = TextEncoder(str(tmp_path), normalize=False)
    ids = AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0], return_tensors="pt")
    states = whole.encoder(input_ids=ids["input_ids"]).last_hidden_state
    np.testing.assert_allclose(encoder.encode(TEXTS)[0], states.mean(1)[0].detach(), atol=1e-5)


def test_an_unknown_architecture_is_one_line(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "never-heard-of"}))
    with pytest.raises(ValueError, match=r"could not be loaded.*never-heard-of") as told:
        TextEncoder(folder)
    assert "\n" not in str(told.value)
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        TextEncoder(folder)
