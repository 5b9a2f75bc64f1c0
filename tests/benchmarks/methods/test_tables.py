"""Tables of the recipe book: nothing of the test is trained on, and labels are what they should be."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import tables
from benchmarks.supervision import read, write


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    return tmp_path


def test_intents_are_in_one_split_only(world: Path) -> None:
    for side in ("train", "test"):
        rows = [{"text": f"{side} {number}", "label": f"intent {number % 40}"} for number in range(160)]
        write(world / "banking77" / f"{side}.parquet", rows)
    found = {name: read(Path(path)) for name, path in tables.banking77_unseen(world).items()}
    intents = {name: {row["label"] for row in rows} for name, rows in found.items()}
    assert all(intents.values())
    assert len(set.union(*intents.values())) == sum(map(len, intents.values())) == 40
    assert {row["text"].split()[0] for row in found["test"]} == {"test"}
    assert {row["text"].split()[0] for name in ("train", "validation") for row in found[name]} == {"train"}


def test_no_caption_of_the_test_is_trained_on(world: Path) -> None:
    draw = random.Random(0)
    rows = [
        {
            "subset": draw.choice(["replace_att", "replace_rel", "swap_obj"]),
            "caption": f"c{draw.randrange(60)}",
            "caption2": f"c{draw.randrange(60)}",
            "negative": f"n{number}",
        }
        for number in range(80)
    ]
    write(world / "sugarcrepe_pp" / "triplets.parquet", rows)
    found = read(Path(tables.caption_swaps(world)["train"]))
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for row in found:
        assert (row["split"] == "test") == row["subset"].startswith("swap")
        sides[row["split"] == "test"] |= {row["caption"], row["caption2"]}
    assert sides[True]
    assert sides[False]
    assert not sides[True] & sides[False]


def packages(count: int) -> list[dict[str, Any]]:
    draw = random.Random(1)
    tags = ["role::a", "role::b", "implemented-in::c", "implemented-in::d", "use::e", "use::f"]
    return [
        {"name": f"p{number}", "synopsis": f"words {number}", "tags": draw.sample(tags, draw.randint(2, 5))}
        for number in range(count)
    ]


def test_a_label_is_a_role_and_a_language(world: Path) -> None:
    given = {row["name"]: row for row in packages(400)}
    write(world / "debian" / "packages.parquet", given.values())
    found = {row["name"]: row for row in read(Path(tables.roles_and_languages(world)["train"]))}
    for name, row in given.items():
        sides = [[tag for tag in row["tags"] if tag.startswith(kind)] for kind in ("role", "implemented-in")]
        if [len(each) for each in sides] == [1, 1]:
            assert found.pop(name)["label"] == f"{sides[0][0]} and {sides[1][0]}"
    assert not found


def test_half_of_the_training_labels_are_missing_and_none_of_the_test(world: Path) -> None:
    write(world / "debian" / "packages.parquet", packages(1200))
    whole, half = (
        {
            name: read(Path(path))
            for name, path in tables.synopses(world, missing).items()
            if name != "supervision"
        }
        for missing in (0.0, 0.5)
    )
    assert whole["test"] == half["test"]
    assert whole["validation"] == half["validation"]
    assert len(half["train"]) == pytest.approx(len(whole["train"]) / 2, rel=0.15)
    pairs = [{(row["query"], row["document"]) for row in rows["train"]} for rows in (whole, half)]
    assert pairs[1] < pairs[0]
    names = [{row["query"] for row in whole[split]} for split in ("train", "validation", "test")]
    assert len(set.union(*names)) == sum(map(len, names))
