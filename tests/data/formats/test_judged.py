"""Judged rows as arrays, against loops over rows."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_metric.data import DataError, Dataset, Pairs, Problems, read_table, row_store
from lit_metric.data import table as table_module
from lit_metric.data import texts as texts_module
from lit_metric.data.formats.base import ReadOptions
from lit_metric.data.formats.judged_rows import JudgedRows
from lit_metric.data.ragged import Ragged

Row = dict[str, Any]


def some_rows(seed: int, count: int, texts: int) -> list[Row]:
    """Anchors, one to three positives and no to three negatives each, which never are positives elsewhere."""
    draw = random.Random(seed)
    return [
        {
            "anchor": f"text {draw.randrange(texts)}",
            "positive": [f"text {draw.randrange(texts)}" for _ in range(draw.randint(1, 3))],
            "negative": [f"other {draw.randrange(9)}" for _ in range(draw.randint(0, 3))],
        }
        for _ in range(count)
    ]


def read(tables: dict[str, list[Row]], **options: Any) -> Dataset:
    opened = {name: read_table(rows, name=name) for name, rows in tables.items()}
    return Pairs("anchor", "positive", "negative", **options).read(opened, ReadOptions(validation_share=0.3))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("blocks", [7, 1 << 16])
def test_items_and_judgements_are_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, symmetric: bool, blocks: int
) -> None:
    monkeypatch.setattr(texts_module, "BLOCK", blocks)
    tables = {"train": some_rows(0, 60, 40), "validation": some_rows(1, 9, 30), "test": some_rows(2, 9, 40)}
    found = read(tables, symmetric=symmetric)
    numbers: dict[tuple[str, str, str], int] = {}
    judged: list[tuple[int, int, float]] = []
    triplets: dict[str, list[tuple[int, int, int]]] = {}
    roles = ("", "") if symmetric else ("query", "document")

    def number(split: str, role: str, text: str) -> int:
        return numbers.setdefault((split, role, text), len(numbers))

    for split, rows in tables.items():
        triplets[split] = []
        for row in rows:
            anchor = number(split, roles[0], row["anchor"])
            others = [number(split, roles[1], text) for text in row["positive"]]
            negatives = [number(split, roles[1], text) for text in dict.fromkeys(row["negative"])]
            judged += [(anchor, other, 1.0) for other in others if anchor != other]
            ones = dict.fromkeys([anchor, *(others if symmetric else ())])
            judged += [(one, negative, 0.0) for negative in negatives for one in ones]
            triplets[split] += [(anchor, other, negative) for other in others for negative in negatives]
    given, texts = found.judgements, found.vocabulary.texts
    assert given is not None
    pairs = zip(given.anchors.tolist(), given.candidates.tolist(), given.targets.tolist(), strict=True)
    assert [*pairs] == judged
    assert [texts[row[0]] for row in found.items.texts.tolist()] == [text for *_, text in numbers]
    if not symmetric:
        assert found.items.roles is not None
        names = [found.items.role_names[role] for role in found.items.roles.tolist()]
        assert names == [role for _, role, _ in numbers]
    for split, expected in triplets.items():
        columns = found.triplets[split]
        parts = [columns.anchors, columns.positives, columns.negatives]
        assert torch.stack(parts).T.tolist() == [[*each] for each in expected]
        anchors = {anchor for (name, role, _), anchor in numbers.items() if (name, role) == (split, roles[0])}
        assert set(found.splits[split].tolist()) <= anchors
        assert found.splits[split].tolist() == sorted(
            {numbers[split, roles[0], row["anchor"]] for row in tables[split]}
        )


def test_the_units_that_are_held_out_are_those_of_a_permutation() -> None:
    rows = some_rows(3, 50, 30)
    found = read({"train": rows})
    units = [*dict.fromkeys(row["anchor"] for row in rows)]
    order = np.random.default_rng(0).permutation(len(units))
    chosen = {units[place] for place in order[: round(0.3 * len(units))]}
    for split, held in (("validation", True), ("train", False)):
        texts = {found.vocabulary.texts[found.items.texts[id][0]] for id in found.splits[split].tolist()}
        assert texts == {unit for unit in units if (unit in chosen) == held}


def test_contradictions_are_those_of_a_loop() -> None:
    draw = random.Random(4)
    rows: list[Row] = [
        {"a": f"t{draw.randrange(6)}", "b": f"t{draw.randrange(6)}", "score": draw.randrange(2)}
        for _ in range(60)
    ]
    for symmetric in (True, False):
        first: dict[Any, int] = {}
        bad = []
        for number, row in enumerate(rows, start=1):
            pair = frozenset((row["a"], row["b"])) if symmetric else (row["a"], row["b"])
            # Anchor and candidate of two kinds are two items, even of one text.
            if (not symmetric or row["a"] != row["b"]) and first.setdefault(pair, row["score"]) != row[
                "score"
            ]:
                bad.append(number)
        problems = Problems()
        tables = {"train": read_table(rows), "validation": read_table([{"a": "x", "b": "y", "score": 1}])}
        with pytest.raises(DataError, match="the pair of row"):
            Pairs("a", "b", score="score", symmetric=symmetric).read(tables, ReadOptions(problems))
        assert [each["row"] for each in problems.rows()] == bad


def test_texts_of_rows_come_row_by_row() -> None:
    rows = JudgedRows(
        "train",
        torch.arange(3),
        torch.tensor([10, 11, 12]),
        Ragged.from_lists([[20], [21, 22], [23]]),
        Ragged.from_lists([[30, 31], [], [32]]),
    )
    places, is_anchor = rows.all_texts()
    assert places.tolist() == [10, 20, 30, 31, 11, 21, 22, 12, 23, 32]
    assert places[is_anchor].tolist() == [10, 11, 12]
    assert rows.select(torch.tensor([0, 2])).all_texts()[0].tolist() == [10, 20, 30, 31, 12, 23, 32]


def test_no_row_is_a_python_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (row_store, table_module):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 100)
    for module in (row_store, texts_module):
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(texts_module, "BLOCK", 100)

    def read_pairs(count: int) -> Dataset:
        path = tmp_path / f"{count}.jsonl"
        rows = ({"anchor": f"anchor {row}", "positive": f"positive {row}"} for row in range(count))
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        reading = ReadOptions(cache_dir=str(tmp_path))
        return Pairs().read({"train": read_table(path, folder=tmp_path)}, reading)

    read_pairs(10)  # imports what it needs
    tracemalloc.start()
    found = read_pairs(4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.items) == 8000
    assert peak < 600 * 4000  # NumPy's arrays; a row of Python objects takes about 2,000 bytes
