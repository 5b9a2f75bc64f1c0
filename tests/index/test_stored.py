"""Saved indexes answer as before, in this process and in another, and damaged ones are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric import store as store_module
from lit_metric.index import ExactIndex, FaissIndex, Index, StoredIndexError, load_index
from tests.forked import SERVER

KINDS: dict[str, Callable[[], Index]] = {
    "exact": lambda: ExactIndex(query_block=7, vector_block=33),
    "exact dot": lambda: ExactIndex(similarity="dot"),
    "flat": lambda: FaissIndex("Flat", threads=1),
    "flat dot": lambda: FaissIndex("Flat", similarity="dot", threads=1),
    "ivf": lambda: FaissIndex("IVF8,Flat", nprobe=3, threads=1),
    "ivf pq": lambda: FaissIndex("IVF8,PQ8x4", nprobe=8, threads=1),
    "hnsw": lambda: FaissIndex("HNSW16", ef_search=40, threads=1),
    "pq": lambda: FaissIndex("PQ8x4", threads=1),
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(kind: str) -> Index:
    index = KINDS[kind]()
    ids = torch.randperm(5000, generator=torch.Generator().manual_seed(1))[:500]
    index.add(randn(300, 16), ids[:300])
    index.add(randn(200, 16, seed=2), ids[300:])
    return index


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_index_answers_as_the_saved_one(kind: str, memory_map: bool, tmp_path: Path) -> None:
    index, queries = filled(kind), randn(20, 16, seed=3)
    index.save(tmp_path / "new" / "index")
    expected = index.search(queries, 10)
    loaded = load_index(tmp_path / "new" / "index", memory_map=memory_map, threads=1)
    assert type(loaded) is type(index)
    assert (len(loaded), loaded.dimension, loaded.similarity) == (500, 16, index.similarity)
    for before, after in zip(expected, loaded.search(queries, 10), strict=True):
        assert torch.equal(before, after)
    assert loaded._settings() == index._settings()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["index"]


@pytest.mark.parametrize("kind", ["exact", "flat", "hnsw"])
def test_a_loaded_index_can_grow_and_be_emptied(kind: str, tmp_path: Path) -> None:
    index, more = filled(kind), randn(30, 16, seed=5)
    index.save(tmp_path / "index")
    loaded = load_index(tmp_path / "index", memory_map=False, threads=1)
    for each in (index, loaded):
        each.add(more, torch.arange(9000, 9030))
    (scores, ids), (loaded_scores, loaded_ids) = index.search(more, 5), loaded.search(more, 5)
    assert torch.equal(ids, loaded_ids)
    # FAISS doesn't save the generator that the levels of a graph are drawn with, so what is added later makes
    # another graph, and on another way a score may come out of another kernel, with another last bit.
    torch.testing.assert_close(loaded_scores, scores, rtol=0, atol=1e-6 if kind == "hnsw" else 0)
    assert loaded.search(more, 1)[1].squeeze(1).tolist() == list(range(9000, 9030))
    loaded.reset()
    loaded.add(torch.eye(3), torch.arange(3))
    assert loaded.search(torch.eye(3), 1)[1].squeeze(1).tolist() == [0, 1, 2]


def test_what_is_mapped_stays_as_it_is_on_the_disk(tmp_path: Path) -> None:
    filled("exact").save(tmp_path / "exact")
    exact = load_index(tmp_path / "exact")
    before = (tmp_path / "exact" / "vectors.npy").read_bytes()
    exact.add(torch.ones(1, 16), torch.tensor([9000]))
    assert exact.search(torch.ones(1, 16), 1)[1].item() == 9000
    assert (tmp_path / "exact" / "vectors.npy").read_bytes() == before
    filled("flat").save(tmp_path / "flat")
    mapped = load_index(tmp_path / "flat")
    with pytest.raises(ValueError, match="loaded memory-mapped and takes no more vectors"):
        mapped.add(torch.ones(1, 16), torch.tensor([9000]))
    mapped.reset()
    mapped.add(torch.ones(1, 16), torch.tensor([9000]))
    assert mapped.search(torch.ones(1, 16), 1)[1].item() == 9000


def anonymous() -> int:
    """KiB of this process that are of no file."""
    [found] = re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found)


def kilobytes_of(folder: Path, memory_map: bool) -> tuple[int, list[list[int]]]:
    """What a saved index adds to a process that has loaded faiss, and what it finds."""
    faiss.omp_get_max_threads()
    before = anonymous()
    index = load_index(folder, memory_map=memory_map, verify=False, threads=1)
    return anonymous() - before, index.search(torch.eye(128)[:3], 4)[1].tolist()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["exact", "Flat", "IVF8,Flat", "HNSW8"])
def test_a_mapped_index_takes_no_memory_of_its_own(kind: str, tmp_path: Path) -> None:
    index: Index = ExactIndex() if kind == "exact" else FaissIndex(kind, threads=1)
    count = 4000 if kind == "HNSW8" else 40_000
    index.add(randn(count, 128), torch.arange(count))
    index.save(tmp_path / "index")
    expected = index.search(torch.eye(128)[:3], 4)[1].tolist()
    used = {}
    for how in ("mapped", "memory"):
        with ProcessPoolExecutor(1, mp_context=SERVER) as pool:
            used[how], found = pool.submit(kilobytes_of, tmp_path / "index", how == "mapped").result()
        assert found == expected
    size = count * 128 * 4 / 1024
    assert used["memory"] > 0.9 * size
    assert used["mapped"] < used["memory"] - 0.8 * size


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(**entries: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return apply


@pytest.mark.parametrize(
    ("kind", "file", "damage", "verify", "reason"),
    [
        ("exact", "vectors.npy", flip, True, r"vectors.npy is damaged: its sha256 is not the manifest's"),
        ("exact", "ids.npy", flip, True, r"ids.npy is damaged: its sha256"),
        ("ivf", "index.faiss", flip, True, r"index.faiss is damaged: its sha256"),
        ("ivf", "index.faiss", cut, True, r"index.faiss is damaged: its sha256"),
        ("flat", "index.faiss", cut, False, r"index.faiss cannot be read by FAISS \(.*read error"),
        ("exact", "vectors.npy", cut, False, r"vectors.npy cannot be read as an array"),
        ("exact", "vectors.npy", Path.unlink, False, r"vectors.npy is missing; build the index and save it"),
        ("exact", "manifest.json", Path.unlink, True, r"holds no manifest.json: it was never finished"),
        ("exact", "manifest.json", cut, True, r"manifest.json is damaged"),
        ("exact", "manifest.json", change(format=7), True, r"has format 7, this library reads format 1"),
        ("exact", "manifest.json", change(kind="Other"), True, r"holds a Other, expected one of ExactIndex"),
        ("exact", "manifest.json", change(settings={"a": 1}), True, r"has settings of another version"),
        ("exact", "manifest.json", change(count=9), True, r"float32 \[500, 16\], expected float32 \[9, 16\]"),
        ("flat", "manifest.json", change(dimension=9), True, r"holds \[500, 16\], expected \[500, 9\]"),
    ],
)
def test_what_is_damaged_is_refused_with_the_reason(
    tmp_path: Path, kind: str, file: str, damage: Callable[[Path], None], verify: bool, reason: str
) -> None:
    filled(kind).save(tmp_path / "index")
    damage(tmp_path / "index" / file)
    with pytest.raises(StoredIndexError, match=reason):
        load_index(tmp_path / "index", verify=verify)


def test_ids_that_an_exact_index_cannot_have_are_refused(tmp_path: Path) -> None:
    filled("exact").save(tmp_path / "index")
    np.save(tmp_path / "index" / "ids.npy", np.zeros(500, dtype=np.int64))
    with pytest.raises(StoredIndexError, match="the ids of an exact index must rise"):
        load_index(tmp_path / "index", verify=False)


def test_nothing_is_written_over_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = filled("exact")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").touch()
    with pytest.raises(FileExistsError, match="exists already and is not an empty folder"):
        index.save(tmp_path / "taken")
    with pytest.raises(ValueError, match="the index holds no vectors yet"):
        ExactIndex().save(tmp_path / "empty")

    def full(*arguments: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(store_module, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        index.save(tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_threads_and_device_are_those_of_whoever_loads(tmp_path: Path) -> None:
    filled("exact").save(tmp_path / "exact")
    filled("flat").save(tmp_path / "flat")
    assert load_index(tmp_path / "exact", threads=3, device="cpu").threads == 3
    assert load_index(tmp_path / "flat", threads=2).threads == 2
    with pytest.raises(ValueError, match="holds a FAISS index, which is searched on the CPU"):
        load_index(tmp_path / "flat", device="cuda")


def test_a_folder_with_the_older_name_of_the_similarity_loads(tmp_path: Path) -> None:
    filled("exact dot").save(tmp_path / "index")
    settings = {"metric": "dot", "query_block": 1024, "vector_block": 16384}
    change(settings=settings)(tmp_path / "index" / "manifest.json")
    assert load_index(tmp_path / "index").similarity == "dot"
