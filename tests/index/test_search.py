"""Both indexes against a full sort, and against each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric.index import ExactIndex, FaissIndex, Index, exact, faiss_index, similarities, top_k

EXACT = [ExactIndex, FaissIndex]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(queries: Tensor, vectors: Tensor, ids: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """A full sort in float64, by falling score and then rising id."""
    queries, vectors = queries.double(), vectors.double()
    if metric == "cosine":
        queries = queries / queries.norm(dim=1, keepdim=True)
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
    scores = np.asarray(queries @ vectors.T)
    order = np.stack([np.lexsort((ids.numpy(), -row))[:k] for row in scores])
    return torch.tensor(np.take_along_axis(scores, order, 1)).float(), ids[torch.tensor(order)]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("kind", EXACT)
def test_neighbours_are_those_of_a_full_sort(kind: type[Index], metric: str) -> None:
    vectors, queries = randn(300, 12), randn(40, 12, seed=1)
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(2))[:300]
    index = kind(similarity=metric)
    index.add(vectors[:100], ids[:100])
    index.add(vectors[100:], ids[100:])
    scores, found = index.search(queries, 7)
    expected_scores, expected = reference(queries, vectors, ids, 7, metric)
    assert torch.equal(found, expected)
    torch.testing.assert_close(scores, expected_scores)
    assert (len(index), scores.dtype, found.dtype) == (300, torch.float32, torch.int64)


@pytest.mark.parametrize("kind", EXACT)
def test_vectors_added_after_a_search_are_found(kind: type[Index]) -> None:
    vectors, queries = randn(50, 6), randn(9, 6, seed=1)
    ids = torch.arange(50).flip(0)
    index = kind()
    index.add(vectors[:20], ids[:20])
    index.search(queries, 3)
    index.add(vectors[20:], ids[20:])
    assert torch.equal(index.search(queries, 3)[1], reference(queries, vectors, ids, 3, "cosine")[1])


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("kind", EXACT)
def test_a_buffer_may_be_used_again(kind: type[Index], metric: str) -> None:
    index, vectors, ids = kind(similarity=metric), torch.empty(1, 2), torch.empty(1, dtype=torch.int64)
    for number, vector in enumerate([[1.0, 0.0], [0.0, 1.0]]):
        vectors[0], ids[0] = torch.tensor(vector), number
        index.add(vectors, ids)
    assert index.search(torch.eye(2), 1)[1].tolist() == [[0], [1]]


def test_blocks_change_nothing() -> None:
    vectors, queries, ids = randn(101, 8), randn(23, 8, seed=1), torch.randperm(101)
    whole, blocks = ExactIndex(), ExactIndex(query_block=5, vector_block=7)
    whole.add(vectors, ids)
    blocks.add(vectors, ids)
    for k in (1, 10, 101):  # 10 neighbours are more than a block of vectors holds
        for expected, got in zip(whole.search(queries, k), blocks.search(queries, k), strict=True):
            assert torch.equal(expected, got)


def test_no_more_than_a_block_of_scores_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def watched(queries: Tensor, vectors: Tensor) -> Tensor:
        shapes.append((len(queries), len(vectors)))
        return similarities(queries, vectors)

    monkeypatch.setattr(exact, "similarities", watched)
    index = ExactIndex(query_block=5, vector_block=7)
    index.add(randn(30, 4), torch.arange(30))
    index.search(randn(12, 4), 9)
    assert max(q for q, _ in shapes) == 5
    assert max(n for _, n in shapes) == 7
    assert sum(q * n for q, n in shapes) == 12 * 30


@pytest.mark.parametrize("blocks", [(1024, 16384), (2, 3)])
def test_of_equal_scores_the_lower_id_comes_first(blocks: tuple[int, int]) -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(6, 1)
    ids = torch.tensor([22, 3, 8, 15, 4, 1, 30, 7, 2, 9, 11, 5])
    index = ExactIndex(query_block=blocks[0], vector_block=blocks[1])
    index.add(vectors, ids)
    scores, found = index.search(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 4)
    # Of the second query's six nearest only the lowest ids fit; the third's six farthest are left out.
    assert found.tolist() == [[2, 4, 8, 11], [1, 3, 5, 7], [2, 4, 8, 11]]
    assert scores.tolist() == [[1.0] * 4, [1.0] * 4, [0.0] * 4]


def test_faiss_puts_the_lower_id_first_among_those_it_returns() -> None:
    index = FaissIndex()
    index.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(3, 1), torch.tensor([9, 8, 1, 2, 5, 4]))
    assert index.search(torch.tensor([[1.0, 0.0]]), 6)[1].tolist() == [[1, 5, 9, 2, 4, 8]]


@pytest.mark.parametrize("copies", [2, 3, 37])
def test_equal_vectors_tie_wherever_they_stand(copies: int) -> None:
    """The last columns of a matrix product are computed in another order than the rest."""
    vectors, queries = randn(11, 100), randn(7, 100, seed=1)
    index = ExactIndex()
    index.add(vectors.repeat(copies, 1), torch.arange(11 * copies))
    scores, found = index.search(queries, 11 * copies)
    scores, found = scores.view(7, 11, copies), found.view(7, 11, copies)
    assert torch.equal(scores, scores[:, :, :1].expand_as(scores))
    assert torch.equal(found, found[:, :, :1] + torch.arange(copies) * 11)


@pytest.mark.parametrize("kind", EXACT)
def test_missing_neighbours(kind: type[Index]) -> None:
    index = kind(similarity="dot")
    scores, found = index.search(torch.ones(2, 3), 2)
    assert found.tolist() == [[-1, -1]] * 2
    assert scores.tolist() == [[-torch.inf] * 2] * 2
    index.add(torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([4]))
    scores, found = index.search(torch.tensor([[0.0, 1.0, 0.0]]), 3)
    assert found.tolist() == [[4, -1, -1]]
    assert scores.tolist() == [[-2.0, -torch.inf, -torch.inf]]
    assert index.search(torch.empty(0, 3), 2)[1].shape == (0, 2)


@pytest.mark.parametrize("kind", EXACT)
def test_reset_forgets_everything(kind: type[Index]) -> None:
    index = kind()
    index.add(torch.eye(3), torch.arange(3))
    index.search(torch.eye(3), 1)
    index.reset()
    assert (len(index), index.dimension) == (0, None)
    assert index.search(torch.ones(1, 5), 1)[1].tolist() == [[-1]]
    index.add(torch.eye(5), torch.arange(5))
    assert index.search(torch.eye(5), 1)[1].squeeze(1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", EXACT)
def test_any_float_type_and_numpy_are_searched_in_float32(kind: type[Index]) -> None:
    vectors, queries = randn(40, 8).bfloat16(), randn(5, 8, seed=1).bfloat16()
    plain, other = kind(), kind()
    plain.add(vectors.float(), torch.arange(40))
    other.add(vectors, torch.arange(40, dtype=torch.int32))
    for expected, got in zip(plain.search(queries.float(), 5), other.search(queries, 5), strict=True):
        assert torch.equal(expected, got)
    array = vectors.double().numpy()
    array.flags.writeable = False  # as a memory-mapped file opened for reading
    from_numpy = kind()
    from_numpy.add(array, np.arange(40))
    assert torch.equal(from_numpy.search(queries.float().numpy(), 5)[1], plain.search(queries.float(), 5)[1])
    assert np.array_equal(array, vectors.double().numpy())  # scaled in a copy


@pytest.mark.parametrize("kind", EXACT)
def test_a_zero_vector_has_cosine_zero(kind: type[Index]) -> None:
    index = kind(similarity="cosine")
    index.add(torch.tensor([[0.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1]))
    scores, found = index.search(torch.tensor([[3.0, 0.0]]), 2)
    assert (scores.tolist(), found.tolist()) == ([[0.0, -1.0]], [[0, 1]])


def test_neither_autocast_nor_reduced_precision_changes_scores() -> None:
    queries, vectors = randn(64, 64), randn(64, 64, seed=1)
    expected = similarities(queries, vectors)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = similarities(queries, vectors)
            assert (queries @ vectors.T).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(expected, got)


def test_top_k_breaks_ties_to_the_left_for_any_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (50, 40), generator=generator).float()
    scores[scores == 0] *= -1.0  # -0.0 ties with 0.0
    scores[::2, ::3] = 0.0
    scores[1::2, ::5] = -torch.inf
    for k in (1, 7, 40, 60):
        values, positions = top_k(scores, k)
        expected = torch.tensor(np.stack([np.argsort(-row, kind="stable")[:k] for row in scores.numpy()]))
        assert torch.equal(positions, expected)
        assert torch.equal(values, scores.gather(1, expected))


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"factory": "IVF8,Flat", "nprobe": 8}, 1.0),
        ({"factory": "HNSW16", "ef_search": 64}, 0.95),
        ({"factory": "IVF8,PQ8x4", "nprobe": 8}, 0.3),
        ({"factory": "SQ8"}, 0.9),
    ],
)
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_approximate_indexes_find_most_neighbours(
    settings: dict[str, object], least: float, metric: str
) -> None:
    vectors, queries = randn(1000, 16), randn(30, 16, seed=1)
    ids = torch.arange(1000) * 3
    index = FaissIndex(similarity=metric, threads=1, **settings)
    index.add(vectors, ids)
    scores, found = index.search(queries, 10)
    _, expected = reference(queries, vectors, ids, 10, metric)
    shared = (found[:, :, None] == expected[:, None, :]).any(2).float().mean()
    assert shared >= least
    assert bool((scores.diff(dim=1) <= 0).all())


def test_nprobe_widens_the_search() -> None:
    vectors, queries = randn(1000, 16), randn(50, 16, seed=1)
    expected = reference(queries, vectors, torch.arange(1000), 10, "cosine")[1]
    shared = []
    for nprobe in (None, 4, 16):
        index = FaissIndex("IVF16,Flat", nprobe=nprobe)
        index.add(vectors, torch.arange(1000))
        shared.append(float((index.search(queries, 10)[1] == expected).float().mean()))
    assert shared[0] < shared[1] < shared[2] == 1.0


def test_a_search_that_finds_too_few_says_so() -> None:
    index = FaissIndex("IVF4,Flat", similarity="dot", nprobe=1)
    vectors = 10 * torch.eye(4).repeat(10, 1) + 0.1 * randn(40, 4)
    index.add(vectors, torch.arange(40))
    scores, found = index.search(torch.eye(4) - 0.5, 25)
    for cell in range(4):  # ten vectors lie around each axis, and only one cell is searched
        assert sorted(found[cell, :10].tolist()) == list(range(cell, 40, 4))
    assert bool((found[:, 10:] == -1).all())
    assert bool(scores[:, 10:].isneginf().all())
    assert bool(scores[:, :10].isfinite().all())


def test_hnsw_is_reproducible_with_several_threads() -> None:
    vectors, queries = randn(2000, 16), randn(200, 16, seed=1)
    found = []
    for threads in (1, 4, 4):
        index = FaissIndex("HNSW4", ef_search=4, threads=threads)
        index.add(vectors, torch.arange(2000))
        found.append(index.search(queries, 10)[1])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_threads_are_set_for_the_search_only(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    class Watched:
        def __init__(self, index: faiss.Index) -> None:
            self.index = index

        def search(self, *args: object) -> object:
            used.append(faiss.omp_get_max_threads())
            return self.index.search(*args)

    before = faiss.omp_get_max_threads()
    index = FaissIndex(threads=before + 2)
    index.add(torch.eye(4), torch.arange(4))
    index.search(torch.eye(4), 1)
    monkeypatch.setattr(index, "_index", Watched(index._index))
    index.search(torch.eye(4), 1)
    assert used == [before + 2]
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("kind", EXACT)
def test_bad_input_is_refused(kind: type[Index]) -> None:
    index = kind()
    index.add(torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match="queries have dimension 4, the index has 3"):
        index.search(torch.ones(1, 4), 1)
    with pytest.raises(ValueError, match="vectors have dimension 2, the index has 3"):
        index.add(torch.ones(1, 2), torch.tensor([9]))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.search(torch.ones(1, 3), 0)
    with pytest.raises(ValueError, match="row 1 of queries holds NaN"):
        index.search(torch.tensor([[1.0, 0, 0], [torch.nan, 0, 0]]), 1)
    with pytest.raises(ValueError, match="row 0 of vectors holds NaN or infinity"):
        index.add(torch.tensor([[torch.inf, 0, 0]]), torch.tensor([9]))
    with pytest.raises(ValueError, match=r"ids must be 1 integers.*got torch.float32"):
        index.add(torch.ones(1, 3), torch.tensor([9.0]))
    with pytest.raises(ValueError, match=r"ids must be 1 integers.*\[2\]"):
        index.add(torch.ones(1, 3), torch.tensor([8, 9]))
    with pytest.raises(ValueError, match="ids must be >= 0"):
        index.add(torch.ones(1, 3), torch.tensor([-1]))
    with pytest.raises(ValueError, match=r"must be \[n, dimension\]"):
        index.search(torch.ones(3), 1)
    assert len(index) == 3
    index.add(torch.ones(1, 3), torch.tensor([2]))
    with pytest.raises(ValueError, match="id 2 was added twice"):
        index.search(torch.ones(1, 3), 1)
    with pytest.raises(ValueError, match="similarity is 'euclidean'; use 'cosine' or 'dot'"):
        kind(similarity="euclidean")


def test_faiss_settings_that_cannot_work_are_refused() -> None:
    def search(factory: str, n: int = 20) -> None:
        index = FaissIndex(factory)
        index.add(randn(n, 6), torch.arange(n))
        index.search(randn(1, 6), 1)

    with pytest.raises(ValueError, match=r"'IVF64,Flat' cannot be trained on 20 vectors.*use 'Flat'"):
        search("IVF64,Flat")
    with pytest.raises(ValueError, match="cannot build 'Nonsense' for dimension 6"):
        search("Nonsense")
    with pytest.raises(ValueError, match="cannot build 'PQ4' for dimension 6"):
        search("PQ4")
    with pytest.raises(ValueError, match="nprobe is for IVF indexes"):
        FaissIndex("Flat", nprobe=4)
    with pytest.raises(ValueError, match="ef_search is for HNSW indexes"):
        FaissIndex("IVF8,Flat", ef_search=4)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        FaissIndex(threads=0)
    with pytest.raises(ValueError, match="blocks must be at least 1"):
        ExactIndex(query_block=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_exact_search_on_a_gpu_equals_the_cpu() -> None:
    vectors, queries, ids = randn(3000, 48), randn(100, 48, seed=1), torch.randperm(3000)
    cpu, gpu = ExactIndex(), ExactIndex(query_block=64, vector_block=512, device="cuda")
    cpu.add(vectors, ids)
    gpu.add(vectors, ids)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        scores, found = gpu.search(queries, 20)
    finally:
        torch.set_float32_matmul_precision(before)
    expected_scores, expected = cpu.search(queries, 20)
    assert torch.equal(found, expected)
    torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-6)
    tied = ExactIndex(device="cuda")
    tied.add(vectors[:50].repeat(3, 1), torch.arange(150))
    found = tied.search(queries, 150)[1].view(100, 50, 3)
    assert torch.equal(found, found[:, :, :1] + torch.arange(3) * 50)


@pytest.mark.parametrize("parts", [[1000], [1, 2, 997], [300, 300, 400], [7] * 140 + [20]])
def test_an_index_is_trained_on_vectors_from_all_parts(
    parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "TRAINED_ON", 400)
    monkeypatch.setattr(faiss_index, "TRAINED_PER_CELL", 1)
    rows = torch.arange(1000.0)[:, None]
    assert faiss_index._spread(list(rows.split(parts)), 400).ravel().tolist() == list(range(0, 1000, 3))
    index = FaissIndex("IVF4,Flat", nprobe=4)
    vectors = randn(1000, 8)
    for start, part in zip(np.cumsum([0, *parts]), vectors.split(parts), strict=False):
        index.add(part, torch.arange(start, start + len(part)))
    assert torch.equal(index.search(vectors[:50], 1)[1].squeeze(1), torch.arange(50))


def test_a_refused_id_leaves_the_index_as_it_was() -> None:
    index = ExactIndex()
    index.add(torch.eye(3), torch.arange(3))
    assert index.search(torch.eye(3), 1)[1].squeeze(1).tolist() == [0, 1, 2]
    index.add(torch.eye(3), torch.tensor([5, 1, 6]))
    for _ in range(2):
        with pytest.raises(ValueError, match="id 1 was added twice"):
            index.search(torch.eye(3), 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["ExactIndex()", "FaissIndex('IVF64,Flat')"])
def test_vectors_are_never_all_held_twice(kind: str) -> None:
    """184 MiB of vectors: what waits, what is sorted and what is kept would be three times that."""
    script = f"""
import re, numpy as np, torch
from pathlib import Path
import faiss
from lit_metric.index import ExactIndex, FaissIndex, faiss_index
faiss_index.TRAINED_ON = 4096
def memory(which):
    return int(re.search(which + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
vectors = np.random.default_rng(0).standard_normal((25_000, 384), dtype="f4")
warm = {kind}  # code and buffers that the first search brings into memory
warm.threads = 1
warm.add(vectors[:5000], np.arange(5000))
warm.search(torch.ones(1, 384), 1)
del warm
index = {kind}
index.threads = 1
before = memory("VmRSS")
for start in range(0, 125_000, 25_000):
    index.add(vectors, np.arange(25_000) + start)
index.search(torch.ones(1, 384), 1)
print(memory("VmHWM") - before)
"""
    # Large blocks go back to the system as soon as they are free, so that only what is held is counted.
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=variables
    )
    assert 184 < float(done.stdout) < 1.6 * 184
