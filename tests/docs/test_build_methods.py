"""The page of methods is what entries, recipes and measurements make of it."""

from __future__ import annotations

from benchmarks.methods.entries import entries
from docs import build_methods
from docs.build_methods import claims, section


def test_the_page_is_what_entries_and_measurements_make_of_it() -> None:
    committed = build_methods.PAGE.read_text(encoding="utf-8")
    assert committed == build_methods.page(), "run python -m docs.build_methods, and commit docs/methods.md"


def test_what_is_not_measured_is_said_to_be() -> None:
    entry = entries()["B5"]
    assert "**What it did here.** Not measured yet." in section(entry, None)
    table = claims({"B5": entry}, {})
    assert table.endswith("\n\nNot measured yet: [B5](#b5-hard-classes-in-a-batch).")
    assert len(table.splitlines()) == 4  # and nothing stands in the table


def test_an_entry_without_a_claim_is_named_when_it_is_measured() -> None:
    known = {"C4": entries()["C4"]}
    assert "Not measured yet: [C4]" in claims(known, {})
    assert claims(known, {"C4": {"claims": []}}).endswith(
        "Measured, and no claim: [C4](#c4-sugarcrepe-by-subset)."
    )


def test_a_claim_stands_with_its_difference_and_both_intervals() -> None:
    entry = entries()["B5"]
    claim = entry.claims[1]
    difference = {"mean": 0.02, "over_seeds": [0.01, 0.03], "over_queries": None, "seeds": [0.02]}
    measured = {"words": claim.words, "difference": difference, "outcome": "confirmed"}
    row = next(
        line
        for line in claims({"B5": entry}, {"B5": {"claims": [measured]}}).splitlines()
        if claim.words in line
    )
    assert row.endswith("| **confirmed** | +0.020 MAP@R | +0.010 … +0.030 | – |")
