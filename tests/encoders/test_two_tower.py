"""Two towers: each item goes through the encoder of its role, and through that alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_metric.configurable import rebuilt
from lit_metric.data import Batch, Collator, Items, tokenize
from lit_metric.data.items import QUERY
from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders import (
    AttentionPooling,
    Encoder,
    MeanPooling,
    SetEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from lit_metric.encoders import tokenizer as tokenizer_module
from tests.encoders.tokens import model_folder

TEXTS = ["w5 w6", "w7 w8 w9", "w5 w6", "w10", "w7 w8 w9", "w11 w12 w13 w14"]
ROLES = ["query", "document", "document", "query", "document", "title"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A BERT and a Qwen."""
    root = tmp_path_factory.mktemp("towers")
    return model_folder(root / "bert"), model_folder(root / "qwen", "qwen3")


def towers(folders: tuple[str, str], **document: object) -> tuple[TextEncoder, TextEncoder]:
    query = TextEncoder(folders[0], projection=5, prompts={"query": "w20 "}, pool_prompt=False)
    given = {"projection": 5, "prompts": {"document": "w21 w22 "}, "max_lengths": {"title": 4}, **document}
    return query, TextEncoder(folders[1], **given)  # type: ignore[arg-type]


def batch_of(encoder: Encoder, folder: Path, roles: list[str] = ROLES) -> Batch:
    """All items, once as anchors and once, the other way round, as candidates."""
    items, vocabulary = Items.encode([[text] for text in TEXTS], roles=roles)
    every = torch.arange(len(TEXTS))
    return Collator(items, tokenize(vocabulary, encoder.tokenizer, folder))(every, every.flip(0))


def test_each_item_goes_through_the_tower_of_its_role(folders: tuple[str, str], tmp_path: Path) -> None:
    query, document = towers(folders)
    encoder = TwoTowerEncoder(query, document).eval()
    vectors = encoder(batch_of(encoder, tmp_path).inputs)
    expected = [
        (query if role == "query" else document).encode([text], role=role)[0]
        for text, role in zip(TEXTS, ROLES, strict=True)
    ]
    vectors = torch.nn.functional.normalize(vectors, dim=1).detach().numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS, role=ROLES), expected, atol=1e-6)
    np.testing.assert_allclose(
        encoder.encode(TEXTS, role="query"), query.encode(TEXTS, role="query"), atol=1e-6
    )
    assert not np.allclose(expected[0], expected[2], atol=0.01)  # the same text


