"""Vectors beside a table: what is read is what was written, or refused with the reason."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_metric import store
from lit_metric.data import LabelRelations
from lit_metric.index import Embeddings
from lit_metric.mining import Miner, NegativeTable, RandomProposer, TableError, open_vectors
from tests.mining.test_table import flip, table_of

IDS = torch.tensor([30, 0, 10, 40, 20])
EMBEDDINGS = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
DIRECTIONS = [[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0], [0.6, 0.8], [0.5**0.5, 0.5**0.5]]  # by rising id


def save(root: Path, corpus: str = "these items") -> int:
    return table_of().save(
        root, corpus=corpus, weights="w", step=0, epoch=0, vectors=Embeddings(IDS, EMBEDDINGS.numpy())
    )


def test_directions_come_back_by_id_memory_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_metric.mining.published._VECTOR_ROWS", 2)
    save(tmp_path)
    source = pickle.loads(pickle.dumps(partial(open_vectors, tmp_path, corpus="these items")))
    vectors = source(1)
    assert vectors.ids.tolist() == [0, 10, 20, 30, 40]
    assert isinstance(vectors.values, np.memmap)
    assert vectors.values.dtype == np.float16
    assert vectors.values.tolist() == np.float16(DIRECTIONS).tolist()
    np.testing.assert_allclose(vectors.of(IDS), np.array(DIRECTIONS)[[3, 0, 1, 4, 2]], atol=6e-4)
    assert len(NegativeTable.open(tmp_path, 1)) == 5
    assert {"items.npy", "vectors.npy"} < {*NegativeTable.open(tmp_path, 1).manifest["files"]}


@pytest.mark.parametrize("name", ["items.npy", "vectors.npy"])
def test_damage_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    flip(tmp_path / "v000001" / name, -3)
    with pytest.raises(TableError, match=f"{name} is damaged: its sha256"):
        open_vectors(tmp_path, 1)
    (tmp_path / "v000001" / name).unlink()
    with pytest.raises(TableError, match=f"{name} is missing"):
        open_vectors(tmp_path, 1)


def test_what_is_not_meant_is_refused(tmp_path: Path) -> None:
    table_of().save(tmp_path, corpus="these items", weights="w", step=0, epoch=0)
    with pytest.raises(TableError, match="v000001 was mined for a planner that uses no vectors; mine it"):
        open_vectors(tmp_path, 1)
    save(tmp_path)
    with pytest.raises(TableError, match=r"another corpus \(these items, not those\): mine it again"):
        open_vectors(tmp_path, 2, "those")
    with pytest.raises(TableError, match="v000003 does not exist"):
        open_vectors(tmp_path, 3)
    manifest = tmp_path / "v000002" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "dimension": 3}))
    with pytest.raises(TableError, match=r"vectors.npy holds float16 \[5, 2\], expected float16 \[5, 3\]"):
        open_vectors(tmp_path, 2)


def test_an_embedding_that_is_not_finite_makes_no_version(tmp_path: Path) -> None:
    bad = EMBEDDINGS.clone()
    bad[3, 1] = torch.nan
    with pytest.raises(ValueError, match="1 embeddings are not finite"):
        table_of().save(tmp_path, corpus="", weights="", step=0, epoch=0, vectors=Embeddings(IDS, bad))
    with pytest.raises(TableError, match="never finished"):
        open_vectors(tmp_path, 1)


def test_a_disk_too_full_for_the_vectors_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = store.MARGIN + 300

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    table_of().save(tmp_path / "without", corpus="", weights="", step=0, epoch=0)
    many = torch.ones(5, 100)
    with pytest.raises(OSError, match=r"bytes free, and .* are to be written: make room"):
        table_of().save(
            tmp_path / "with", corpus="", weights="", step=0, epoch=0, vectors=Embeddings(IDS, many)
        )
    assert not list((tmp_path / "with").iterdir())


def test_a_miner_of_nothing_makes_a_table_without_candidates(tmp_path: Path) -> None:
    class Never(RandomProposer):
        def fit(self, *_: object) -> None:
            raise AssertionError("nothing is to be searched")

    relations = LabelRelations.from_names(["a", "b", "a", "b"], torch.arange(4))
    table = Miner(negatives=0, proposer=Never()).mine(
        Embeddings(torch.tensor([2, 0, 1, 3]), torch.eye(4)), relations
    )
    assert table.anchors.tolist() == [0, 1, 2, 3]
    assert table.ids.shape == table.scores.shape == (4, 0)
    table.save(tmp_path, corpus="", weights="", step=0, epoch=0)
    opened = NegativeTable.open(tmp_path, 1)
    assert opened.candidates(torch.tensor([2, 1])).ids.shape == (2, 0)
    assert np.isnan(opened.positives).all()
    with pytest.raises(ValueError, match="negatives=-1 and sample=20 must be at least 0"):
        Miner(negatives=-1)
