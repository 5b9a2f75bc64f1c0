"""Search against a sort of all scores, with ties, exclusions, and more asked for than there is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_metric.index import ExactIndex, FaissIndex, load_index, top_k
from lit_metric.index.scores import RunningTop
from tests.peers.cases import count

METRICS = st.sampled_from(["dot", "cosine"])


def lattice(data: st.DataObject, rows: int, dimension: int) -> Tensor:
    """Vectors of small integers, whose products are exact, so that many scores are equal."""
    numbers = st.lists(st.integers(-2, 2), min_size=rows * dimension, max_size=rows * dimension)
    return torch.tensor(data.draw(numbers), dtype=torch.float32).reshape(rows, dimension)


def vectors_of(data: st.DataObject, rows: int, dimension: int) -> Tensor:
    """A lattice, or anything; both may hold zero vectors."""
    if data.draw(st.booleans()):
        return lattice(data, rows, dimension)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    return torch.randn(rows, dimension, generator=generator)


def by_sorting(scores: Tensor, ids: Tensor, k: int, out: Tensor | None = None) -> list[list[int]]:
    """The ``k`` best ids of each row, of equal scores the lower id first, -1 behind the last."""
    found = []
    for row, values in enumerate(scores.tolist()):
        kept = [
            (-value, int(one))
            for column, (value, one) in enumerate(zip(values, ids.tolist(), strict=True))
            if out is None or not bool(out[row, column])
        ]
        best = [one for _, one in sorted(kept)[:k]]
        found.append(best + [-1] * (k - len(best)))
    return found


def world(data: st.DataObject, exact: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors with distinct ids in no order, and queries."""
    rows, queries, dimension = (data.draw(st.integers(low, high)) for low, high in ((1, 30), (0, 8), (1, 5)))
    make = lattice if exact else vectors_of
    ids = data.draw(st.lists(st.integers(0, 200), min_size=rows, max_size=rows, unique=True))
    return make(data, rows, dimension), torch.tensor(ids), make(data, queries, dimension)


@given(st.data())
def test_exact_search_of_exact_scores(data: st.DataObject) -> None:
    count("property", "index")
    vectors, ids, queries = world(data)
    k = data.draw(st.integers(1, 40))
    index = ExactIndex("dot", data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40)))
    cut = data.draw(st.integers(0, len(ids)))
    index.add(vectors[:cut], ids[:cut])
    index.add(vectors[cut:], ids[cut:])
    scores, found = index.search(queries, k)
    products = queries @ vectors.T
    assert found.tolist() == by_sorting(products, ids, k)
    assert bool((scores.isneginf() == (found < 0)).all())
    place = {int(one): column for column, one in enumerate(ids)}
    for row, (own, values) in enumerate(zip(found.tolist(), scores.tolist(), strict=True)):
        told = [value for one, value in zip(own, values, strict=True) if one >= 0]
        assert told == [float(products[row, place[one]]) for one in own if one >= 0]


@given(st.data())
def test_what_is_left_out_is_not_found_and_takes_no_place(data: st.DataObject) -> None:
    count("property", "index")
    vectors, ids, queries = world(data)
    k = data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 1000))
    table = torch.rand(len(queries), 201, generator=torch.Generator().manual_seed(seed)) < data.draw(
        st.sampled_from([0.1, 0.5, 1.0])
    )
    index = ExactIndex("dot", data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40)))
    index.add(vectors, ids)
    _, found = index.search(queries, k, exclude=lambda rows, some, _: table[rows][:, some])
    assert found.tolist() == by_sorting(queries @ vectors.T, ids, k, table[:, ids])


@given(st.data())
def test_any_scores_and_metric(data: st.DataObject) -> None:
    """Rounding may exchange neighbours of nearly the same score, but no score is off."""
    count("property", "index")
    vectors, ids, queries = world(data, exact=False)
    metric, k = data.draw(METRICS), data.draw(st.integers(1, 40))
    left, right = vectors.double(), queries.double()
    if metric == "cosine":
        left, right = (torch.nn.functional.normalize(side, dim=1) for side in (left, right))
    expected = (right @ left.T).sort(dim=1, descending=True).values[:, :k]
    place = {int(one): row for row, one in enumerate(ids)}
    for index in (ExactIndex(metric), FaissIndex("Flat", metric, threads=1)):
        index.add(vectors, ids)
        scores, found = index.search(queries, k)
        width = min(k, len(ids))
        torch.testing.assert_close(scores[:, :width].double(), expected, atol=1e-5, rtol=1e-5)
        assert bool((found[:, width:] == -1).all())
        for row, one in enumerate(found[:, :width].tolist()):
            assert len({*one}) == width
            own = torch.stack([right[row] @ left[place[each]] for each in one])
            torch.testing.assert_close(scores[row, :width].double(), own, atol=1e-5, rtol=1e-5)


@given(st.data())
def test_items_as_queries(data: st.DataObject) -> None:
    count("property", "index")
    vectors, ids, _ = world(data)
    k = data.draw(st.integers(1, 40))
    index = ExactIndex("dot")
    index.add(vectors, ids)
    rising, order = ids.sort()
    asked = data.draw(st.integers(1, len(ids)))
    _, found = index.search_by_id(
        rising[:asked], k, exclude=lambda rows, some, _: rising[:asked][rows][:, None] == some
    )
    products = vectors[order[:asked]] @ vectors.T
    assert found.tolist() == by_sorting(products, ids, k, rising[:asked, None] == ids)


@given(st.data())
def test_a_stored_index_answers_as_before(data: st.DataObject) -> None:
    count("property", "index")
    vectors, ids, queries = world(data)
    for index in (ExactIndex("dot"), FaissIndex("Flat", "dot", threads=1)):
        index.add(vectors, ids)
        before = index.search(queries, 7)
        with tempfile.TemporaryDirectory() as folder:
            index.save(Path(folder) / "index")
            after = load_index(Path(folder) / "index").search(queries, 7)
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one, other)


@given(st.data())
def test_the_largest_of_each_row(data: st.DataObject) -> None:
    count("property", "index")
    rows, columns, k = (data.draw(st.integers(low, high)) for low, high in ((0, 5), (0, 40), (1, 20)))
    scores = lattice(data, rows, columns)
    values, places = top_k(scores, k)
    expected = by_sorting(scores, torch.arange(columns), min(k, columns))
    assert places.tolist() == expected
    assert values.tolist() == scores.gather(1, places).tolist()
    running, start = RunningTop(rows, k, torch.device("cpu")), 0
    while start < columns:
        width = data.draw(st.integers(1, 12))
        running.add(scores[:, start : start + width].clone(), start)
        start += width
    assert running.result()[1].tolist() == by_sorting(scores, torch.arange(columns), k)
