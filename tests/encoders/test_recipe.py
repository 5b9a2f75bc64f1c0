"""sentence-transformers folders are read whole, and what can't be read is no surprise later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling
from torch import nn

from lit_metric.encoders import CLSPooling, TextEncoder
from lit_metric.encoders.recipe import Recipe
from tests.encoders.tokens import model_folder

TEXTS = ["w5 w6 w7", "W8 w9", "w10 w11 w12 w13 w14 w15 w16 w17 w18 w19", ""]


def reference(folder: Path, mode: str = "mean", *more: nn.Module, **arguments: object) -> SentenceTransformer:
    """A sentence-transformers model, saved in ``folder / "st"``."""
    lower_case = bool(arguments.pop("lower_case", False))
    text = Transformer(model_folder(folder / "hf"), max_seq_length=8, do_lower_case=lower_case)
    model = SentenceTransformer(modules=[text, ReferencePooling(32, mode), *more], device="cpu", **arguments)  # type: ignore[arg-type]
    model.save(str(folder / "st"))
    return SentenceTransformer(str(folder / "st"), device="cpu")


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_poolings(mode: str, normalize: bool, tmp_path: Path) -> None:
    expected = reference(tmp_path, mode, *([Normalize()] if normalize else [])).encode(TEXTS)
    encoder = TextEncoder(str(tmp_path / "st"))
    assert encoder.normalize == normalize
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


def test_dense_layers_prompt_and_length(tmp_path: Path) -> None:
    layers = [
        Dense(32, 6, activation_function=nn.GELU()),
        Dense(6, 4, bias=False, activation_function=nn.Identity()),
    ]
    prompts = {"prompts": {"query": "w20 ", "other": "w21 "}, "default_prompt_name": "query"}
    expected = reference(tmp_path, "mean", *layers, Normalize(), **prompts).encode(TEXTS)
    encoder = TextEncoder(str(tmp_path / "st"))
    assert (encoder.tokenizer.prompt, encoder.tokenizer.max_length, encoder.dimension) == ("w20 ", 8, 4)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    # what is given here wins; a pooling of one's own leaves the dense layers out
    other = TextEncoder(str(tmp_path / "st"), pooling=CLSPooling(), prompt="", max_length=5, normalize=False)
    assert (other.tokenizer.prompt, other.tokenizer.max_length, other.dimension) == ("", 5, 32)
    assert TextEncoder(str(tmp_path / "st"), projection=3).dimension == 3


def test_lower_case(tmp_path: Path) -> None:
    expected = reference(tmp_path, lower_case=True).encode(TEXTS)
    encoder = TextEncoder(str(tmp_path / "st"))
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert (encoder.encode(["W8"]) == encoder.encode(["w8"])).all()


def test_a_plain_folder_says_nothing(tiny: str) -> None:
    assert Recipe.read(tiny) == Recipe()


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_cannot_be_reproduced_is_refused(tmp_path: Path) -> None:
    reference(tmp_path, "mean", Dense(32, 4))
    folder = tmp_path / "st"
    pooling, dense = folder / "1_Pooling" / "config.json", folder / "2_Dense" / "config.json"
    for path, values, message in [
        (pooling, {"pooling_mode": "weightedmean"}, "pooling 'weightedmean'"),
        (pooling, {"pooling_mode": ["cls", "mean"]}, "pooling 'cls\\+mean'"),
        (dense, {"activation_function": "torch.nn.modules.activation.SELU"}, "dense layer"),
        (dense, {"use_residual": True}, "dense layer"),
        (dense, {"module_output_name": "other"}, "a module Dense"),
    ]:
        before = path.read_text()
        change(path, **values)
        with pytest.raises(ValueError, match=f"{message}.*pass pooling="):
            TextEncoder(str(folder))
        assert TextEncoder(str(folder), pooling=CLSPooling()).dimension == 32
        path.write_text(before)
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.LSTM"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="a module LSTM in '2_Dense'"):
        TextEncoder(str(folder))
    (folder / "modules.json").write_text(json.dumps(modules[1:]))
    with pytest.raises(ValueError, match="first module is Pooling"):
        TextEncoder(str(folder))


def test_truncated_dimensions_are_kept(tmp_path: Path) -> None:
    expected = reference(tmp_path, truncate_dim=12).encode(TEXTS)
    encoder = TextEncoder(str(tmp_path / "st"))
    assert (encoder.dimension, encoder.truncate_dim, expected.shape[1]) == (12, 12, 12)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    unit = TextEncoder(str(tmp_path / "st"), normalize=True).encode(TEXTS)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    whole = TextEncoder(str(tmp_path / "st"), truncate_dim=32)
    np.testing.assert_allclose(whole.encode(TEXTS)[:, :12], expected, atol=1e-5)
    with pytest.raises(ValueError, match="truncate_dim=12 components, and a projection comes after it"):
        TextEncoder(str(tmp_path / "st"), projection=16)
    assert TextEncoder(str(tmp_path / "st"), projection=16, truncate_dim=16).dimension == 16
    assert TextEncoder(str(tmp_path / "st"), pooling=CLSPooling()).dimension == 32
    for wrong in (0, 33):
        with pytest.raises(ValueError, match=f"truncate_dim is {wrong}; vectors have 32"):
            TextEncoder(str(tmp_path / "st"), truncate_dim=wrong)


def test_every_other_setting_is_used_told_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference(tmp_path, "mean", Normalize())
    folder = tmp_path / "st"
    text, general = folder / "sentence_bert_config.json", folder / "config_sentence_transformers.json"
    normalize, modules = folder / "2_Normalize" / "config.json", folder / "modules.json"
    for path, values, message in [
        (general, {"model_type": "SparseEncoder"}, "is a SparseEncoder"),
        (general, {"default_prompt_name": "query", "prompts": {}}, "default_prompt_name is 'query'"),
        (text, {"transformer_task": "fill-mask"}, "transformer_task"),
        (text, {"modality_config": {"message": {"method": "forward"}}}, "modality_config"),
        (text, {"module_output_name": "sentence_embedding"}, "module_output_name"),
        (text, {"query_expansion": {"length": 8}}, "query_expansion"),
        (text, {"processing_kwargs": {"text": {"padding": "max_length"}}}, "processing_kwargs"),
        (text, {"tokenizer_args": {"model_max_length": 3}}, "config_args"),
        (normalize, {"module_input_name": "token_embeddings"}, "a module Normalize"),
    ]:
        before = path.read_text()
        change(path, **values)
        with pytest.raises(ValueError, match=message):
            TextEncoder(str(folder))
        path.write_text(before)
    change(general, similarity_fn_name="dot")
    change(text, query_length=4, document_length=6, tokenizer_args={"padding_side": "left"})
    encoder = TextEncoder(str(folder))
    assert "compares its vectors by dot" in caplog.text
    assert encoder.tokenizer.max_lengths == {"query": 4, "document": 6}
    before = modules.read_text()
    for place, kind in ((0, "custom.Transformer"), (1, "custom.Pooling"), (2, "custom.Normalize")):
        parts = json.loads(before)
        parts[place]["type"] = kind
        modules.write_text(json.dumps(parts))
        with pytest.raises(ValueError, match=kind):
            TextEncoder(str(folder))
    modules.write_text(json.dumps(json.loads(before)[:1]))
    with pytest.raises(ValueError, match="no pooling"):
        TextEncoder(str(folder))
