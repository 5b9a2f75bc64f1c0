"""Build ``debtags.parquet`` from Debian's package index.

    apt-cache dumpavail | python data/build_debtags.py - data/debtags.parquet
    python data/build_debtags.py Packages.xz debtags.parquet

The index is a ``Packages`` file: plain, ``.gz``, ``.xz``, or ``-`` for standard input. Only facts are kept:
the name, the tags and the section of a package. ``data/README.md`` says which index the shipped file is from.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

MINIMUM_TAGS = 3
MINIMUM_SECTION = 10
SCHEMA = pa.schema(
    [("name", pa.string()), ("tags", pa.list_(pa.string())), ("section", pa.string()), ("split", pa.string())]
)


class Package(NamedTuple):
    """What is kept of one stanza: its name, its distinct tags in order, and its section."""

    name: str
    tags: tuple[str, ...]
    section: str


def open_index(path: str) -> TextIO:
    """Open a package index: a path, plain or ``.gz`` or ``.xz``, or ``-`` for standard input.

    Raises:
        ValueError: another compression, with the command that unpacks it.
    """
    if path == "-":
        return open(0, encoding="utf-8", closefd=False)
    if path.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    if path.endswith(".xz"):
        return lzma.open(path, "rt", encoding="utf-8")
    if path.endswith((".lz4", ".bz2", ".zst")):
        raise ValueError(
            f"{path}: only plain, .gz and .xz indexes are read. Unpack it first: "
            f"/usr/lib/apt/apt-helper cat-file {path} | python data/build_debtags.py - OUTPUT"
        )
    return open(path, encoding="utf-8")


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The stanzas of a Debian control file as ``{field: value}``, continuation lines joined by a space."""
    fields: dict[str, str] = {}
    field = ""
    for line in lines:
        if not line.strip():
            if fields:
                yield fields
            fields, field = {}, ""
        elif line[0] in " \t":
            if not field:
                raise ValueError(
                    f"a continuation line opens a stanza: {line.strip()!r}; is this a Packages index?"
                )
            fields[field] += " " + line.strip()
        else:
            field, colon, value = line.partition(":")
            if not colon:
                raise ValueError(
                    f"neither a field nor a continuation: {line.strip()!r}; is this a Packages index?"
                )
            fields[field] = value.strip()
    if fields:
        yield fields


def expand(value: str) -> tuple[str, ...]:
    """The distinct tags of a ``Tag`` field in order, with the shorthand ``facet::{a,b}`` written out.

    Example:
        >>> expand("use::viewing, role::{program, plugin}")
        ('role::plugin', 'role::program', 'use::viewing')
    """
    tags: set[str] = set()
    for prefix, several, single in re.findall(r"([^,{}]*)\{([^{}]*)\}|([^,{}]+)", value):
        if several:
            tags.update(prefix.strip() + part.strip() for part in several.split(",") if part.strip())
        else:
            tags.add(single.strip())
    return tuple(sorted(tags - {""}))


def tagged_packages(lines: Iterable[str]) -> list[Package]:
    """All packages that have tags, by name; of a name listed twice the first stanza counts.

    An area before the section, as in ``contrib/net``, is left out.

    Raises:
        ValueError: tags without a section, or an index without any tags.
    """
    packages: dict[str, Package] = {}
    for fields in stanzas(lines):
        if "Tag" not in fields:
            continue
        name = fields["Package"]
        if "Section" not in fields:
            raise ValueError(f"package {name} has a Tag field but no Section; use a complete Packages index")
        section = fields["Section"].rpartition("/")[2]
        packages.setdefault(name, Package(name, expand(fields["Tag"]), section))
    if not packages:
        raise ValueError(
            "no package has a Tag field. Debian's main index has them; those of its security suite and of "
            "other distributions do not"
        )
    return sorted(packages.values())


def clean(packages: Iterable[Package]) -> list[Package]:
    """Keep packages worth learning from, by name.

    In this order: at least ``MINIMUM_TAGS`` tags; of packages with the same tags and section the first by
    name; sections that still have at least ``MINIMUM_SECTION`` packages.
    """
    distinct: dict[tuple[tuple[str, ...], str], Package] = {}
    for package in sorted(packages):
        if len(package.tags) >= MINIMUM_TAGS:
            distinct.setdefault((package.tags, package.section), package)
    sizes = Counter(package.section for package in distinct.values())
    return [package for package in distinct.values() if sizes[package.section] >= MINIMUM_SECTION]


def split_of(name: str) -> str:
    """The split that a package belongs to: the sha256 of its name, as an integer, modulo 5.

    Example:
        >>> split_of("apt"), split_of("emacs"), split_of("git")
        ('train', 'validation', 'test')
    """
    remainder = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 5
    return {0: "test", 1: "validation"}.get(remainder, "train")


def table_of(packages: list[Package]) -> pa.Table:
    """The packages as an Arrow table with the columns of ``SCHEMA``."""
    columns = [
        [package.name for package in packages],
        [list(package.tags) for package in packages],
        [package.section for package in packages],
        [split_of(package.name) for package in packages],
    ]
    return pa.table(columns, schema=SCHEMA)


def build(index: str, output: Path) -> pa.Table:
    """Read an index, clean it and write ``output``; the same index and pyarrow give the same bytes."""
    with open_index(index) as lines:
        table = table_of(clean(tagged_packages(lines)))
    partial = output.with_name(output.name + ".tmp")
    pq.write_table(table, partial, compression="zstd", compression_level=19)
    os.replace(partial, output)
    return table


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", help="a Packages index: plain, .gz, .xz, or - for standard input")
    parser.add_argument("output", type=Path, help="the Parquet file to write")
    arguments = parser.parse_args()
    table = build(arguments.index, arguments.output)
    tags = {tag for row in table["tags"].to_pylist() for tag in row}
    sizes = Counter(table["split"].to_pylist())
    print(
        f"{arguments.output}: {len(table):,} packages, {len(tags)} tags, "
        f"{len(set(table['section'].to_pylist()))} sections; "
        + ", ".join(f"{split} {sizes[split]:,}" for split in ("train", "validation", "test"))
    )


if __name__ == "__main__":
    main()
