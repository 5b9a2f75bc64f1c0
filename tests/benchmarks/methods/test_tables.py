"""Tables of the recipe book: nothing of the test is trained on, and labels are what they should be."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import tables
from benchmarks.supervision import read, write
from lit_metric.data import excerpt_of


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


def banking77(world: Path) -> list[dict[str, Any]]:
    rows = [
        {"text": f"words {number}{'?.!'[number % 3]}", "label": f"intent {number % 4}"}
        for number in range(200)
    ]
    for side in ("train", "test"):
        write(world / "banking77" / f"{side}.parquet", rows)
    return rows


def test_a_tenth_of_the_training_labels_are_wrong_and_none_of_the_test(world: Path) -> None:
    given, files = banking77(world), tables.banking77_noise(world)
    found = read(Path(files["train"]))
    assert [row["text"] for row in found] == [row["text"] for row in given]
    changed = [one["label"] != other["label"] for one, other in zip(given, found, strict=True)]
    assert sum(changed) == 20
    assert {row["label"] for row in found} == {row["label"] for row in given}
    assert read(Path(files["test"])) == given


def test_a_copy_has_other_punctuation_and_another_label(world: Path) -> None:
    given, files = banking77(world), tables.banking77_duplicates(world)
    found = read(Path(files["train"]))
    assert found[:200] == given
    of_words = {row["text"].rstrip("?.!"): row for row in given}
    copies = found[200:]
    assert 20 < len(copies) <= 40  # some would have been equal to their original
    for row in copies:
        original = of_words[row["text"].rstrip("?!. ")]
        assert row["text"] != original["text"]
        assert row["label"] != original["label"]
    assert read(Path(files["test"])) == given


def test_a_fifth_of_the_training_words_have_the_definition_of_another(world: Path) -> None:
    rows = [{"id": f"e{number}", "lemmas": ["w"], "definition": f"d{number}"} for number in range(2000)]
    write(world / "wn18rr" / "entities.parquet", rows)
    given, found = (
        read(Path(make(world)["train"])) for make in (tables.definitions, tables.definitions_noise)
    )
    changed = [one["definition"] != other["definition"] for one, other in zip(given, found, strict=True)]
    trained = [row["split"] == "train" for row in given]
    assert sum(changed) == round(0.2 * sum(trained)) > 0
    assert not any(change and not train for change, train in zip(changed, trained, strict=True))
    assert sorted(row["definition"] for row in found) == sorted(row["definition"] for row in given)
    assert {row["split"] for row in given} == {"train", "validation", "test"}


def test_extracts_are_longer_than_their_excerpts_and_fit_the_encoder(world: Path) -> None:
    lengths = [*range(15, 50)] * 20
    films = [
        {
            "title": f"film {number}",
            "year": 2000,
            "extract": " ".join(
                [f"w{number}"] * (length // 2) + ["x."] + ["y"] * (length - length // 2 - 2) + ["z."]
            ),
        }
        for number, length in enumerate(lengths)
    ]
    films += [{"title": f"none {number}", "year": 2000, "extract": None} for number in range(20)]
    write(world / "movies" / "movies.parquet", films)
    found = read(Path(tables.extracts(world)["train"]))
    assert {len(row["extract"].split()) for row in found} == {*range(20, 46)}
    assert all(len(excerpt_of(row["extract"])) < len(row["extract"]) for row in found)
    assert {row["split"] for row in found} == {"train", "validation", "test"}
