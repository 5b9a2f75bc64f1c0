"""Sets of pairs against Python sets, and what is remembered."""

from __future__ import annotations

import copy
import pickle
import random

import torch

from lit_metric.data.relations.lookup import (
    Memo,
    PairSet,
    Sorted,
    in_order_of,
    ranks,
    spread,
    stable_sort,
    unique,
)


def random_pairs(seed: int, size: int, count: int) -> tuple[set[tuple[int, int]], PairSet]:
    draw = random.Random(seed)
    pairs = [(draw.randrange(size), draw.randrange(size)) for _ in range(count)]
    rows, columns = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    return set(pairs), PairSet.of(rows, columns, size)


def test_pairs_against_a_set():
    for seed, (size, count) in enumerate([(1, 3), (20, 0), (20, 5), (20, 90), (300, 90)]):
        known, pairs = random_pairs(seed, size, count)
        assert len(pairs) == len(known)
        assert list(zip(*(side.tolist() for side in pairs.pairs()), strict=True)) == sorted(known)
        for columns in (torch.arange(size), torch.arange(size // 2)):
            turned = list(zip(*(side.tolist() for side in pairs.turned(columns).pairs()), strict=True))
            assert turned == sorted((column, row) for row, column in known if column < len(columns))
        ids = torch.randint(size, (30,), generator=torch.Generator().manual_seed(seed))
        others = torch.randint(size, (40,), generator=torch.Generator().manual_seed(seed + 1))
        expected = [[(row, column) in known for column in others.tolist()] for row in ids.tolist()]
        assert pairs.contains(ids[:, None], others).tolist() == expected
        assert pairs.rows(ids).tolist() == [sorted(c for r, c in known if r == row) for row in ids.tolist()]
        for some in (ids, ids[:3]):  # many rows are counted, few are searched for
            starts, lengths = pairs.spans(some)
            assert lengths.tolist() == [len(row) for row in pairs.rows(some).tolist()]
            assert starts.tolist() == [sum(row < each for row, _ in known) for each in some.tolist()]
        rows, columns, places = pairs.join(ids, Sorted.of(others))
        joined = torch.zeros(30, 40, dtype=torch.bool)
        joined[rows, columns] = True
        assert joined.tolist() == expected
        assert len(rows) == sum(map(sum, expected))
        assert torch.equal(pairs.keys[places], ids[rows] * size + others[columns])


def test_the_largest_ids_do_not_overflow():
    size = 2**31
    last = torch.tensor([size - 1])
    pairs = PairSet.of(last, last, size)
    assert pairs.pairs() == (size - 1, size - 1)
    assert pairs.contains(last, torch.tensor([0, size - 1])).tolist() == [False, True]
    assert pairs.rows(last).tolist() == [[size - 1]]


def test_sorts_are_stable_for_small_and_large_keys():
    draw = torch.Generator().manual_seed(0)
    for below in (1, 7, 2**40, 2**57 - 1, 2**62):  # keys and places of 70 fit into 64 bits below 2**57
        keys = torch.randint(below, (50,), generator=draw)
        keys = torch.cat([keys, keys[:20]])
        expected = sorted(range(70), key=keys.tolist().__getitem__)
        found, order = stable_sort(keys, below)
        assert order.tolist() == expected
        assert torch.equal(found, keys[expected])
        assert unique(keys).tolist() == sorted({*keys.tolist()})
        assert ranks(keys).tolist() == [sorted({*keys.tolist()}).index(key) for key in keys.tolist()]
        again, places = stable_sort(found, below)
        assert again.tolist() == found.tolist()
        assert places.tolist() == list(range(70))
    empty = torch.zeros(0, dtype=torch.int64)
    assert [len(part) for part in stable_sort(empty, 5)] == [0, 0]
    assert len(unique(empty)) == len(ranks(empty)) == 0


def test_ranges_are_spread_end_to_end():
    owners, members = spread(torch.tensor([5, 9, 0, 2]), torch.tensor([0, 3, 2, 1]))
    assert owners.tolist() == [1, 1, 1, 2, 2, 3]
    assert members.tolist() == [9, 10, 11, 0, 1, 2]


def test_what_was_found_comes_in_the_order_of_among():
    among = torch.tensor([8, 3, 8, 5])
    found = in_order_of(torch.tensor([2, 3, 0, 1]), torch.tensor([1, 0, 1, 1]), 3, among)
    assert found.tolist() == [[5], [8, 3, 8], []]


def test_a_memo_is_kept_for_one_unchanged_tensor():
    calls = []

    def compute(ids: torch.Tensor) -> list[int]:
        calls.append(ids.tolist())
        return ids.tolist()

    memo, ids = Memo[list[int]](), torch.tensor([3, 1])
    assert memo.of(ids, compute) == memo.of(ids, compute) == [3, 1]
    assert len(calls) == 1
    ids += 1  # the same object with another content
    assert memo.of(ids, compute) == [4, 2]
    assert memo.of(ids.clone(), compute) == [4, 2]
    assert len(calls) == 3
    with torch.inference_mode():  # there changes are not counted
        ids = torch.tensor([7])
        assert memo.of(ids, compute) == [7]
        ids += 1
        assert memo.of(ids, compute) == [8]


def test_a_memo_is_not_sent_along():
    memo, ids = Memo[torch.Tensor](), torch.arange(100_000)
    memo.of(ids, torch.msort)
    assert len(pickle.dumps(memo)) < 200
    assert copy.deepcopy(memo).of(torch.tensor([2, 1]), torch.msort).tolist() == [1, 2]
