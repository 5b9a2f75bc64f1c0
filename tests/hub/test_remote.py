"""Exports that carry a file of modules: under sentence-transformers, read back, and saved by it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from lit_metric import hub
from lit_metric.encoders import (
    AttentionPooling,
    CLSPooling,
    ComposedPooling,
    ConjunctionPooling,
    Encoder,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    Projection,
    SetEncoder,
    StaticEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from lit_metric.hub.remote import SegmentPooling, join_texts, split_texts
from tests.encoders.conftest import tiny  # noqa: F401
from tests.encoders.tokens import model_folder

TEXTS = ["w5 w6 w7", "W8_w9", "w10 w11 w12 w13 w14 w15 w16 w17 w18 w19", "", "w30 w31"]
SETS = [
    ["w5 w6", "w7"],
    [],
    ["w8"],
    ["W9_w10 | w11", "w5 w6", "back\\slash", "w7"],
    ["w20 w21 w22 w23 w24 w25"],
]
LORA = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear", "init_lora_weights": False}

Kind = Callable[[str], Encoder]


def attention(**options: object) -> AttentionPooling:
    return AttentionPooling(**options)  # type: ignore[arg-type]


KINDS: dict[str, Kind] = {
    "attention over tokens": lambda t: TextEncoder(
        t, attention(heads=4, context=True), 6, hidden=5, prompts={"query": "w20 ", "title": "w21 "}
    ),
    "attention, dot, without the prompt": lambda t: TextEncoder(
        t, attention(score="dot", empty="learned"), pool_prompt=False, prompt="w20 w21 ", normalize=False
    ),
    "replacements": lambda t: TextEncoder(
        t,
        CLSPooling(),
        max_length=7,
        lower_case=True,
        replacements={"_": " ", "w30": "w31"},
        prompts={"query": "w30_ "},
        max_lengths={"title": 4},
    ),
    "LoRA, Matryoshka": lambda t: TextEncoder(t, attention(heads=2), adapter=LORA, truncate_dim=12),
    "sets": lambda t: SetEncoder(
        TextEncoder(t, attention(hidden=3), 8, prompts={"query": "w20 "}, truncate_dim=6, lower_case=True),
        attention(heads=2, context=True, empty="learned"),
        [Projection(5, bias=False, activation="gelu"), Projection(3)],
        normalize_texts=True,
    ),
    "sets, max of last": lambda t: SetEncoder(
        TextEncoder(t, LastTokenPooling(), replacements={"_": " "}), MaxPooling(), normalize=False
    ),
    "static attention": lambda t: StaticEncoder(
        t, attention(heads=2, context=True), 4, lower_case=True, replacements={"_": " "}, max_length=5
    ),
    "sets of static": lambda t: SetEncoder(
        StaticEncoder(t, MaxPooling(), max_lengths={"query": 2}, prompts={"query": "w20 "}), MeanPooling()
    ),
    "conjunction of sets": lambda t: SetEncoder(TextEncoder(t), ConjunctionPooling(2, 5, most_values=40), 3),
    "conjunction over tokens": lambda t: TextEncoder(t, ConjunctionPooling(hidden=4), max_length=9),
    "composed": lambda t: SetEncoder(
        TextEncoder(t, prompts={"query": "w20 "}), ComposedPooling(hidden=5, dropout=0.1)
    ),
    "towers": lambda t: TwoTowerEncoder(
        TextEncoder(t, attention(heads=2), prompts={"query": "w20 "}, replacements={"_": " "}),
        SetEncoder(StaticEncoder(t, prompts={"document": "w21 ", "title": "w22 "}), attention(context=True)),
    ),
    "towers without a file": lambda t: TwoTowerEncoder(
        TextEncoder(t, MeanPooling(), 12, max_length=9, prompts={"query": "w20 "}, max_lengths={"query": 5}),
        TextEncoder(t, CLSPooling(), truncate_dim=12, prompts={"passage": "w21 "}),
    ),
}


def trained(kind: str, folder: str) -> Encoder:
    """With weights at random where they would start at zero."""
    torch.manual_seed(0)
    encoder = KINDS[kind](folder)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, AttentionPooling):
                module.query.normal_()
                if module.empty == "learned":
                    module.empty_vector.normal_()
            if isinstance(module, ConjunctionPooling | ComposedPooling):
                for value in module.parameters():
                    value.normal_(std=0.5)
    return encoder.eval()


def tower_of(encoder: Encoder, role: str | None) -> Encoder:
    return encoder.tower(role) if isinstance(encoder, TwoTowerEncoder) else encoder


def peer_vectors(model: SentenceTransformer, encoder: Encoder, role: str | None) -> np.ndarray:
    """By sentence-transformers, of items as a colleague writes them."""
    tower = tower_of(encoder, role)
    items = [" | ".join(t.replace("\\", "\\\\").replace("|", "\\|") for t in item) for item in SETS]
    given = items if isinstance(tower, SetEncoder) else TEXTS
    calls = {"query": model.encode_query, "document": model.encode_document}
    found = calls[role](given) if role else model.encode(given)
    if getattr(tower, "truncate_dim", None):  # there, the cut comes after length 1
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    return found


SLOW = (
    *("attention over tokens", "sets, max of last", "static attention", "towers without a file"),
    "conjunction over tokens",
)
"""Kinds that the others cover between them, or `make test-handover` does."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in KINDS]
)
def test_an_export_gives_the_same_vectors_wherever_it_is_read(tiny: str, tmp_path: Path, kind: str) -> None:  # noqa: F811
    encoder = trained(kind, tiny)
    roles = ["query", "document"] if isinstance(encoder, TwoTowerEncoder) else [None, "query"]
    folder, again = tmp_path / "мой export 1.0", tmp_path / "again"
    check = hub.export(encoder, folder)
    assert check.items >= 13
    assert check.difference < 1e-5
    assert (folder / "lit_metric_modules.py").exists() == (kind != "towers without a file")
    assert not list(tmp_path.glob(".export-*"))
    for place in (folder, again):
        model = SentenceTransformer(str(place), device="cpu", trust_remote_code=True)
        loaded = hub.load(place)
        assert type(loaded) is type(encoder)
        for role in roles:
            items = SETS if isinstance(tower_of(encoder, role), SetEncoder) else TEXTS
            expected = encoder.encode(items, role=role)
            np.testing.assert_allclose(peer_vectors(model, encoder, role), expected, atol=1e-5)
            np.testing.assert_allclose(loaded.encode(items, role=role), expected, atol=1e-5)
        if place == folder:
            model.save_pretrained(str(again), create_model_card=False)


