"""The data that ships with the project is what its datasheet and its script say."""

import gzip
import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import forked

DATA = Path(__file__).parents[1] / "data"

COMMON_TAGS = "role::program, use::viewing,\n works-with::image"


def stanza(name: str, tags: str | None, section: str) -> str:
    """One package of an index, with the fields around it that must not be read."""
    tag_field = "" if tags is None else f"Tag: {tags}\n"
    return (
        f"Package: {name}\nVersion: 1\nDepends: a (>= 1),\n b\nDescription: Tag: not::this\n"
        f"{tag_field}Section: {section}\nPriority: optional\n\n"
    )


def tiny_index() -> str:
    """Ten packages of one section that must stay, and one of every kind that must not."""
    kept = [stanza(f"kept{i}", f"{COMMON_TAGS}, suite::s{i}", "graphics") for i in range(9)]
    return "".join(
        [
            stanza("zz-duplicate", f"suite::s0, {COMMON_TAGS}", "graphics"),
            *kept,
            stanza("short", "interface::{x11, text-mode}, role::program", "contrib/graphics"),
            stanza("kept0", "a::a, b::b, c::c", "graphics"),
            stanza("few-tags", "role::program, role::program, use::viewing", "graphics"),
            stanza("untagged", None, "graphics"),
            stanza("small-section", COMMON_TAGS, "embedded"),
        ]
    )


def build(index: Path | str, output: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """By a new interpreter where it reads a file, by a fork where it reads standard input."""
    program = [str(DATA / "build_debtags.py")] if text is None else ["-m", "data.build_debtags"]
    command = [sys.executable, *program, str(index), str(output)]
    return forked.run(command, input=text, capture_output=True, text=True, check=False, cwd=DATA.parent)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return pq.read_table(DATA / "debtags.parquet").to_pylist()


def test_counts_are_those_of_the_datasheet(rows):
    assert len(rows) == 8871
    assert len({tag for row in rows for tag in row["tags"]}) == 597
    assert len({row["section"] for row in rows}) == 49
    assert Counter(row["split"] for row in rows) == {"train": 5362, "validation": 1762, "test": 1747}
    datasheet = (DATA / "README.md").read_text(encoding="utf-8")
    for number in ("8,871", "597 distinct", "49 very unequal", "5,362", "1,762", "1,747"):
        assert number in datasheet


def test_only_facts_ship():
    schema = pq.read_schema(DATA / "debtags.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("name", "string"),
        ("tags", "list<element: string>"),
        ("section", "string"),
        ("split", "string"),
    ]
    column = pq.read_metadata(DATA / "debtags.parquet").row_group(0).column(0)
    assert column.compression == "ZSTD"


def test_every_row_is_clean(rows):
    names = [row["name"] for row in rows]
    assert names == sorted(set(names))
    assert all(row["tags"] == sorted(set(row["tags"])) and len(row["tags"]) >= 3 for row in rows)
    assert len({(frozenset(row["tags"]), row["section"]) for row in rows}) == len(rows)
    assert min(Counter(row["section"] for row in rows).values()) == 13


def test_split_is_the_hash_of_the_name(rows):
    for row in rows:
        digest = hashlib.sha256(row["name"].encode("utf-8")).digest()
        # 256 is 1 modulo 5, so the bytes of the big-endian number may simply be added up
        assert row["split"] == ("test", "validation", "train", "train", "train")[sum(digest) % 5], row["name"]


def test_every_section_is_in_every_split(rows):
    for split in ("train", "validation", "test"):
        assert len({row["section"] for row in rows if row["split"] == split}) == 49


@pytest.mark.parametrize("packing", ["plain", "gz", "stdin"])
def test_script_on_a_tiny_index(tmp_path, packing):
    output, text = tmp_path / "out.parquet", tiny_index()
    if packing == "stdin":
        done = build("-", output, text)
    elif packing == "gz":
        (tmp_path / "Packages.gz").write_bytes(gzip.compress(text.encode()))
        done = build(tmp_path / "Packages.gz", output)
    else:
        (tmp_path / "Packages").write_text(text)
        done = build(tmp_path / "Packages", output)
    assert done.returncode == 0, done.stderr
    # from `sha256sum` and `bc`: 3 0 1 4 1 1 0 2 3 0
    splits = [
        "train",
        "test",
        "validation",
        "train",
        "validation",
        "validation",
        "test",
        "train",
        "train",
        "test",
    ]
    expected = [
        {
            "name": f"kept{i}",
            "tags": ["role::program", f"suite::s{i}", "use::viewing", "works-with::image"],
            "section": "graphics",
        }
        for i in range(9)
    ]
    expected.append(
        {
            "name": "short",
            "tags": ["interface::text-mode", "interface::x11", "role::program"],
            "section": "graphics",
        }
    )
    actual = pq.read_table(output).to_pylist()
    assert [row.pop("split") for row in actual] == splits
    assert actual == expected


def test_sections_are_counted_after_duplicates_are_removed(tmp_path):
    nine = "".join(stanza(f"p{i}", f"{COMMON_TAGS}, suite::s{i}", "graphics") for i in range(9))
    ten = "".join(stanza(f"q{i}", f"{COMMON_TAGS}, suite::s{i}", "net") for i in range(10))
    duplicate = stanza("p-again", f"{COMMON_TAGS}, suite::s0", "graphics")
    done = build("-", tmp_path / "out.parquet", nine + duplicate + ten)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "out.parquet")["name"].to_pylist() == [f"q{i}" for i in range(10)]


def test_rebuilding_gives_the_same_bytes(tmp_path):
    stanzas = tiny_index().split("\n\n")
    moved = "\n\n".join([*stanzas[1:9], stanzas[0], *stanzas[9:]])
    for name, text in (("a", tiny_index()), ("b", moved)):
        assert build("-", tmp_path / name, text).returncode == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (stanza("untagged", None, "net"), "no package has a Tag field"),
        ("Package: p\nTag: a::b\n\n", "package p has a Tag field but no Section"),
        ("\x04\x22\x4d\x18 not text\n", "is this a Packages index?"),
    ],
)
def test_a_bad_index_is_refused_with_the_reason(tmp_path, index, message):
    done = build("-", tmp_path / "out.parquet", index)
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tmp_path / "out.parquet").exists()


def test_other_compressions_are_refused_with_the_remedy(tmp_path):
    done = build(tmp_path / "Packages.lz4", tmp_path / "out.parquet")
    assert "apt-helper cat-file" in done.stderr
