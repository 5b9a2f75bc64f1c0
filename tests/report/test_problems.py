"""Lists of problems: what is found in made data, and that --data.exclude reads them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from lit_metric import MetricDataModule
from lit_metric.report.problems import problems_of
from lit_metric.report.structure import Items, ProblemList
from lit_metric.report.suspects import judged_labels
from tests.small import Small


def items_of(texts: list[str], labels: list[str], splits: list[str], file: str = "rows.csv") -> Items:
    """Items of one file, in its order."""
    count, names = len(texts), sorted({*labels})
    split_names = sorted({*splits})
    return Items(
        texts=texts,
        keys=[f"{file}:{row}" for row in range(1, count + 1)],
        files=[file],
        file=np.zeros(count, np.int32),
        row=np.arange(1, count + 1, dtype=np.int32),
        labels=names,
        label_offsets=np.arange(count + 1, dtype=np.int32),
        label_ids=np.array([names.index(each) for each in labels], np.int32),
        splits=split_names,
        split=np.array([split_names.index(each) for each in splits], np.int32),
        roles=[""],
        role=np.zeros(count, np.int32),
        columns={},
        map_before=None,
        map_after=None,
        projection="",
        neighbours_before=None,
        neighbours_after=None,
        scores_before=None,
        scores_after=None,
        correct_before=np.full(count, -1, np.int32),
        correct_after=np.full(count, -1, np.int32),
    )


WORDS = [f"{first}{second}" for first in ("ap", "bre", "clo", "dre", "eag") for second in ("ple", "ad", "ud")]


def world() -> tuple[Items, torch.Tensor]:
    """60 texts of two classes, of which some are wrong in ways that are known."""
    texts = [f"{WORDS[row % 15]} {WORDS[(row * 7 + row // 15 + 1) % 15]} of case {row}" for row in range(60)]
    labels = ["even" if row % 2 == 0 else "odd" for row in range(60)]
    splits = ["train"] * 40 + ["test"] * 20
    draw = np.random.default_rng(0)
    vectors = np.eye(16)[[row % 2 for row in range(60)]] + 0.3 * draw.normal(size=(60, 16))
    labels[6] = "odd"  # a wrong label
    texts[11] = texts[10].upper() + " !"  # a copy, of another label
    texts[50], vectors[50] = texts[20], vectors[20]  # a leak
    vectors[52] = vectors[22] + 0.01  # a near leak
    texts[30], texts[31], texts[32] = "   ", "?!", "bell\x07 rings in case 32"
    texts[34] = "long " * 400
    return items_of(texts, labels, splits), torch.from_numpy(vectors).float()


def by_name(found: list[ProblemList]) -> dict[str, ProblemList]:
    return {each.name: each for each in found}


def test_known_problems_are_found() -> None:
    items, vectors = world()
    found = by_name(problems_of(items, vectors, vectors, np.arange(60) == 35))
    assert [*found] == ["suspected labels", "contradictions", "leaks", "odd texts"]
    for each in found.values():
        assert each.columns[:2] == ["file", "row"]
        assert each.total == len(each.rows) == len(each.items)
        assert [row[1] for row in each.rows] == [place + 1 for place in each.items]
        assert {row[0] for row in each.rows} == {"rows.csv"}
        assert {len(row) for row in each.rows} == {len(each.columns)}
    suspects = found["suspected labels"]
    assert suspects.items[0] == 6
    row = dict(zip(suspects.columns, suspects.rows[0], strict=True))
    assert (row["given_label"], row["suggested_label"]) == ("odd", "even")
    strong = [dict(zip(suspects.columns, row, strict=True)) for row in suspects.rows]
    strong = [row["of_split"] for row in strong if row["suspicion"] >= 2]
    sizes = {name: int((items.split == number).sum()) for number, name in enumerate(items.splits)}
    tally = [f"{strong.count(name)} of {size} in {name}" for name, size in sizes.items() if name in strong]
    assert f"{len(strong)} have 2 or more ({', '.join(tally)})" in suspects.explanation
    assert (suspects.certain, suspects.certain_means) == (len(strong), "strong")
    assert found["contradictions"].items == [10, 11]  # both sides, as either label may be wrong
    rows = [
        dict(zip(found["contradictions"].columns, row, strict=True)) for row in found["contradictions"].rows
    ]
    sides = [(row["given_label"], row["other_label"], row["other_row"], row["equal_texts"]) for row in rows]
    assert sides == [("even", "odd", 12, True), ("odd", "even", 11, True)]
    assert [row["other_text"] for row in rows] == [items.texts[11], items.texts[10]]
    assert "2 of 2 are equal" in found["contradictions"].explanation
    assert found["leaks"].items == [20, 22]
    assert "1 of 2 are equal" in found["leaks"].explanation
    assert [row[found["leaks"].columns.index("equal_texts")] for row in found["leaks"].rows] == [True, False]
    row = dict(zip(found["leaks"].columns, found["leaks"].rows[1], strict=True))
    assert (row["other_split"], row["other_row"]) == ("test", 53)
    assert (found["leaks"].certain, found["leaks"].certain_means) == (1, "equal")
    wanted = vectors[22] @ vectors[52] / vectors[22].norm() / vectors[52].norm()
    assert row["cosine"] == pytest.approx(float(wanted), abs=1e-4)
    column = found["odd texts"].columns.index("what_is_odd")
    odd = {
        place: row[column]
        for place, row in zip(found["odd texts"].items, found["odd texts"].rows, strict=True)
    }
    assert odd == {
        30: "empty",
        31: "neither letters nor digits",
        32: "control or replacement characters",
        34: "very long",
        35: "cut at the encoder's length",
    }
    assert found["odd texts"].items[-2:] == [34, 35]


def test_strong_suspects_are_those_that_the_page_shows_to_be() -> None:
    items, vectors = world()

    def judged(*given: Any) -> Any:
        found, apart = judged_labels(*given)
        found.score[:] = -1.0
        found.score[[6, 7, 8]] = 1.996, 1.994, 2.004  # of which the second is shown as 1.99
        return found, apart

    with patch("lit_metric.report.problems.judged_labels", judged):
        suspects = by_name(problems_of(items, vectors, vectors, np.zeros(60, bool)))["suspected labels"]
    place = suspects.columns.index("suspicion")
    assert [(item, row[place]) for item, row in zip(suspects.items, suspects.rows, strict=True)] == [
        (8, 2.0),
        (6, 2.0),
        (7, 1.99),
    ]
    assert suspects.certain == 2
    assert "2 have 2 or more (2 of 40 in train)" in suspects.explanation


def test_copies_with_one_label_are_listed_but_for_the_first() -> None:
    items, vectors = world()
    for row in (14, 16):
        items.texts[row], vectors[row] = items.texts[12] + ".", vectors[12]
    found = by_name(problems_of(items, vectors, vectors))["near duplicates"]
    assert found.items == [14, 16]
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    assert [(row["other_row"], row["given_label"], row["other_label"]) for row in rows] == [
        (13, "even", "even")
    ] * 2
    assert (found.certain, found.total) == (2, 2)


def test_a_contradiction_is_shown_beside_the_label_that_is_less_suspected() -> None:
    items, vectors = world()
    for row in (8, 5):
        items.texts[row] = items.texts[6]  # which is labelled wrong
    vectors[8] = vectors[6]
    found = by_name(problems_of(items, vectors, vectors))["contradictions"]
    rows = {row[1]: dict(zip(found.columns, row, strict=True)) for row in found.rows}
    assert {row["other_row"] for number, row in rows.items() if number in (6, 7)} == {9}
    assert rows[9]["other_row"] == 6  # row 7 has the same label, and is suspected
    assert rows[7]["suspicion"] > 2
    assert rows[9]["suspicion"] is None


def test_of_most_copies_with_one_label_only_the_others_are_listed() -> None:
    items, vectors = world()
    for row in (8, 14, 16, 17):  # the last is odd
        items.texts[row], vectors[row] = items.texts[12], vectors[12]
    found = by_name(problems_of(items, vectors, vectors))["contradictions"]
    rows = {row[1]: dict(zip(found.columns, row, strict=True)) for row in found.rows}
    assert {*rows} & {9, 13, 15, 17, 18} == {18}
    assert (rows[18]["given_label"], rows[18]["other_label"]) == ("odd", "even")


def test_a_long_text_has_a_mark_where_it_is_cut() -> None:
    items, vectors = world()
    found = by_name(problems_of(items, vectors, vectors))["odd texts"]
    (shown,) = (row[-1] for place, row in zip(found.items, found.rows, strict=True) if place == 34)
    assert shown == items.texts[34][:299] + "…"


def test_rare_scripts_are_odd() -> None:
    texts = [f"plain text number {row}" for row in range(200)] + ["привет как дела вы"]
    items = items_of(texts, ["one"] * 201, ["train"] * 201)
    (found,) = problems_of(items, None, None)
    assert found.items == [200]
    assert found.rows[0][found.columns.index("what_is_odd")] == "letters are CYRILLIC"


def test_clean_data_have_no_problems() -> None:
    texts = [f"{WORDS[row % 15]} {WORDS[row // 15]} is number {row}" for row in range(40)]
    items = items_of(texts, ["a", "b"] * 20, ["train"] * 30 + ["test"] * 10)
    draw = np.random.default_rng(1)
    vectors = torch.from_numpy(3 * np.eye(8)[np.arange(40) % 2] + 0.3 * draw.normal(size=(40, 8))).float()
    assert problems_of(items, vectors, vectors, threshold=0.999) == []


def test_crowded_vectors_find_equal_texts_only() -> None:
    items, _ = world()
    crowded = torch.ones(60, 4) + 0.001 * torch.arange(60)[:, None]
    found = by_name(problems_of(items, crowded, None))
    assert found["contradictions"].items == [10, 11]
    assert "no untrained vectors can tell" in found["contradictions"].explanation


def test_without_places_nothing_is_exported() -> None:
    items, vectors = world()
    found = problems_of(replace(items, file=np.full(60, -1, np.int32)), vectors, vectors)
    assert found
    assert {each.export for each in found} == {""}
    assert found[0].rows[0][:2] == ["", ""]
    some = np.where(np.arange(60) == 6, -1, 0).astype(np.int32)
    assert "suspected labels" not in by_name(problems_of(replace(items, file=some), vectors, vectors))


def test_tags_are_equal_in_any_order() -> None:
    items = items_of(["red | round", "round | Red", "red"], ["a", "a", "b"], ["train"] * 3)
    assert by_name(problems_of(items, None, None, sets=True))["near duplicates"].items == [1]
    assert "near duplicates" not in by_name(problems_of(items, None, None))


def test_a_data_module_leaves_out_the_rows_of_a_list(small: Small, tmp_path: Path) -> None:
    items, vectors = world()
    keep = [row for row in range(60) if items.texts[row].strip()]
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        writer.writerows([items.texts[row], items.labels[items.label_ids[row]]] for row in keep)
    kept = items_of(
        [items.texts[row] for row in keep],
        [items.labels[items.label_ids[row]] for row in keep],
        ["train"] * len(keep),
        str(file),
    )
    for each in problems_of(kept, vectors[keep], vectors[keep]):
        path = tmp_path / each.export
        with path.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(each.columns)
            writer.writerows(each.rows)
        data = MetricDataModule(train=str(file), exclude=str(path), cache_dir=str(tmp_path / "cache"))
        data.read()
        left = {data.texts_of(item)[0] for item in range(len(data.items))}
        assert len(data.items) == len(keep) - len({*each.items})
        repeated = {kept.texts[place] for place in range(len(keep)) if place not in each.items}
        assert left == repeated
