"""The page on correctness is that of its template and counts, and names each peer that is compared with."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from docs import build_correctness

PEERS = Path(__file__).parents[1] / "peers"


def test_the_page_is_in_step() -> None:
    assert build_correctness.PAGE.read_text(encoding="utf-8") == build_correctness.page()


def test_every_peer_that_is_compared_with_is_counted() -> None:
    named = set()
    for file in PEERS.glob("test_*.py"):
        named |= {*re.findall(r'^PEER = "(.+)"$', file.read_text(encoding="utf-8"), re.MULTILINE)}
    counts = json.loads(build_correctness.COUNTS.read_text(encoding="utf-8"))
    assert {*counts["all"]} == named | {build_correctness.PROPERTIES}
    assert len(named) == 7


def test_every_difference_has_a_test() -> None:
    """As many rows under 'Wrong or fragile on their side' as tests that show them."""
    tree = ast.parse((PEERS / "test_differences.py").read_text(encoding="utf-8"))
    shown = {
        part.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name.startswith("test_")
    }
    section = build_correctness.PAGE.read_text(encoding="utf-8").partition("## Wrong or fragile")[2]
    assert {*re.findall(r"`(test_\w+)`", section)} == shown


def test_numbers_are_added_up_by_peer(tmp_path: Path) -> None:
    counts = {
        "quick": {"one": {"a": 2}, "property": {"x": 5}},
        "all": {"one": {"a": 1000, "b": 234}, "property": {"x": 50}},
    }
    rows = build_correctness.table(counts).splitlines()[2:]
    assert rows == [
        "| one | a, b | 2 | 1,234 |",
        "| definitions, on random cases | x | 5 | 50 |",
        "| **together** | | 7 | 1,284 |",
    ]
