"""What a frozen encoder finds near, against a loop; and the union of several sources."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from lit_metric.configurable import rebuilt, spec
from lit_metric.data import Items
from lit_metric.encoders import TextEncoder
from lit_metric.index import Embeddings
from lit_metric.mining import (
    EncoderProposer,
    JoinedProposer,
    Miner,
    NeighbourProposer,
    give_texts,
    write_texts,
)
from tests.encoders.tokens import model_folder
from tests.mining.cases import blobs, relations_of
from tests.small import heard, questions

COUNT = 40


@pytest.fixture
def texts(tmp_path: Path) -> tuple[list[str], str]:
    rows = [text for text, _ in questions(COUNT, seed=0)]
    return rows, str(write_texts(*Items.encode([[text] for text in rows]), tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return model_folder(tmp_path / "model")


def trained() -> Embeddings:
    return Embeddings(torch.arange(COUNT), blobs(COUNT, 4)[0], "cosine")


def nearest(folder: str, rows: list[str], corpus: Tensor) -> Tensor:
    """All items of the corpus for each item, by the teacher's cosine, by a loop."""
    vectors = torch.from_numpy(TextEncoder(folder).encode(rows)).double()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    found = []
    for anchor in range(len(rows)):
        scores = {item: float(vectors[anchor] @ vectors[item]) for item in corpus.tolist()}
        found.append(sorted(scores, key=lambda item: -scores[item]))
    return torch.tensor(found)


def test_neighbours_are_those_of_the_teacher_and_scores_those_of_the_trained_vectors(
    texts: tuple[list[str], str], folder: str
) -> None:
    rows, path = texts
    embeddings, corpus = trained(), torch.arange(5, COUNT)  # items 0 to 4 are anchors only
    proposer = rebuilt(spec(EncoderProposer(folder, texts=path)))
    proposer.fit(embeddings.subset(corpus), seed=0)
    anchors = torch.arange(COUNT).flip(0)
    scores, found = proposer.propose(anchors, embeddings[anchors], COUNT)
    expected = nearest(folder, rows, corpus)[anchors]
    assert torch.equal(found[:, :35], expected)
    assert found[:, 35:].unique().tolist() == [-1]
    assert scores[:, 35:].isneginf().all()
    everything = embeddings[torch.arange(COUNT)] @ embeddings[torch.arange(COUNT)].T
    torch.testing.assert_close(scores[:, :35], everything[anchors[:, None], expected], rtol=0, atol=1e-6)
    assert torch.equal(proposer.propose(anchors, embeddings[anchors], 4)[1], found[:, :4])
    proposer.forget()
    with pytest.raises(RuntimeError, match=r"call fit\(\)"):
        proposer.propose(anchors, embeddings[anchors], 4)


def test_each_text_is_encoded_once_in_a_run_and_again_for_other_texts(
    texts: tuple[list[str], str], folder: str, tmp_path: Path
) -> None:
    rows, _ = texts
    asked: list[str] = []

    with patch("lit_metric.encoders.text.TextEncoder", heard(asked)):
        proposer, embeddings = EncoderProposer(folder), trained()
        give_texts(Miner(proposer=proposer), *Items.encode([[text] for text in rows]), tmp_path)
        anchors = torch.arange(COUNT)
        for _ in range(2):
            proposer.fit(embeddings.subset(anchors[7:]), seed=0)
            for part in anchors.split(9):
                proposer.propose(part, embeddings[part], 3)
            proposer.forget()
        assert sorted(asked) == sorted(rows)
        before = proposer._known[1]
        others = [text for text, _ in questions(COUNT, seed=9)]
        give_texts(Miner(proposer=proposer), *Items.encode([[text] for text in others]), tmp_path)
        proposer.fit(embeddings, seed=0)
        assert sorted(asked[COUNT:]) == sorted(others)
    assert before is not proposer._known[1]
    assert proposer.__getstate__()["_known"] == (None, None)


def test_the_union_takes_sources_in_turn_and_each_candidate_once(
    texts: tuple[list[str], str], folder: str
) -> None:
    rows, path = texts
    embeddings, ids = trained(), torch.arange(COUNT)
    joined = JoinedProposer([NeighbourProposer(), EncoderProposer(folder, texts=path)], order="round_robin")
    joined.fit(embeddings, seed=0)
    scores, found = joined.propose(ids, embeddings[ids], 10)
    everything = embeddings[ids] @ embeddings[ids].T
    of_teacher = nearest(folder, rows, ids)
    for anchor in range(COUNT):
        own = everything[anchor].argsort(descending=True, stable=True).tolist()
        turns = [item for pair in zip(own, of_teacher[anchor].tolist(), strict=True) for item in pair]
        assert found[anchor].tolist() == [*dict.fromkeys(turns)][:10]
        torch.testing.assert_close(scores[anchor], everything[anchor, found[anchor]], rtol=0, atol=1e-6)


def test_a_miner_drops_what_relations_exclude(texts: tuple[list[str], str], folder: str) -> None:
    rows, path = texts
    vectors, labels = blobs(COUNT, 4)
    ids = torch.arange(COUNT)
    miner = Miner(top_k=5, filters=[], proposer=EncoderProposer(folder, texts=path))
    table = miner.mine(Embeddings(ids, vectors), relations_of(labels))
    order = nearest(folder, rows, ids)
    for anchor in range(COUNT):
        allowed = [item for item in order[anchor].tolist() if labels[item] != labels[anchor]]
        assert {*table.ids[anchor].tolist()} == {*allowed[:5]}  # a table ranks by similarity
