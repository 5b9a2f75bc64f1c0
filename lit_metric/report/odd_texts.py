"""Texts that look wrong by themselves."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def oddities(texts: Sequence[str], cut: NDArray[np.bool_] | None = None) -> dict[int, list[str]]:
    """What is odd about some texts, by their places.

    Texts are odd that are empty, hold neither letters nor digits, are very short or long among these (beyond
    three interquartile ranges of the logarithm of their length), have control characters, are written in a
    script that fewer than 1% have, or were cut.

    Args:
        texts: ``n``.
        cut: ``[n]``, those that were cut at the encoder's length.

    Example:
        >>> oddities(["some words", "other words", "?!"])
        {2: ['neither letters nor digits']}
    """
    sizes = np.log1p([len(text.strip()) for text in texts])
    low, high = -np.inf, np.inf
    if len(sizes):
        lower, upper = np.quantile(sizes, [0.25, 0.75])
        low, high = lower - 3 * max(upper - lower, 0.1), upper + 3 * max(upper - lower, 0.1)
    scripts = [_script(text) for text in texts]
    counts = Counter(each for each in scripts if each)
    rare = {name for name, count in counts.items() if count < 0.01 * counts.total()}
    reasons: dict[int, list[str]] = {}
    for place, text in enumerate(texts):
        why = []
        if not text.strip():
            why.append("empty")
        elif not any(each.isalnum() for each in text):
            why.append("neither letters nor digits")
        elif sizes[place] < low:
            why.append("very short")
        if sizes[place] > high:
            why.append("very long")
        if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]", text):
            why.append("control or replacement characters")
        if scripts[place] in rare:
            why.append(f"letters are {scripts[place]}")
        if cut is not None and cut[place]:
            why.append("cut at the encoder's length")
        if why:
            reasons[place] = why
    return reasons


def _script(text: str) -> str:
    """The script of most letters of the first 1,000 characters, such as "LATIN"; "" without letters."""
    names = Counter(
        unicodedata.name(each, "UNKNOWN").split()[0].split("-")[0] for each in text[:1000] if each.isalpha()
    )
    return names.most_common(1)[0][0] if names else ""
