"""The weighted mean of encoders."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_metric import Encoder, SetEncoder, StaticEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.merging import merge_encoders
from tests.encoders.tokens import word_tokenizer

TEXTS = ["w5 w6 w7", "w8"]


def moved(encoder: Encoder, by: float) -> Encoder:
    """A copy whose weights are other numbers."""
    other = copy.deepcopy(encoder)
    random = torch.Generator().manual_seed(int(by * 10))
    with torch.no_grad():
        for value in other.parameters():
            value += by * torch.randn(value.shape, generator=random)
    return other


def test_weights_are_the_weighted_mean(tiny: str, tmp_path: Path) -> None:
    first = TextEncoder(tiny, projection=4)
    second, third = moved(first, 0.1), moved(first, 0.2)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    merged = merge_encoders([first, second, third], [2, 1, 1])
    states = [each.state_dict() for each in (first, second, third)]
    for name, value in merged.state_dict().items():
        if value.is_floating_point():
            expected = 0.5 * states[0][name] + 0.25 * states[1][name] + 0.25 * states[2][name]
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
        assert torch.equal(states[0][name], before[name])
    merged.save(tmp_path)
    np.testing.assert_allclose(Encoder.load(tmp_path).encode(TEXTS), merged.encode(TEXTS), atol=1e-6)
    np.testing.assert_array_equal(merge_encoders([first, second], [1, 0]).encode(TEXTS), first.encode(TEXTS))


def test_sets_and_towers_are_merged_part_by_part(tiny: str) -> None:
    sets = SetEncoder(TextEncoder(tiny), tag_dropout=0.1)
    tags = [["w5", "w6"], ["w7"]]
    merged = merge_encoders([sets, moved(sets, 0.1)])
    assert not np.allclose(merged.encode(tags), sets.encode(tags), atol=1e-4)
    towers = TwoTowerEncoder(TextEncoder(tiny), TextEncoder(tiny))
    same = merge_encoders([towers, copy.deepcopy(towers)])
    np.testing.assert_allclose(
        same.encode(TEXTS, role="query"), towers.encode(TEXTS, role="query"), atol=1e-6
    )


def test_static_models(tiny: str) -> None:
    first = StaticEncoder(tiny)
    other = moved(first, 0.1)
    merged = merge_encoders([first, other], [1, 3])
    states = [each.state_dict() for each in (first, other, merged)]
    [table] = [name for name in states[0] if name.startswith("backbone.")]
    torch.testing.assert_close(states[2][table], 0.25 * states[0][table] + 0.75 * states[1][table])


def test_adapters_are_merged_into_their_bases_first(tiny: str) -> None:
    pytest.importorskip("peft")
    lora = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}
    one, other = (TextEncoder(tiny, adapter=lora) for _ in range(2))
    with torch.no_grad():
        for number, encoder in enumerate((one, other), 1):
            for name, value in encoder.named_parameters():
                if "lora_" in name:
                    value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(number)) / 9)
    merged = merge_encoders([one, other])
    name = "encoder.layer.0.attention.self.query"
    deltas = []
    for encoder in (one, other):
        layer = encoder.backbone.model.get_submodule(name)
        deltas.append(layer.get_delta_weight("default"))
        base = layer.base_layer.weight
    expected = base + (deltas[0] + deltas[1]) / 2
    torch.testing.assert_close(merged.backbone.model.get_submodule(name).weight, expected)


def test_the_mean_of_a_model_and_its_backbone_cuts_texts_where_the_first_does(tiny: str) -> None:
    first = TextEncoder(tiny, max_length=8)
    merged = merge_encoders([first, moved(TextEncoder(tiny), 0.1)], [3, 1])
    long = " ".join(["w5"] * 20)
    assert merged.tokenizer.max_length == 8
    np.testing.assert_array_equal(merged.encode([long]), merged.encode([" ".join(["w5"] * 6)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection": 8}, "projection of the encoder is"),
        ({"normalize": False}, "normalize of the encoder is True there and False here"),
        ({"prompt": "w4 "}, "prompt of the encoder"),
    ],
)
def test_other_settings_are_refused(tiny: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"encoder 2 can't be averaged with the first: {message}"):
        merge_encoders([TextEncoder(tiny), TextEncoder(tiny, **options)])


def test_other_shapes_and_tokenizers_are_refused(tiny: str, tmp_path: Path) -> None:
    first = TextEncoder(tiny)
    with pytest.raises(ValueError, match="the encoder is a TextEncoder there and a SetEncoder here"):
        merge_encoders([first, SetEncoder(TextEncoder(tiny))])
    shutil.copytree(tiny, tmp_path / "other")
    words = [f"w{number}" for number in reversed(range(4, 60))]
    word_tokenizer(words=words).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="their tokenizers give other token ids"):
        merge_encoders([first, TextEncoder(str(tmp_path / "other"))])
    for weights, wrong in (
        ([1.0], "1 weights were given for 2"),
        ([1, -1], "0 or more"),
        ([0, 0], "above 0"),
    ):
        with pytest.raises(ValueError, match=wrong):
            merge_encoders([first, first], weights)
    with pytest.raises(ValueError, match="give two or more"):
        merge_encoders([first])
