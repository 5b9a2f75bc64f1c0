"""Write docs/correctness.md from docs/correctness.template and docs/correctness.json.

    python -m docs.build_correctness                                  # after a change of the template
    python -m docs.build_correctness --quick FILE --all FILE          # as make test-peers does

The line ``{{counts}}`` of the template becomes the table of how many values were compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
TEMPLATE, PAGE, COUNTS = (
    FOLDER / name for name in ("correctness.template", "correctness.md", "correctness.json")
)
PROPERTIES = "property"
"""Stands in place of a peer where there is none: examples of a property."""

Counts = Mapping[str, Mapping[str, Mapping[str, int]]]


def table(counts: Counts) -> str:
    """A row for each peer, then one for the properties.

    Args:
        counts: by part (``quick`` and ``all``), peer and subject.

    Example:
        >>> print(table({"quick": {}, "all": {"peer": {"NCALoss": 2000}}}).splitlines()[-2])
        | peer | NCALoss | 0 | 2,000 |
    """
    quick, everything = counts["quick"], counts["all"]
    lines = ["| compared with | subjects | quick part | all |", "| --- | --- | --- | --- |"]
    peers = sorted(peer for peer in everything if peer != PROPERTIES)
    for peer in [*peers, *([PROPERTIES] if PROPERTIES in everything else [])]:
        name = "definitions, on random cases" if peer == PROPERTIES else peer
        numbers = [f"{sum(part.get(peer, {}).values()):,}" for part in (quick, everything)]
        lines.append(f"| {name} | {', '.join(everything[peer])} | {' | '.join(numbers)} |")
    totals = [f"{sum(sum(each.values()) for each in part.values()):,}" for part in (quick, everything)]
    return "\n".join([*lines, f"| **together** | | {' | '.join(totals)} |"])


def page() -> str:
    """The whole of docs/correctness.md."""
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    return TEMPLATE.read_text(encoding="utf-8").replace("{{counts}}", table(counts))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("docs.build_correctness", description=__doc__, formatter_class=formatter)
    parser.add_argument("--quick", type=Path, help="counts of the quick part, to be kept in docs/")
    parser.add_argument("--all", type=Path, help="counts of all, to be kept in docs/")
    given = parser.parse_args(arguments)
    counts = json.loads(COUNTS.read_text(encoding="utf-8")) if COUNTS.exists() else {"quick": {}, "all": {}}
    for part in ("quick", "all"):
        if (path := getattr(given, part)) is not None:
            counts[part] = json.loads(path.read_text(encoding="utf-8"))
    COUNTS.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
