"""Where backbones come from, and what is set on the way."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lit_metric.data.ragged import Ragged
from lit_metric.encoders import Backbone
from lit_metric.encoders.attention import PACKED
from lit_metric.encoders.pretrained import locate, set_dropout
from tests.encoders.models import make
from tests.encoders.tokens import model_folder


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "carrier" / "inner" / "model").mkdir(parents=True)
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:carrier/inner/model") == str(tmp_path / "carrier" / "inner" / "model")
    assert "carrier" not in sys.modules
    with pytest.raises(FileNotFoundError, match=r"no folder '.*carrier/inner/other'"):
        locate("package:carrier/inner/other")
    with pytest.raises(FileNotFoundError, match="pip install some-carrier"):
        locate("package:some_carrier/model")
    assert locate("org/model") == "org/model"


def test_a_missing_backbone_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        Backbone.load(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="'no-one/no-such-model' could not be loaded"):
        Backbone.load("no-one/no-such-model")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        Backbone.load(folder)


def test_weights_are_float32_and_the_unused_ones_frozen(tmp_path: Path) -> None:
    make("bert").half().save_pretrained(tmp_path)
    model_folder(tmp_path / "other")
    for file in (tmp_path / "other").glob("token*"):
        file.rename(tmp_path / file.name)
    backbone = Backbone.load(str(tmp_path))
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    frozen = [name for name, parameter in backbone.model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["pooler.dense.weight", "pooler.dense.bias"]
    backbone.requires_grad_(True)
    backbone.freeze_unused()
    assert frozen == [
        name for name, parameter in backbone.model.named_parameters() if not parameter.requires_grad
    ]


def test_never_packing_gives_the_same_states(tiny: str) -> None:
    packed, padded = Backbone.load(tiny, packing="always"), Backbone.load(tiny, packing="never")
    assert packed.model.config._attn_implementation == PACKED
    assert padded.model.config._attn_implementation == "sdpa"
    assert padded.unused == packed.unused != ()
    tokens = Ragged.from_lists([[1, 5, 6, 2], [1, 2], [1, 9, 9, 9, 9, 9, 2]])
    torch.testing.assert_close(packed(tokens).values, padded(tokens).values, atol=1e-5, rtol=1e-5)
    assert torch.equal(packed(tokens).offsets, tokens.offsets)


def test_a_saved_folder_does_not_name_the_packed_attention(tiny: str, tmp_path: Path) -> None:
    Backbone.load(tiny).save(tmp_path)
    assert PACKED not in (tmp_path / "config.json").read_text()
    assert (tmp_path / "model.safetensors").is_file()
    assert (tmp_path / "tokenizer.json").is_file()
    before, after = load_file(Path(tiny, "model.safetensors")), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "qwen3"])
def test_dropout_replaces_every_probability(family: str) -> None:
    model = make(family, dropout=0.25)
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    rates |= {module.attention_dropout for module in model.modules() if hasattr(module, "attention_dropout")}
    assert rates == {0.25}


def test_bad_dropout(tiny: str) -> None:
    with pytest.raises(ValueError, match=r"dropout is 1\.0"):
        Backbone.load(tiny, dropout=1.0)
    with pytest.raises(ValueError, match="static have no dropout"):
        set_dropout(SimpleNamespace(model_type="static"), 0.1)
