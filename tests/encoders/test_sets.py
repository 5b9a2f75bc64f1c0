"""The encoder of items made of several texts."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lit_metric.data import Batch, Collator, Items, tokenize
from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders import AttentionPooling, MeanPooling, SetEncoder, TextEncoder

TAGS = ["w5", "w6 w7", "w8 w9 w10", "w11"]
ITEMS = [[0, 1], [2], [], [3, 2, 1, 0], [1, 0], [2, 2, 3]]


def trained(tiny: str, **arguments: object) -> SetEncoder:
    encoder = SetEncoder(TextEncoder(tiny, projection=6), AttentionPooling(heads=2), **arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        encoder.pooling.query.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[operator, union-attr]
    return encoder


def run(encoder: SetEncoder, items: list[list[int]] = ITEMS) -> torch.Tensor:
    return encoder(EncoderInput(encoder.tokenizer.tokenize_ragged(TAGS), Ragged.from_lists(items)))


def test_an_item_is_the_pooled_vectors_of_its_texts(tiny: str) -> None:
    encoder = SetEncoder(TextEncoder(tiny), MeanPooling())
    text = torch.from_numpy(TextEncoder(tiny, normalize=False).encode(TAGS))
    expected = torch.stack([text[row].mean(0) if row else torch.zeros(32) for row in ITEMS])
    torch.testing.assert_close(run(encoder), expected, atol=1e-5, rtol=1e-5)
    # attention starts as the mean
    torch.testing.assert_close(run(SetEncoder(TextEncoder(tiny))), expected, atol=1e-5, rtol=1e-5)
    unit = text / text.norm(dim=1, keepdim=True)
    expected = torch.stack([unit[row].mean(0) if row else torch.zeros(32) for row in ITEMS])
    found = run(SetEncoder(TextEncoder(tiny), MeanPooling(), normalize_texts=True))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_order_makes_no_difference_and_other_items_neither(tiny: str) -> None:
    encoder = trained(tiny, projection=4, hidden=5)
    vectors = run(encoder)
    torch.testing.assert_close(vectors[0], vectors[4])
    for row, item in enumerate(ITEMS):
        torch.testing.assert_close(run(encoder, [item[::-1]])[0], vectors[row])
    assert vectors.shape == (len(ITEMS), 4)


def test_tag_dropout_only_in_training_and_never_all(tiny: str) -> None:
    encoder = SetEncoder(TextEncoder(tiny, dropout=0.0), MeanPooling(), tag_dropout=0.5)
    encoder.eval()
    full, single = run(encoder), run(encoder, [[0], [1], [2], [3]])
    assert torch.equal(run(encoder), full)
    encoder.train()
    torch.manual_seed(0)
    runs = torch.stack([run(encoder) for _ in range(20)])
    torch.testing.assert_close(runs[:, 1], single[2].expand(20, -1))
    # of items 0 and 1, what is left is one of the two or both
    options = torch.stack([single[0], single[1], full[0]])
    distances = torch.cdist(runs[:, 0], options)
    assert (distances.min(1).values < 1e-4).all()
    assert set(distances.argmin(1).tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="tag_dropout"):
        SetEncoder(TextEncoder(tiny), tag_dropout=1.0)


def test_encode_equals_forward(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = trained(tiny, tag_dropout=0.5).train()
    lists = [[TAGS[tag] for tag in item] for item in ITEMS]
    found = encoder.encode(lists)
    assert encoder.training
    expected = torch.nn.functional.normalize(run(encoder.eval()), dim=1).detach()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found[2] == 0).all()  # the empty set stays the zero vector
    monkeypatch.setattr("lit_metric.encoders.composed.POOL_AT_ONCE", 3)
    np.testing.assert_allclose(encoder.encode(lists), expected, atol=1e-5)
    assert encoder.encode([]).shape == (0, 6)
    for wrong in ("text", ["text", "text"]):
        with pytest.raises(TypeError, match="list of texts"):
            encoder.encode(wrong)


def test_the_documented_configuration_is_what_it_says(tiny: str) -> None:
    assert SetEncoder.__doc__ is not None
    _, _, block = SetEncoder.__doc__.partition("::\n")
    config = yaml.safe_load(textwrap.dedent(block))
    config["init_args"]["text"]["init_args"]["backbone"] = tiny
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SetEncoder, "encoder")
    encoder = parser.instantiate_classes(parser.parse_object({"encoder": config})).encoder
    layers = [(layer.dimension, layer.activation, layer.dropout) for layer in encoder.projection]
    assert layers == [(512, "gelu", 0.1), (128, "identity", 0.1)]
    # dropout shows in training, and never in what encode gives
    first, second = (run(encoder.train()) for _ in range(2))
    assert not torch.allclose(first[0], second[0])
    np.testing.assert_array_equal(encoder.encode([TAGS]), encoder.encode([TAGS]))


def test_gradients_reach_all_levels(tiny: str) -> None:
    encoder = trained(tiny, projection=4)
    run(encoder).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("true_half", [False, True])
def test_half_precision_gives_float32_vectors_that_are_near(tiny: str, true_half: bool) -> None:
    encoder = trained(tiny, projection=4, normalize_texts=True)
    expected = run(encoder)
    if true_half:
        found = run(encoder.bfloat16())
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = run(encoder)
            found.sum().backward()
    assert found.dtype == torch.float32
    full = [row for row, item in enumerate(ITEMS) if item]
    assert (found - expected)[full].norm() < 0.05 * expected[full].norm()


def test_frozen_tags_are_encoded_once(tiny: str) -> None:
    encoder = SetEncoder(TextEncoder(tiny, freeze=True), AttentionPooling(), tag_dropout=0.1)
    tokens, items = encoder.tokenizer.tokenize_ragged(TAGS), Ragged.from_lists(ITEMS)
    encoder.eval()
    expected = encoder(EncoderInput(tokens, items))
    ids = torch.tensor([40, 2, 9, 5])
    torch.testing.assert_close(encoder(EncoderInput(tokens, items, ids)), expected)
    encoder.train()
    with_dropout = encoder(EncoderInput(tokens, items, ids))
    assert encoder.text.table.count == 4
    with_dropout.sum().backward()
    assert encoder.pooling.query.grad is not None  # type: ignore[union-attr]
    encoder.clear_cache()
    assert encoder.text.table.count == 0


FIELDS = [["w4 w5", "w9", "w4 w5"], ["w9"], [], ["w6", "w4 w5"]]
ROLES = [["title", "cast", "cast"], ["cast"], [], ["cast", "title"]]
WEIGHTS = [[1.0, 0.25, 3.0], [2.0], [], [5.0, 1.0]]


def collated(encoder: SetEncoder, folder: Path, **known: Any) -> Batch:
    """All of ``FIELDS`` as a batch of the data module."""
    items, vocabulary = Items.encode(FIELDS, "set", **known)
    every = torch.arange(len(FIELDS))
    return Collator(items, tokenize(vocabulary, encoder.tokenizer, folder))(every, every)


@pytest.mark.parametrize("pool_prompt", [True, False])
@pytest.mark.parametrize("freeze", [True, False])
def test_fields_have_their_prompts_and_texts_their_weights(
    tiny: str, tmp_path: Path, pool_prompt: bool, freeze: bool
) -> None:
    prompts = {"title": "w20 ", "cast": "w21 w22 "}
    text = TextEncoder(tiny, prompts=prompts, max_lengths={"cast": 5}, pool_prompt=pool_prompt, freeze=freeze)
    encoder = SetEncoder(text, MeanPooling(), normalize=False).eval()
    plain = TextEncoder(tiny, normalize=False)
    model, expected = plain.backbone, []
    for texts, roles, weights in zip(FIELDS, ROLES, WEIGHTS, strict=True):
        total = torch.zeros(32)
        for one, role, weight in zip(texts, roles, weights, strict=True):
            rows = Ragged.from_lists([plain.tokenizer.tokenize([prompts[role] + one])[0]])
            if role == "cast" and len(rows.values) > 5:
                rows = Ragged.from_lists([[*rows.values[:4].tolist(), 2]])
            states = model(rows).values
            if not pool_prompt:
                states = states[len(prompts[role].split()) + 1 :]
            total += weight * states.mean(0)
        expected.append(total / max(sum(weights), 1e-9))
    batch = collated(encoder, tmp_path, roles=ROLES, weights=WEIGHTS)
    for _ in range(2):  # the second time, a frozen tower looks them up
        found = encoder(batch.inputs)
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)
    again = encoder.encode(FIELDS, role=ROLES, weights=WEIGHTS)
    np.testing.assert_allclose(again, torch.stack(expected).detach(), atol=1e-5)
    same = encoder.encode([["w9", "w6"]], role="cast")
    np.testing.assert_allclose(same, encoder.encode([["w9", "w6"]], role=[["cast", "cast"]]), atol=1e-6)


def test_dropped_tags_take_their_weights_with_them(tiny: str, tmp_path: Path) -> None:
    encoder = SetEncoder(TextEncoder(tiny, dropout=0.0), MeanPooling(), tag_dropout=0.5)
    batch = collated(encoder, tmp_path, weights=WEIGHTS, roles=ROLES)
    texts = torch.from_numpy(TextEncoder(tiny, normalize=False).encode(FIELDS[3]))
    options = torch.stack([texts[0], texts[1], (5 * texts[0] + texts[1]) / 6])
    torch.manual_seed(0)
    runs = torch.stack([encoder.train()(batch.inputs)[3] for _ in range(20)])
    distances = torch.cdist(runs, options)
    assert (distances.min(1).values < 1e-4).all()
    assert set(distances.argmin(1).tolist()) == {0, 1, 2}


def test_roles_and_weights_are_as_many_as_texts(tiny: str) -> None:
    encoder = SetEncoder(TextEncoder(tiny))
    for options, message in (
        ({"weights": [[1.0], [1.0]]}, "a list for each item, with a number for each of its texts"),
        ({"weights": [[1.0, 0.0], [1.0]]}, "weights have to be numbers above 0"),
        ({"role": ["title"]}, "1 roles were given for 2 items"),
        ({"role": [["title"], ["cast"]]}, "1 roles were given for 2 texts"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.encode([["w4", "w5"], ["w6"]], **options)
    with pytest.raises(ValueError, match="weights are for items of several texts"):
        encoder.text.encode(["w4"], weights=[[1.0]])
