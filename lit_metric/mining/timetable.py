"""When weights are copied, and from which batch on the table that was mined with them is used.

Batches are counted over the whole run: batch 0 is the first of epoch 0. Everything here follows from the
configuration, so all ranks come to the same answers without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Use(NamedTuple):
    """A version of the table in use.

    Args:
        first: the first batch that takes its negatives from it.
        version: of the table.
        taken: how many batches the weights that it was mined with had been trained on.
    """

    first: int
    version: int
    taken: int


class Uses:
    """Which batch uses which version, in the order of their first batches.

    Example:
        >>> uses = Uses([(0, 1, 0), (15, 2, 10)])
        >>> uses.at(14).version, uses.at(15).version, uses.from_batch(15)
        (1, 2, [Use(first=15, version=2, taken=10)])
    """

    def __init__(self, uses: Iterable[tuple[int, int, int]] = ()) -> None:
        self.uses = [Use(*use) for use in uses]

    def __bool__(self) -> bool:
        return bool(self.uses)

    def add(self, use: Use) -> None:
        """Use another version from a later batch on."""
        self.uses.append(use)

    def at(self, batch: int) -> Use:
        """What ``batch`` uses."""
        return next((use for use in reversed(self.uses) if use.first <= batch), self.uses[0])

    def from_batch(self, batch: int, planned: int | None = None) -> list[Use]:
        """Those that ``batch`` or a later one uses.

        Args:
            batch: the next to be trained on.
            planned: the first batch of its epoch, if that is planned by the version used there, which is
                needed for as long.

        Example:
            >>> Uses([(0, 1, 0), (4, 2, 3), (7, 3, 6)]).from_batch(8, planned=5)
            [Use(first=4, version=2, taken=3), Use(first=7, version=3, taken=6)]
        """
        if not self.uses:
            return []
        kept = self.uses[self.uses.index(self.at(batch)) :]
        first = kept[0] if planned is None else self.at(planned)
        return kept if first in kept else [first, *kept]

    def forget_before(self, batch: int, planned: int | None = None) -> None:
        """Keep what :meth:`from_batch` gives."""
        self.uses = self.from_batch(batch, planned)


@dataclass(frozen=True)
class Timetable:
    """When to refresh.

    Args:
        per_epoch: batches of each epoch.
        period: batches from one refresh to the next; None: there is none after the first table.
        delay: batches from the copy of the weights to the first use of the table mined with them.
        first: the delay of a table mined with the first weights while training goes on; ``delay`` if None.

    Example:
        >>> times = Timetable(per_epoch=10, period=10, delay=4)
        >>> times.batch(epoch=2, step=3), times.due(20), times.switch(20)
        (23, True, 24)
        >>> [times.mining(batch) for batch in (9, 10, 13, 14)]
        [False, True, True, False]
    """

    per_epoch: int
    period: int | None
    delay: int
    first: int | None = None

    def batch(self, epoch: int, step: int) -> int:
        """The number of a batch within the run."""
        return epoch * self.per_epoch + step

    def start(self, batch: int) -> int:
        """The first batch of the epoch of ``batch``."""
        return batch - batch % self.per_epoch

    def due(self, trained: int) -> bool:
        """Whether the weights are copied when ``trained`` batches are done."""
        return self.period is not None and trained > 0 and trained % self.period == 0

    def switch(self, taken: int) -> int:
        """The first batch that uses the table mined with the weights copied after ``taken`` batches."""
        return taken + (self.delay if taken or self.first is None else self.first)

    def last_due(self, batch: int) -> int:
        """The latest batch before which the table should have been renewed, up to ``batch``."""
        return 0 if self.period is None else batch - batch % self.period

    def mining(self, batch: int) -> bool:
        """Whether a refresh is under way while ``batch`` is trained on."""
        return self.period is not None and batch >= self.period and batch % self.period < self.delay


def period_of(refresh: str | int, per_epoch: int) -> int | None:
    """Batches from one refresh to the next, by what a miner's ``refresh`` says."""
    if isinstance(refresh, int):
        return refresh
    return per_epoch if refresh == "epoch" else None


def search_batches(items: int, per_epoch: int, processes: int = 1) -> int:
    """How many batches an exact search for the neighbours of all ``items`` among themselves may take, >= 1.

    It grows with the square of ``items``, and the batches of an epoch with their number, so it takes a part
    of an epoch that grows with ``items``: 1 in 500,000 for each, by what one thread multiplies while an
    encoder of 22 million parameters trains on the others. A larger one takes longer for a batch.

    Args:
        items: to be searched.
        per_epoch: batches of an epoch in each process.
        processes: that train at the same time.

    Example:
        >>> search_batches(10_000, per_epoch=79), search_batches(25_000, per_epoch=196)
        (2, 10)
    """
    return max(1, math.ceil(per_epoch * processes * items / 500_000))


def delay_of(delay: int | None, period: int, ahead: int, expected: int | None = None) -> int:
    """The delay to use.

    Args:
        delay: as configured.
        period: batches from one refresh to the next.
        ahead: how many batches the loader may ask for before the first of them is trained on.
        expected: batches that a refresh may take; half a period if None. That is the delay if none was
            given, but more where the loader runs further ahead.

    Raises:
        ValueError: if the loader would ask for the table before the weights that it is mined with exist, or
            a refresh would begin before the one before is in use.

    Example:
        >>> delay_of(None, period=100, ahead=5), delay_of(None, period=10, ahead=5), delay_of(8, 10, 5)
        (50, 6, 8)
        >>> delay_of(None, period=100, ahead=5, expected=9)
        9
    """
    if period <= ahead:
        raise ValueError(
            f"a refresh every {period} batches is too often for a loader that runs {ahead} ahead: take fewer "
            'workers or a smaller prefetch_factor, a longer refresh, or mode="inline"'
        )
    if delay is None:
        delay = max(period // 2 if expected is None else min(expected, period), ahead + 1)
    if delay <= ahead:
        raise ValueError(
            f"delay={delay} must be more than the {ahead} batches (num_workers × prefetch_factor + 1) that "
            "the loader runs ahead: it would wait for weights that only the waiting loop can train"
        )
    if delay > period:
        raise ValueError(f"delay={delay} must be at most a refresh period, which is {period} batches")
    return delay