def test_gradients_reach_the_towers_whose_items_are_in_the_batch(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    for roles, empty in ((["query"] * 6, "document."), (["document"] * 6, "query.")):
        encoder = TwoTowerEncoder(*towers(folders))
        batch = batch_of(encoder, tmp_path, roles)
        encoder(batch.inputs).square().sum().backward()
        for name, parameter in encoder.named_parameters():
            # None would stop DDP, which waits for each parameter of each process
            assert not parameter.requires_grad or parameter.grad is not None, name
        moved = {name for name, p in encoder.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert moved
        assert not [name for name in moved if name.startswith(empty)]
        with torch.no_grad():
            assert encoder(batch.inputs).shape == (6, 5)


def test_a_frozen_tower_keeps_its_vectors_apart_from_the_others(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = TextEncoder(folders[0], freeze=True, prompts={"query": "w20 "}, pool_prompt=False)
    document = TextEncoder(folders[0], freeze=True, prompts={"title": "w20 "})
    encoder = TwoTowerEncoder(query, document).eval()
    batch = batch_of(encoder, tmp_path)
    expected = encoder(replace(batch.inputs, text_ids=None))
    calls: list[int] = []
    for tower in (query, document):
        forward = tower.backbone.forward
        monkeypatch.setattr(
            tower.backbone, "forward", lambda t, forward=forward: (calls.append(len(t)), forward(t))[1]
        )
    for _ in range(3):
        torch.testing.assert_close(encoder(batch.inputs), expected)
    assert calls == [2, 3]  # distinct texts of either tower, once
    assert (query.table.count, document.table.count) == (2, 3)
    encoder.clear_cache()
    assert (query.table.count, document.table.count) == (0, 0)


def test_another_data_set_with_the_same_numbers_is_not_taken_for_the_first(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    # "w20 " before "w5" is what "w20 w5" is without a prompt: the same tokens, pooled otherwise
    encoder = TextEncoder(folders[0], freeze=True, prompts={"query": "w20 "}, pool_prompt=False).eval()
    for text, role in (("w5", "query"), ("w20 w5", "title"), ("w5", "query")):
        items, vocabulary = Items.encode([[text]], roles=[role])
        one = torch.tensor([0])
        batch = Collator(items, tokenize(vocabulary, encoder.tokenizer, tmp_path))(one, one)
        assert batch.text_ids.tolist() == [0]
        assert batch.tokens.tolist() == [[1, 20, 5, 2]]
        torch.testing.assert_close(
            torch.nn.functional.normalize(encoder(batch.inputs), dim=1),
            torch.from_numpy(encoder.encode([text], role=role)),
        )


def test_sets_with_weights_go_through_their_tower(folders: tuple[str, str], tmp_path: Path) -> None:
    rows = [["w5", "w6"], ["w7"], ["w5", "w8", "w9"], ["w6", "w5"]]
    weights = [[1.0, 3.0], [2.0], [0.5, 1.0, 4.0], [7.0, 1.0]]
    roles = ["query", "document", "document", "query"]
    query = SetEncoder(TextEncoder(folders[0]), MeanPooling(), normalize=False)
    document = SetEncoder(TextEncoder(folders[1]), AttentionPooling(heads=2), normalize=False)
    encoder = TwoTowerEncoder(query, document).eval()
    items, vocabulary = Items.encode(rows, "set", roles=roles, weights=weights)
    every = torch.arange(4)
    batch = Collator(items, tokenize(vocabulary, encoder.tokenizer, tmp_path))(every, every)
    expected = []
    for row, weight, role in zip(rows, weights, roles, strict=True):
        text = (query if role == "query" else document).text
        states = text.embed(EncoderInput.of_texts(Ragged.from_lists(text.tokenizer.tokenize(row))))
        shares = torch.tensor(weight) / sum(weight)
        expected.append((states * shares[:, None]).sum(0))
    torch.testing.assert_close(encoder(batch.inputs), torch.stack(expected), atol=1e-5, rtol=1e-5)
    again = encoder.encode(rows, role=roles, weights=weights)
    np.testing.assert_allclose(again, torch.stack(expected).detach().numpy(), atol=1e-5)


def test_saved_and_loaded(folders: tuple[str, str], tmp_path: Path) -> None:
    encoder = TwoTowerEncoder(*towers(folders))
    with torch.no_grad():
        for tower in (encoder.query, encoder.document):
            tower.projection[0].linear.weight.mul_(2)  # type: ignore[union-attr, operator]
    encoder.save(tmp_path / "saved")
    loaded = Encoder.load(tmp_path / "saved")
    assert isinstance(loaded, TwoTowerEncoder)
    np.testing.assert_array_equal(loaded.encode(TEXTS, role=ROLES), encoder.encode(TEXTS, role=ROLES))
    assert loaded.tokenizer.fingerprint == encoder.tokenizer.fingerprint
    assert isinstance(rebuilt(encoder.spec()), TwoTowerEncoder)


def test_what_does_not_fit_is_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    query, document = towers(folders)
    with pytest.raises(ValueError, match="both towers are the same encoder"):
        TwoTowerEncoder(query, query)
    with pytest.raises(ValueError, match=r"gives 5 components and the document tower 4: .* a projection"):
        TwoTowerEncoder(query, TextEncoder(folders[1], projection=4))
    with pytest.raises(ValueError, match="normalize is True in the query tower and False in the document"):
        TwoTowerEncoder(query, towers(folders, normalize=False)[1])
    encoder = TwoTowerEncoder(query, document)
    with pytest.raises(ValueError, match="a tower is a TwoTowerEncoder itself"):
        TwoTowerEncoder(encoder, query)
    with pytest.raises(ValueError, match="by their role, but these have none"):
        encoder.encode(TEXTS)
    with pytest.raises(ValueError, match="2 roles were given for 6 items"):
        encoder.encode(TEXTS, role=["query", "document"])
    _, vocabulary = Items.encode([[text] for text in TEXTS])
    with pytest.raises(ValueError, match="by their role, but these have none"):
        tokenize(vocabulary, encoder.tokenizer, tmp_path)
    batch = batch_of(encoder, tmp_path)
    with pytest.raises(ValueError, match="by their role, but these have none"):
        encoder(replace(batch.inputs, roles=None))


def test_data_and_encoders_agree_on_queries() -> None:
    assert tokenizer_module.QUERY == QUERY
    items, _ = Items.encode([["a"], ["b"]], roles=["document", "query"])
    assert items.roles is not None
    assert items.roles.tolist().index(0) == 1
