"""Names of classes that are written in several ways, and cells that say that nothing is there."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from lit_metric.data.errors import KINDS

logger = logging.getLogger(__name__)

ABSENT = frozenset({"nan", "none", "null", "n/a", "#n/a", "na", "<na>", "nat"})
"""What programs write where a value is missing, in lower case."""
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


def says_nothing(value: object) -> bool:
    """Whether a cell says that its value is missing, as a string.

    Example:
        >>> says_nothing(" NaN "), says_nothing("none of these")
        (True, False)
    """
    return isinstance(value, str) and value.strip().lower() in ABSENT


def plain(name: str) -> str:
    """A name without what people don't see: case, blanks, and the Unicode form (NFKC).

    Example:
        >>> plain(" Lost  Card"), plain("cafe" + chr(0x301)) == plain("café")
        ('lost card', True)
    """
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def settle(counts: Mapping[str, int], normalize: bool) -> dict[str, str]:
    """New names of classes, for those that get one; each kind of finding is logged in one line.

    Where all names are whole numbers, ``1.0`` becomes ``1``: a table with a missing value turns numbers into
    that. Names that differ in nothing that people see become the most frequent of them if ``normalize``, and
    are only logged if not.

    Args:
        counts: how many items each class has, in all splits.
        normalize: whether to merge classes.

    Example:
        >>> settle({"1.0": 3, "2.0": 4, "1": 2}, normalize=False)
        {'1.0': '1', '2.0': '2'}
        >>> settle({"Card": 3, "card ": 1, "rate": 1}, normalize=True)
        {'card ': 'Card'}
    """
    renamed = _whole_numbers(counts)
    if renamed:
        some = ", ".join(f"{old!r} as {new!r}" for old, new in [*renamed.items()][:KINDS])
        logger.info(
            "labels are whole numbers, so %d of them are read without a point: %s", len(renamed), some
        )
    merged: Counter[str] = Counter()
    for name, count in counts.items():
        merged[renamed.get(name, name)] += count
    groups: dict[str, list[str]] = {}
    for name in sorted(merged, key=lambda name: (-merged[name], name)):
        groups.setdefault(plain(name), []).append(name)
    several = [group for group in groups.values() if len(group) > 1]
    if several:
        told = "; ".join(_and(group, merged) for group in several[:KINDS])
        told += f"; and {len(several) - KINDS} more" if len(several) > KINDS else ""
        if normalize:
            logger.info("labels that differ in case, blanks or Unicode form are one class: %s", told)
        else:
            logger.warning(
                "%d label%s written in several ways (case, blanks, Unicode form), and each way is a class: "
                "%s. normalize_labels=True makes them one",
                len(several),
                "s are" if len(several) > 1 else " is",
                told,
            )
    if normalize:
        renamed |= {name: group[0] for group in several for name in group[1:]}
    if absent := [name for name in merged if says_nothing(name)]:
        logger.warning(
            "%s, and so a class; leave the cell empty where that means that there is no label",
            " and ".join(
                f"{merged[name]} item{'s have' if merged[name] > 1 else ' has'} the label {name!r}"
                for name in absent
            ),
        )
    return renamed


def _whole_numbers(names: Collection[str]) -> dict[str, str]:
    matches = {name: _WHOLE.fullmatch(name) for name in names}
    if not all(matches.values()):
        return {}
    return {name: name.partition(".")[0] for name, match in matches.items() if match and match[1]}


def _and(names: Iterable[str], counts: Mapping[str, int]) -> str:
    """Names with their counts; where two look alike, their characters are shown."""
    names = list(names)
    seen = Counter(unicodedata.normalize("NFC", name) for name in names)
    shown = [ascii(name) if seen[unicodedata.normalize("NFC", name)] > 1 else repr(name) for name in names]
    return " and ".join(f"{each} ({counts[name]})" for name, each in zip(names, shown, strict=True))