def test_sets_may_also_be_lists(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    encoder = trained("sets", tiny)
    hub.export(encoder, tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(model.encode(SETS), encoder.encode(SETS), atol=1e-5)
    with pytest.raises(ValueError, match=r"an encoder of sets: lit_metric\.load reads it"):
        TextEncoder(str(tmp_path))


def test_items_of_too_many_texts_are_refused_as_by_the_pooling(tiny: str, tmp_path: Path) -> None:  # noqa: F811
    encoder = trained("conjunction of sets", tiny)
    hub.export(encoder, tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    assert hub.load(tmp_path).pooling.most_values == 40
    items = [["w5"], [f"w{number % 20}" for number in range(41)]]
    for encode in (model.encode, encoder.encode):
        encode([items[1][:40]])
        with pytest.raises(ValueError, match=r"at most 40 .* of an item; .* has 41"):
            encode(items)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet=st.sampled_from("ab |\\é\n")) | st.text(), max_size=5))
def test_texts_of_an_item_survive_as_one_string(texts: list[str]) -> None:
    assert split_texts(join_texts(texts)) == texts


def test_how_an_item_is_written() -> None:
    assert join_texts(["web", "http | https", "c:\\x"]) == r"web | http \| https | c:\\x"
    assert split_texts("a|b | c") == ["a|b", "c"]
    assert (split_texts(""), join_texts([])) == ([], "")
    assert (split_texts("\\"), join_texts([""])) == ([""], "\\")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_pooling_of_tokens_by_hand(side: str) -> None:
    states = torch.tensor([[[1.0, 4.0], [3.0, 0.0]], [[5.0, 6.0], [7.0, 7.0]]])
    mask = torch.tensor([[1, 1], [1, 0] if side == "right" else [0, 1]])
    kept = states[1, 0 if side == "right" else 1].tolist()
    expected = {"mean": [2.0, 2.0], "max": [3.0, 4.0], "cls": [1.0, 4.0], "lasttoken": [3.0, 0.0]}
    for mode, first in expected.items():
        padded = {"token_embeddings": states, "attention_mask": mask}
        assert SegmentPooling(mode, 2)(padded)["sentence_embedding"].tolist() == [first, kept]
    pooling = SegmentPooling("attention", 2, score="dot", include_prompt=False)
    with torch.no_grad():
        pooling.query.copy_(torch.tensor([[2**0.5, 0.0]]))
    features: dict[str, Any] = {"token_embeddings": states, "attention_mask": mask, "prompt_length": 1}
    assert pooling(features)["sentence_embedding"].tolist() == [[3.0, 0.0], [0.0, 0.0]]
    flat = {"token_embeddings": states.view(1, 4, 2), "cu_seq_lens_q": torch.tensor([0, 2, 4])}
    pooling.include_prompt = True
    weight = torch.tensor([1.0, 3.0]).softmax(0)
    found = pooling(flat)["sentence_embedding"][0]
    torch.testing.assert_close(found, weight[0] * states[0, 0] + weight[1] * states[0, 1])


@pytest.mark.parametrize("pooling", [AttentionPooling(heads=2), MeanPooling()], ids=["with", "without"])
def test_half_precision_padding_on_the_left_and_no_bias(
    tmp_path: Path,
    pooling: Pooling,
) -> None:
    source = model_folder(tmp_path / "source")
    path = tmp_path / "source" / "tokenizer_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(saved | {"padding_side": "left"}), encoding="utf-8")
    encoder = TextEncoder(source, pooling, [Projection(4, bias=False)], prompt="w20 ", pool_prompt=False)
    for value in encoder.parameters():
        torch.nn.init.normal_(value)
    encoder.bfloat16()
    wide = copy.deepcopy(encoder).float()
    check = hub.export(encoder, tmp_path / "out")
    assert check.difference < 1e-5
    assert next(encoder.parameters()).dtype == torch.bfloat16
    options: dict[str, Any] = {"device": "cpu", "trust_remote_code": True}
    half = SentenceTransformer(str(tmp_path / "out"), **options)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    assert half.tokenizer.padding_side == "right"  # on the left, the positions of this model would be moved
    assert half.default_prompt_name == "default"
    half.save_pretrained(str(tmp_path / "again"))
    expected = wide.encode(TEXTS)
    for name in ("out", "again"):
        peer = SentenceTransformer(str(tmp_path / name), model_kwargs={"dtype": torch.float32}, **options)
        np.testing.assert_allclose(peer.encode(TEXTS), expected, atol=1e-5)
        np.testing.assert_allclose(hub.load(tmp_path / name).encode(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(half.encode(TEXTS), expected, atol=0.1)
