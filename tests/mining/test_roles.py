"""Roles of items, which have prompts of their own, wherever a frozen encoder encodes items."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from lit_metric import TextEncoder
from lit_metric.data import Items, Vocabulary
from lit_metric.index import Embeddings
from lit_metric.mining import EncoderGuide, EncoderProposer, write_texts
from lit_metric.mining.texts import roles_of_items
from lit_metric.modules.tasks import encode_items
from tests.encoders.tokens import model_folder

TEXTS = ["w10 w11", "w12 w13 w14", "w10 w11", "w40 w41"]
ROLES = ["query", "document", "document", "query"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder with a prompt for each role."""
    path = tmp_path_factory.mktemp("prompts")
    text = Transformer(model_folder(path / "hf"))
    prompts = {"query": "w20 w21 ", "document": "w30 "}
    SentenceTransformer(modules=[text, Pooling(32)], prompts=prompts, device="cpu").save(str(path / "model"))
    return str(path / "model")


@pytest.fixture
def data() -> tuple[Items, Vocabulary]:
    return Items.encode([[text] for text in TEXTS], roles=ROLES)


@pytest.fixture(scope="module")
def vectors(folder: str) -> np.ndarray:
    """Unit vectors of the texts behind their prompts, one call for each text."""
    encoder = TextEncoder(folder)
    rows = [encoder.encode([text], role=role)[0] for text, role in zip(TEXTS, ROLES, strict=True)]
    without = encoder.encode(TEXTS)
    assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(rows, without, strict=True))
    return np.stack([row / np.linalg.norm(row) for row in rows])


def test_an_item_has_the_role_of_all_its_texts() -> None:
    sets = [["red", "round"], ["red"], [], ["long", "red"]]
    roles = [["tag", "tag"], ["title"], [], ["title", "tag"]]
    items, vocabulary = Items.encode(sets, kind="set", roles=roles)
    assert roles_of_items(items, vocabulary, torch.tensor([3, 2, 1, 0])) == [None, None, "title", "tag"]
    items, vocabulary = Items.encode(sets, kind="set")
    assert roles_of_items(items, vocabulary, torch.arange(4)) == [None] * 4


def test_guides_and_banks_have_the_vectors_of_roles(
    folder: str, data: tuple[Items, Vocabulary], vectors: np.ndarray
) -> None:
    module: Any = SimpleNamespace(items=data[0], vocabulary=data[1])
    for ids in (None, torch.tensor([2, 0, 3])):
        found = encode_items(folder, ids, data=module, device=torch.device("cpu")).numpy()
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        np.testing.assert_allclose(found, vectors if ids is None else vectors[ids], atol=1e-5)


def test_miners_have_the_vectors_of_roles(
    folder: str, data: tuple[Items, Vocabulary], vectors: np.ndarray, tmp_path: Path
) -> None:
    path = write_texts(*data, tmp_path)
    guide = EncoderGuide(folder, texts=str(path))
    guide.prepare(torch.arange(4))
    anchors, candidates = torch.tensor([0, 0, 3]), torch.tensor([1, 2, 1])
    expected = (vectors[anchors] * vectors[candidates]).sum(axis=1)
    np.testing.assert_allclose(guide.score(anchors, candidates), expected, atol=1e-5)

    proposer = EncoderProposer(folder, texts=str(path))
    proposer.fit(Embeddings(torch.arange(4), torch.eye(4)), seed=0)
    nearest = proposer.propose(torch.arange(4), torch.ones(4, 4), 4)[1]
    by_hand = (vectors @ vectors.T).argsort(axis=1)[:, ::-1]
    assert nearest.tolist() == by_hand.tolist()

    # The same texts in other roles are another file.
    others = Items.encode([[text] for text in TEXTS], roles=["query"] * 4)
    assert write_texts(*others, tmp_path) != path
