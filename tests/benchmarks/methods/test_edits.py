"""Queries made of packages whose tags differ in one, against a loop over pairs."""

from __future__ import annotations

import random

import pytest

from benchmarks.methods.edits import MOST, package_edits


def test_pairs_differ_in_one_tag_of_one_facet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.methods.edits.QUERIES", 1000)
    draw = random.Random(0)
    tags = ["use::a", "use::b", "use::c", "role::x", "role::y", "area::p"]
    packages = [
        {"synopsis": f"package {number}", "tags": draw.sample(tags, draw.randint(1, 4))}
        for number in range(60)
    ]
    sets = [frozenset(package["tags"]) for package in packages]
    expected: dict[tuple[str, str], set[str]] = {}
    for one, own in zip(packages, sets, strict=True):
        if sum(each == own for each in sets) > MOST:
            continue
        for other, others in zip(packages, sets, strict=True):
            lost, new = own - others, others - own
            if len(lost) != 1 or len(new) != 1 or not own & others:
                continue
            [old], [added] = lost, new
            same_facet = old.partition("::")[0] == added.partition("::")[0]
            if same_facet and sum(each == others for each in sets) <= MOST:
                edit = f"{added} instead of {old}".replace("::", " ")
                expected.setdefault((one["synopsis"], edit), set()).add(other["synopsis"])
    rows = package_edits(packages)
    assert len(expected) > 20
    assert {(row["reference"], row["edit"]): {*row["target"]} for row in rows} == expected


def test_a_group_is_in_one_split_and_a_reference_is_not_its_own_target() -> None:
    packages = [
        {"synopsis": "same" if number < 2 else f"no {number}", "tags": ["role::x", f"use::{number % 4}"]}
        for number in range(12)
    ]
    rows = package_edits(packages)
    assert len({row["split"] for row in rows}) == 1
    assert all(row["reference"] not in row["target"] for row in rows)


def test_of_a_large_group_a_few_queries_are_taken() -> None:
    packages = [
        {"synopsis": f"no {number}", "tags": ["role::x", f"culture::{number}"]} for number in range(30)
    ]
    rows = package_edits(packages)
    assert len(rows) == 20  # of 30 · 29
    assert len({row["reference"] for row in rows}) > 10
    assert sorted(map(str, package_edits(packages[::-1]))) == sorted(map(str, rows))
