"""``SearchIndex`` against a full sort, in every kind; added to, filtered, damaged, and cut off."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from filelock import FileLock

from lit_metric import SearchIndex, TextEncoder
from lit_metric.index import StoredIndexError
from lit_metric.index.columns import matching
from tests.small import Small

KINDS = ["exact", "int8", "binary", "Flat", "IVF8,Flat", "HNSW8"]
N, D = 700, 20


def clustered(count: int, seed: int = 0) -> np.ndarray:
    """Vectors around thirty centres, away from the origin, of any length."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(30, D)) + 0.5
    return (centres[random.integers(30, size=count)] + 0.3 * random.normal(size=(count, D))).astype(
        np.float32
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    similar = unit(queries) @ unit(vectors).T
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similar, order, 1), order


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "float32") for kind in KINDS), ("exact", "float16"), ("int8", "float16")]
)
def test_every_kind_finds_what_a_full_sort_finds(tmp_path: Path, kind: str, dtype: Any) -> None:
    vectors, queries = clustered(N), clustered(40, seed=1)
    nprobe = 8 if "IVF" in kind else None  # all cells
    SearchIndex.build(tmp_path / "a", vectors, kind=kind, dtype=dtype, nprobe=nprobe)
    index = SearchIndex.open(tmp_path / "a", verify=True)
    scores, ids = index.search(queries, k=5)
    expected, order = nearest(queries, vectors, 5)
    near = 1e-5 if dtype == "float32" else 1e-3
    # Scores are those of the vectors, whatever found the candidates.
    np.testing.assert_allclose(scores, np.take_along_axis(unit(queries) @ unit(vectors).T, ids, 1), atol=near)
    if dtype == "float32":
        share = np.mean([len({*a} & {*b}) / 5 for a, b in zip(ids, order, strict=True)])
        assert share == 1 if kind in ("exact", "int8", "Flat", "IVF8,Flat") else share > 0.9
    if kind == "exact":
        np.testing.assert_allclose(scores, expected, atol=near)
        assert index.recall is None
    else:
        assert index.recall is not None
        assert index.recall > 0.9
    assert (len(index), index.dimension, index.kind) == (N, D, kind)


@pytest.mark.parametrize("kind", ["exact", "int8", "binary", "IVF8,Flat"])
def test_rows_are_added_behind_the_others(tmp_path: Path, kind: str) -> None:
    vectors, queries = clustered(N), clustered(20, seed=1)
    nprobe = 8 if "IVF" in kind else None
    reader = None
    parts = [slice(0, 400), slice(400, 401), slice(401, N)]
    for number, part in enumerate(parts):
        columns = {"place": np.arange(N)[part], "even": [place % 2 == 0 for place in range(N)[part]]}
        if number == 0:
            index = SearchIndex.build(tmp_path / "a", vectors[part], columns, kind, nprobe=nprobe)
            reader = SearchIndex.open(tmp_path / "a")
        else:
            index.add(vectors[part], columns)
    assert reader is not None
    assert len(reader) == 400  # it sees what was there when it was opened
    assert reader.search(queries, 3)[1].max() < 400
    for found in (index, SearchIndex.open(tmp_path / "a", verify=True)):
        ids = found.search(queries, k=4)[1]
        share = np.mean(
            [len({*a} & {*b}) / 4 for a, b in zip(ids, nearest(queries, vectors, 4)[1], strict=True)]
        )
        assert share > 0.9
        assert [row["place"] for row in found.rows(ids[0])] == ids[0].tolist()
        ids = found.search(queries, k=4, where={"even": "true"})[1]
        assert ids.tolist() == (2 * nearest(queries, vectors[::2], 4)[1]).tolist()
    folders = [path.name for path in (tmp_path / "a").glob("faiss-*")]
    assert folders == ([] if kind in ("exact", "int8", "binary") else ["faiss-00003"])


