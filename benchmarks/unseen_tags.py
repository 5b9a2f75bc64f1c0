"""Tags that nobody trained on: a fixed share of all tags is hidden from training and comes up in the test.

    python -m benchmarks.unseen_tags --output runs/unseen-tags

writes two files with the columns of ``data/debtags.parquet``, equal but for the tags of the test items:

- ``only-unseen.parquet``: a test item is described by its unseen tags alone;
- ``all-tags.parquet``: a test item has all its tags, the unseen ones among them.

In both, training and validation items have lost the unseen tags, so that neither the weights nor any choice
made on validation has met one, and the test items are those that have at least one unseen tag. Models fitted
on either file are therefore the same, and both numbers are over the same items. ``--part 1`` hides the next
fifth: which tags are hidden matters far more than the seed of a fit.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path

from benchmarks.tagged_items import SHIPPED, TaggedItems, read_splits, write_splits

SHARE = 0.2


def parts(share: float = SHARE) -> int:
    """How many disjoint choices of ``share`` of the tags there are.

    Example:
        >>> parts(0.2), parts(0.3)
        (5, 3)
    """
    return int(1 / share + 1e-9) if share else 1


def hold_out_tags(items: Iterable[TaggedItems], share: float = SHARE, part: int = 0) -> frozenset[str]:
    """Choose the tags that training may not see.

    Args:
        items: the items whose tags are to choose from, as a rule those of all splits.
        share: between 0 and 1, the share of the distinct tags; the number is rounded.
        part: which of the ``parts(share)`` disjoint choices, from 0.

    Returns:
        Of the tags in the order of their sha256, the first ``share`` for part 0, the next for part 1, and so
        on: a choice without a seed, and independent of how frequent a tag is.

    Raises:
        ValueError: ``share`` is not between 0 and 1, or there is no such part.

    Example:
        >>> items = TaggedItems(["a", "b"], [["x", "y"], ["y", "z"]], ["s", "s"])
        >>> sorted(hold_out_tags([items], share=1 / 3))
        ['x']
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it is the share of the tags to hold out, between 0 and 1")
    if not 0 <= part < parts(share):
        raise ValueError(f"part is {part}; with a share of {share} it is one of 0 to {parts(share) - 1}")
    tags = {tag for split in items for row in split.tags for tag in row}
    ranked = sorted(tags, key=lambda tag: hashlib.sha256(tag.encode()).digest())
    return frozenset(ranked[round(part * share * len(ranked)) : round((part + 1) * share * len(ranked))])


def without(items: TaggedItems, unseen: frozenset[str]) -> TaggedItems:
    """The items without their unseen tags; one that has no other tag is dropped."""
    return items.with_tags([[tag for tag in row if tag not in unseen] for row in items.tags])


def only(items: TaggedItems, unseen: frozenset[str]) -> TaggedItems:
    """The items under their unseen tags alone; one that has none is dropped."""
    return items.with_tags([[tag for tag in row if tag in unseen] for row in items.tags])


def touched(items: TaggedItems, unseen: frozenset[str]) -> TaggedItems:
    """The items that have an unseen tag, with all their tags: the items of ``only``, in the same order."""
    return items.with_tags([row if unseen.intersection(row) else [] for row in items.tags])


def unseen_splits(
    splits: dict[str, TaggedItems], share: float = SHARE, part: int = 0
) -> tuple[dict[str, dict[str, TaggedItems]], frozenset[str]]:
    """Both variants of the experiment, by name, and the unseen tags.

    Args:
        splits: ``train``, ``validation`` and ``test``.
        share, part: which tags to hide, see :func:`hold_out_tags`.
    """
    unseen = hold_out_tags(splits.values(), share, part)
    fitted = {split: without(splits[split], unseen) for split in ("train", "validation")}
    variants = {
        "only-unseen": {**fitted, "test": only(splits["test"], unseen)},
        "all-tags": {**fitted, "test": touched(splits["test"], unseen)},
    }
    return variants, unseen


def write(output: Path, data: Path = SHIPPED, share: float = SHARE, part: int = 0) -> list[Path]:
    """Write one Parquet file for each variant into the folder ``output``, and return their paths."""
    variants, _ = unseen_splits(read_splits(data), share, part)
    output.mkdir(parents=True, exist_ok=True)
    paths = [output / f"{variant}.parquet" for variant in variants]
    for path, splits in zip(paths, variants.values(), strict=True):
        write_splits(path, splits)
    return paths


def main() -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--data", type=Path, default=SHIPPED, help="Parquet with name, tags, section, split")
    parser.add_argument(
        "--share", type=float, default=SHARE, help="share of the tags to hide, between 0 and 1"
    )
    parser.add_argument("--part", type=int, default=0, help="which of the disjoint shares (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write to")
    arguments = parser.parse_args()
    for path in write(arguments.output, arguments.data, arguments.share, arguments.part):
        print(path)


if __name__ == "__main__":
    main()
