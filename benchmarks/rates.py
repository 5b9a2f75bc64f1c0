"""A learning rate chosen by validation items, for each side of a comparison alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Result = dict[str, Any]
WIDER = 2
"""How many learning rates may be added to a grid whose best one lies at an edge."""


def choose(grid: Mapping[float, Result], by: str) -> float | None:
    """The learning rate with the best validation score, the smaller of two alike; None if all diverged.

    Example:
        >>> choose({0.1: {"validation": {"a": 0.5}}, 0.2: {"validation": {"a": 0.6}}, 0.3: {}}, "a")
        0.2
    """
    ended = {lr: run["validation"][by] for lr, run in grid.items() if "validation" in run}
    return max(sorted(ended), key=ended.__getitem__) if ended else None


def beyond(chosen: float | None, grid: Iterable[float], factor: float) -> float | None:
    """The learning rate to try next where the best so far is the smallest or the largest.

    Example:
        >>> beyond(0.3, [0.1, 0.3], 3.0), beyond(0.1, [0.1, 0.3], 4.0), beyond(0.2, [0.1, 0.2, 0.4], 2.0)
        (0.9, 0.025, None)
    """
    if chosen is None or min(grid) < chosen < max(grid):
        return None
    return float(f"{chosen * factor if chosen == max(grid) else chosen / factor:.3g}")


def search(
    planned: Sequence[float], fit: Callable[[float], Result], by: str, more: Callable[[], None] = lambda: None
) -> dict[float, Result]:
    """The fits by learning rate: those planned, and some beyond an edge that is the best.

    Args:
        planned: learning rates, ascending; one alone is not searched beyond.
        fit: a result with ``validation``, which is missing if the fit diverged.
        by: the name of the validation score that chooses.
        more: called before a fit that was not planned.

    Example:
        >>> tried = search([0.1, 0.2], lambda lr: {"validation": {"a": -abs(lr - 0.4)}}, "a")
        >>> list(tried)
        [0.1, 0.2, 0.4, 0.8]
    """
    grid = {lr: fit(lr) for lr in planned}
    for _ in range(WIDER if len(planned) > 1 else 0):
        further = beyond(choose(grid, by), grid, planned[1] / planned[0])
        if further is None:
            break
        more()
        grid[further] = fit(further)
    return grid
