"""Queries of a reference and an edit, from packages whose tags differ in one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.splits import bucket
from benchmarks.supervision import split_of

Row = dict[str, Any]
MOST = 8
"""Packages of one set of tags; where there are more, a synopsis says little about the one that is meant."""
QUERIES = 20
"""Queries of one group. Dictionaries of fifty languages would otherwise be a seventh of all."""


def package_edits(packages: Sequence[Row]) -> list[Row]:
    """Synopses of packages, with the tag that is to be different, and the synopses that are then meant.

    Two packages make a query if they have the same tags but for one of the same facet, such as
    ``uitoolkit::gtk`` and ``uitoolkit::qt``. All packages with the tags that are wanted are targets. The tags
    in common make a group, of which at most :data:`QUERIES` are taken, chosen by a hash. They decide the
    split, so none of a test query's group was trained on.

    Args:
        packages: with ``synopsis`` and ``tags``.

    Returns:
        Rows of ``reference``, ``edit``, ``target`` (a list) and ``split``.

    Example:
        >>> packages = [{"synopsis": s, "tags": ["role::program", t]} for s, t in
        ...             (("Editor", "uitoolkit::gtk"), ("Player", "uitoolkit::qt"), ("Game", "use::play"))]
        >>> for row in package_edits(packages):
        ...     print(row["reference"], "|", row["edit"], "|", *row["target"])
        Editor | uitoolkit qt instead of uitoolkit gtk | Player
        Player | uitoolkit gtk instead of uitoolkit qt | Editor
    """
    groups: dict[tuple[str, tuple[str, ...]], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for package in packages:
        tags = sorted({*package["tags"]})
        for place, tag in enumerate(tags):
            rest = (*tags[:place], *tags[place + 1 :])
            if rest:
                groups[tag.partition("::")[0], rest][tag].append(package["synopsis"])
    rows = []
    for (_, rest), by_tag in groups.items():
        queries = []
        known = {tag: [*dict.fromkeys(found)] for tag, found in by_tag.items() if len(found) <= MOST}
        for old, references in known.items():
            for new, targets in known.items():
                for reference in references if new != old else ():
                    if meant := [each for each in targets if each != reference]:
                        edit = f"{_words(new)} instead of {_words(old)}"
                        queries.append({"reference": reference, "edit": edit, "target": meant})
        chosen = sorted(queries, key=lambda row: bucket(f"{row['reference']}, {row['edit']}", 2**64))
        rows += [{**row, "split": split_of(" ".join(rest))} for row in chosen[:QUERIES]]
    return rows


def _words(tag: str) -> str:
    return tag.replace("::", " ").replace("-", " ")
