"""Whose label is suspicious, where some items were trained on and others weren't."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from lit_metric.neighbours import LabelErrors, find_label_errors

NEARLY = 0.9
"""Share of the trained vectors' accuracy that untrained ones need, to judge alone what was trained on."""


def judged_labels(
    trained: NDArray[np.float32] | None,
    untrained: NDArray[np.float32] | None,
    labels: Sequence[Hashable],
    contents: Sequence[Hashable],
    seen: NDArray[np.bool_],
) -> tuple[LabelErrors, bool]:
    """Rank labels by how suspicious they are; see :func:`~lit_metric.neighbours.find_label_errors`.

    Both spaces judge. But trained vectors agree with the labels that they were trained on, also with the
    wrong ones. So items that training has seen are judged by untrained vectors alone, where these tell the
    classes of the other items nearly as well (by the nearest item of other content).

    Args:
        trained, untrained: ``[n, d]`` each; one may be None.
        labels, contents: ``n`` each.
        seen: ``[n]``, the items whose labels were trained on.

    Returns:
        The errors, and whether seen items were judged by untrained vectors alone.

    Raises:
        ValueError: if neither space is given, and as :func:`~lit_metric.neighbours.find_label_errors` does.
    """
    spaces = [space for space in (trained, untrained) if space is not None]
    if not spaces:
        raise ValueError("there are no vectors: give those of the trained encoder, or of the untrained one")
    both = find_label_errors(spaces, labels, contents)
    if trained is None or untrained is None or not seen.any() or seen.all():
        return both, False
    alone = find_label_errors([untrained], labels, contents)
    if _accuracy(alone, labels, ~seen) < NEARLY * _accuracy(both, labels, ~seen):
        return both, False
    suggested = [
        one if here else two for one, two, here in zip(alone.suggested, both.suggested, seen, strict=True)
    ]
    score, neighbours, cosines = (
        np.where(seen.reshape(-1, *[1] * (one.ndim - 1)), one, two)
        for one, two in (
            (alone.score, both.score),
            (alone.neighbours, both.neighbours),
            (alone.cosines, both.cosines),
        )
    )
    return LabelErrors(score, suggested, alone.share, neighbours, cosines), True


def _accuracy(found: LabelErrors, labels: Sequence[Hashable], of: NDArray[np.bool_]) -> float:
    """The share of some items whose nearest item of other content has their label."""
    nearest = found.neighbours[:, 0]
    right = [
        other >= 0 and labels[place] == labels[other]
        for place, other in zip(np.flatnonzero(of).tolist(), nearest[of].tolist(), strict=True)
    ]
    return float(np.mean(right))