def test_filters_are_exact_and_joined_by_and(tmp_path: Path) -> None:
    vectors, queries = clustered(300), clustered(10, seed=2)
    random = np.random.default_rng(3)
    size, tags = (
        random.integers(5, size=300).tolist(),
        [["red"] * (n % 2) + ["big"] * (n % 3 == 0) for n in range(300)],
    )
    names: list[str | None] = [f"n{n % 4}" if n % 7 else None for n in range(300)]
    index = SearchIndex.build(tmp_path / "a", vectors, {"size": size, "tags": tags, "name": names}, "binary")

    def expected(keep: Any, k: int) -> list[list[int]]:
        rows = np.array([n for n in range(300) if keep(n)])
        found = rows[nearest(queries, vectors[rows], k)[1]]
        return [[*row, *[-1] * (k - len(row))] for row in found.tolist()]

    assert index.search(queries, 6, {"size": "3"})[1].tolist() == expected(lambda n: size[n] == 3, 6)
    both = [("tags", "red"), ("tags", "big")]
    assert index.search(queries, 60, both)[1].tolist() == expected(lambda n: {"red", "big"} <= {*tags[n]}, 60)
    assert index.search(queries, 6, {"name": "n2", "size": 1})[1].tolist() == expected(
        lambda n: names[n] == "n2" and size[n] == 1, 6
    )
    scores, ids = index.search(queries, 2, {"name": "nobody"})
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    for where, message in (
        ({"colour": "red"}, "the index has no column 'colour'; it has size, tags, name"),
        ({"size": "small"}, "where size=small: the column has values of type int64"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            index.search(queries, 2, where)


def test_values_are_read_as_the_type_of_the_column() -> None:
    table = pa.table(
        {
            "price": pa.array([0.1, 2.0, None], pa.float32()),
            "day": pa.array(["2024-01-02", "2024-01-03", None]).cast(pa.date32()),
            "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
            "pair": pa.array([[1, 2], [2, 3], [3, 4]], pa.list_(pa.int64(), 2)),
            "text": ["", "1", "x"],
        }
    )
    cases: list[tuple[Any, list[int]]] = [
        ({"price": "0.1"}, [0]),
        ({"price": 2}, [1]),
        ({"day": "2024-01-03"}, [1]),
        ({"kind": "a"}, [0, 2]),
        ({"pair": "2"}, [0, 1]),
        ({"text": ""}, [0]),
        ({"text": 1}, [1]),
        ({}, [0, 1, 2]),
    ]
    for where, rows in cases:
        assert matching(table, where).tolist() == rows, where


def test_an_addition_that_was_cut_off_leaves_the_index_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = clustered(300), clustered(5, seed=1)
    for kind in ("int8", "Flat"):
        folder = tmp_path / kind
        index = SearchIndex.build(folder, vectors[:200], {"n": np.arange(200)}, kind)
        before = index.search(queries, 3)[1].tolist()

        def blocks(kind: str) -> Any:
            yield vectors[200:250], {"n": np.arange(200, 250)}
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index.add_blocks(blocks(kind))
        with monkeypatch.context() as patch:
            patch.setattr("lit_metric.index.on_disk.write_json", lambda *_: 1 / 0)  # all but the manifest
            with pytest.raises(ZeroDivisionError):
                index.add(vectors[250:], {"n": np.arange(250, 300)})
        for found in (index, SearchIndex.open(folder, verify=True)):
            assert found.search(queries, 3)[1].tolist() == before
        index.add(vectors[200:], {"n": np.arange(200, 300)})
        again = SearchIndex.open(folder, verify=True)
        assert again.search(queries, 3)[1].tolist() == nearest(queries, vectors, 3)[1].tolist()
        assert again.columns["n"].to_pylist() == [*range(300)]
        with FileLock(folder / ".lock"), pytest.raises(RuntimeError, match="another process adds rows"):
            index.add(vectors[:1], {"n": [0]})


def test_damage_and_strange_folders_are_refused(tmp_path: Path) -> None:
    vectors = clustered(120)
    for name in ("vectors.bin", "codes.bin", "ranges.npy", "rows/00000.arrow"):
        folder = tmp_path / name.replace("/", "-")
        SearchIndex.build(folder, vectors, {"n": [*range(120)]}, "int8")
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(StoredIndexError, match=re.escape(name)):
            SearchIndex.open(folder, verify=True)
        (folder / name).write_bytes(content[:-64] if name.endswith("bin") else content[:10])
        with pytest.raises(StoredIndexError):
            SearchIndex.open(folder)
        (folder / name).unlink()
        with pytest.raises((StoredIndexError, FileNotFoundError)):
            SearchIndex.open(folder)
    with pytest.raises(StoredIndexError, match="does not exist"):
        SearchIndex.open(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        SearchIndex.build(tmp_path / "other", vectors)
    (tmp_path / "other" / "manifest.json").write_text(json.dumps({"format": 1, "files": {}}))
    with pytest.raises(StoredIndexError, match="something else than an index"):
        SearchIndex.open(tmp_path / "other")
    with pytest.raises(FileExistsError, match="holds an index"):
        SearchIndex.build(folder.with_name("vectors.bin"), vectors)


def test_bad_values_are_refused(tmp_path: Path) -> None:
    vectors = clustered(50)
    with pytest.raises(ValueError, match="row 3 of vectors holds NaN"):
        SearchIndex.build(tmp_path / "a", np.where(np.arange(50)[:, None] == 3, np.nan, vectors))
    index = SearchIndex.build(tmp_path / "a", vectors, {"n": [*range(50)]})  # what was begun is no obstacle
    for change, message in (
        (lambda: index.search(vectors[:, :7]), "queries must be [n, 20], got [50, 7]"),
        (lambda: index.search(vectors[:1], k=0), "k must be at least 1"),
        (lambda: index.search(["a text"]), "need an encoder"),
        (lambda: index.add(vectors[:, :7], {"n": [*range(50)]}), "vectors must be [n, 20]"),
        (lambda: index.add(vectors, {"n": [*range(3)]}), "50 vectors, and columns of 3 values"),
        (lambda: index.add(vectors, {"m": [*range(50)]}), "column 'm' is new: earlier rows have n"),
        (lambda: index.add(vectors, {"n": ["x"] * 50}), "n is int64, not string"),
        (lambda: index.add(vectors[:0]), "there are no rows"),
        (lambda: SearchIndex.build(tmp_path / "b", vectors, oversampling=0), "oversampling=0"),
        (lambda: SearchIndex.build(tmp_path / "b", vectors, nprobe=2), "nprobe and ef_search are for FAISS"),
        (
            lambda: SearchIndex.build(tmp_path / "b", vectors, kind="IVF64,Flat"),
            "cannot be trained on 50 vectors",
        ),
        (
            lambda: SearchIndex.build(tmp_path / "c", vectors, kind="nonsense"),
            "FAISS cannot build 'nonsense'",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            change()
    assert len(SearchIndex.open(tmp_path / "a", verify=True)) == 50
    index.add(vectors[:2])  # a column that is missing is null
    assert index.rows([0, 50]) == [{"n": 0}, {"n": None}]


def test_equal_vectors_come_in_the_order_of_rows(tmp_path: Path) -> None:
    vectors = clustered(300)
    vectors[[250, 17, 130]] = vectors[5]
    for kind in ("exact", "int8", "binary", "Flat"):
        index = SearchIndex.build(tmp_path / kind, vectors, kind=kind)
        assert index.search(vectors[[5]], 4)[1].tolist() == [[5, 17, 130, 250]]
        assert index.search(torch.from_numpy(vectors[[5]]), 400)[1][0, 300:].tolist() == [-1] * 100


def test_texts_are_encoded_by_the_model_of_the_index_alone(tmp_path: Path, small: Small) -> None:
    prompts = {"query": "w40 ", "document": "w42 "}
    encoder = TextEncoder(small / "backbone", prompts=prompts)
    texts = [f"w{n} w{n + 1} w{2 * n}" for n in range(30)]
    built = SearchIndex.build(tmp_path / "a", texts, {"text": texts}, encoder=encoder, role="document")
    index = SearchIndex.open(tmp_path / "a", encoder)
    built.add(["w3 w9"], {"text": ["w3 w9"]}, role="document")
    similar = encoder.encode(["w5 w6"], role="query") @ encoder.encode(texts, role="document").T
    scores, ids = index.search(["w5 w6"], 3, role="query")
    assert ids[0].tolist() == np.argsort(-similar[0])[:3].tolist()
    np.testing.assert_allclose(scores[0], np.sort(similar[0])[::-1][:3], atol=1e-5)
    assert index.role == "document"
    with torch.no_grad():
        next(encoder.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="are of another model, whose weights or settings differ"):
        SearchIndex.open(tmp_path / "a", encoder)
    with pytest.raises(ValueError, match="that are no vectors needs encoder="):
        SearchIndex.build(tmp_path / "b", texts)
