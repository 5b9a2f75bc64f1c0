"""When the table of negatives is mined again, and which batch uses which version of it.

Batches are counted over the whole run: batch 0 is the first of epoch 0. Everything here follows from the
configuration, so all processes come to the same answers without talking to each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from lit_metric.data import DataError

if TYPE_CHECKING:
    from lit_metric.batching import BatchPlanner
    from lit_metric.mining import Miner

Mode = Literal["inline", "scheduled"]
FirstTable = Literal["before_training", "in_background"]


@dataclass(frozen=True)
class Refresh:
    """When the table of negatives is mined again, and by which process; see ``docs/asynchronous-mining.md``.

    Args:
        every: mine after each ``"epoch"``, after this number of batches, or ``"never"`` after the first time.
        mode: ``"scheduled"``: a worker process mines from a copy of the weights while training goes on, and
            a batch that is fixed beforehand is the first to use the new table. ``"inline"``: training stops
            while it mines. Where no worker can do it, mining is inline, and a log line gives the reason.
        delay: batches from the copy of the weights to the first batch that uses the new table. It must exceed
            the batches that the loader prefetches, and be at most the period from one refresh to the next.
            None: half a period where all items are encoded; only as long as an exact search takes where the
            vectors of training are reused. Mining is inline if None fits no such number.
        restarts: how often the worker is started again for one refresh before that refresh is given up.
        timeout: seconds that training waits for a late table before that refresh is given up.
        strict: stop the run when a refresh is given up. Otherwise the old table stays in use.
        threads: of the worker, in torch, FAISS and OpenMP; half of those of training if None. On a CPU,
            training leaves these threads to the worker while it is at work.
        device: where the worker encodes, such as ``"cpu"`` or ``"cuda:1"``; where rank zero trains if None.
        reuse_training_embeddings: reuse the vectors that training steps compute, and encode only items whose
            vector is older than an epoch. None: yes where all mined items are trained on, by processes on
            one machine, with ``mode="scheduled"``.
        first_table: ``"before_training"``: mine before the first batch, which waits. ``"in_background"``:
            train at once, without mined negatives, while the worker mines from the first weights.

    Raises:
        ValueError: if a number is out of range, or two arguments contradict each other.
    """

    every: Literal["epoch", "never"] | int = "epoch"
    mode: Mode = "scheduled"
    delay: int | None = None
    restarts: int = 2
    timeout: float = 600.0
    strict: bool = False
    threads: int | None = None
    device: str | None = None
    reuse_training_embeddings: bool | None = None
    first_table: FirstTable = "before_training"

    def __post_init__(self) -> None:
        every = self.every
        if isinstance(every, bool) or not (
            every in ("epoch", "never") or (isinstance(every, int) and every > 0)
        ):
            raise ValueError(f'every={every!r}: use "epoch", "never", or a number of batches above 0')
        if self.mode not in get_args(Mode):
            raise ValueError(f'mode={self.mode!r}: use "inline" or "scheduled"')
        if self.first_table not in get_args(FirstTable):
            raise ValueError(f'first_table={self.first_table!r}: use "before_training" or "in_background"')
        for name, value in {"delay": self.delay, "threads": self.threads}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.restarts < 0 or self.timeout <= 0:
            raise ValueError(
                f"restarts={self.restarts} must be at least 0, and timeout={self.timeout} above 0"
            )
        of_worker = {
            "delay": self.delay,
            "reuse_training_embeddings": self.reuse_training_embeddings,
            "first_table": None if self.first_table == "before_training" else self.first_table,
        }
        if self.mode == "inline" and (
            given := [f"{name}={value}" for name, value in of_worker.items() if value]
        ):
            raise ValueError(
                f'{given[0]} needs mode="scheduled": inline mining stops training and encodes all'
            )
        if self.first_table == "in_background" and every == "never":
            raise ValueError('first_table="in_background" needs a refresh: every="never" starts no worker')

    def check_planners(self, planners: Sequence[BatchPlanner | None], miner: Miner | None) -> None:
        """Refuse a planner that needs vectors without a miner, and a miner that nothing needs.

        Raises:
            DataError: names the planner or the option to change.
        """
        using = [type(each).__name__ for each in planners if each is not None and each.uses_vectors]
        if not using:
            if miner is not None and not miner.negatives:
                raise DataError(
                    "data.miner has negatives: 0, and data.planner uses no vectors, so nothing would use "
                    "its negatives: leave it out, or set negatives to 1 or more"
                )
        elif miner is None:
            raise DataError(
                f"{using[0]} plans by the items' vectors, which a miner provides: give data.miner, such as "
                "lit_metric.Miner with negatives: 0, which mines the vectors alone"
            )
        elif self.first_table == "in_background":
            raise DataError(
                f"{using[0]} plans the first epoch by vectors, and data.refresh has none by then with "
                "first_table: in_background; set it to before_training"
            )

    def period(self, per_epoch: int) -> int | None:
        """Batches from one refresh to the next, for epochs of ``per_epoch`` batches; None: there is none."""
        if isinstance(self.every, int):
            return self.every
        return per_epoch if self.every == "epoch" else None

    def too_short(self, per_epoch: int, ahead: int) -> str | None:
        """Why no delay can be chosen where none was given: the loader runs ``ahead`` by a whole period."""
        period = self.period(per_epoch)
        if self.delay is not None or period is None or period > ahead:
            return None
        return (
            f"a refresh every {period} batches leaves a process no time, as the loader runs {ahead} ahead "
            "(take fewer workers, a smaller prefetch_factor or a longer period)"
        )

    def reuses_embeddings(self, nodes: int, all_trained: bool) -> bool:
        """Whether the worker takes the vectors that training steps compute.

        Args:
            nodes: machines that train.
            all_trained: whether all mined items are trained on.

        Raises:
            ValueError: if it should on several machines, whose memory-mapped files a network doesn't share.
        """
        if self.reuse_training_embeddings is None:
            return all_trained and nodes == 1
        if self.reuse_training_embeddings and nodes > 1:
            raise ValueError(
                f"reuse_training_embeddings=True on {nodes} machines: rank zero reads the vectors of all "
                "ranks from memory-mapped files, which network disks don't keep equal; leave it out"
            )
        return self.reuse_training_embeddings

    def timetable(
        self, per_epoch: int, ahead: int, inline: bool = False, reused: int | None = None, processes: int = 1
    ) -> Timetable:
        """When to copy weights and switch tables.

        An exact search among ``N`` items grows with N², and the batches of an epoch with N, so the search
        takes a part of an epoch that grows with N: N / 500,000, on one thread, next to the
        training of an encoder with 22 million parameters. A larger encoder needs more time for a batch.

        Args:
            per_epoch: batches of an epoch in each process.
            ahead: batches that the loader prefetches.
            inline: mine inline, whatever ``mode`` says.
            reused: the number of items to search, where training's vectors are reused; None where all items
                are encoded.
            processes: that train together.

        Raises:
            ValueError: if the loader would need a table before the weights to mine it with exist, or a
                refresh would begin before the last one is in use.

        Example:
            >>> Refresh().timetable(per_epoch=100, ahead=5).delay
            50
            >>> [Refresh().timetable(n, 1, reused=items).delay for n, items in ((79, 10_000), (196, 25_000))]
            [2, 10]
        """
        period = self.period(per_epoch)
        if period is None or inline or self.mode == "inline":
            return Timetable(per_epoch, period, 0)
        if period <= ahead:
            raise ValueError(
                f"a refresh every {period} batches is too often for a loader that runs {ahead} ahead: take "
                'fewer workers or a smaller prefetch_factor, a longer period, or mode="inline"'
            )
        # With the first weights all is encoded.
        delay = first = max(period // 2, ahead + 1) if self.delay is None else self.delay
        if self.delay is None and reused is not None:
            # Training has threads less until the delay is over, so it is as short as can be.
            search = max(1, math.ceil(per_epoch * processes * reused / 500_000))
            delay = max(min(search, period), ahead + 1)
        if delay <= ahead:
            raise ValueError(
                f"delay={delay} must be more than the {ahead} batches (num_workers × prefetch_factor + 1) "
                "that the loader runs ahead: it would wait for weights that only the waiting loop can train"
            )
        if delay > period:
            raise ValueError(f"delay={delay} must be at most a refresh period, which is {period} batches")
        return Timetable(per_epoch, period, delay, first)


@dataclass(frozen=True)
class Timetable:
    """Numbers of batches at which something happens.

    Args:
        per_epoch: batches of each epoch.
        period: batches from one refresh to the next; None: there is none after the first table.
        delay: batches from the copy of the weights to the first use of the table mined with them; 0 inline.
        first: the delay of a table mined in the background with the first weights; ``delay`` if None.

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
        """The number of a batch within the run. A step beyond the epoch, which a loader may prefetch, counts
        as the epoch's last."""
        return epoch * self.per_epoch + min(step, self.per_epoch - 1)

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
        """The latest batch, up to ``batch``, before which inline mining renews the table."""
        return 0 if self.period is None else batch - batch % self.period

    def mining(self, batch: int) -> bool:
        """Whether a refresh is under way while ``batch`` is trained on."""
        return self.period is not None and batch >= self.period and batch % self.period < self.delay


class TableUse(NamedTuple):
    """A version of the table in use.

    Args:
        first: the first batch that takes its negatives from it.
        version: of the table; 0 for none.
        taken: how many batches the weights that it was mined with had been trained on.
    """

    first: int
    version: int
    taken: int


class TableUses:
    """Which batch uses which version, in the order of their first batches.

    Example:
        >>> uses = TableUses([(0, 1, 0), (15, 2, 10)])
        >>> uses.at(14).version, uses.at(15).version, uses.from_batch(15)
        (1, 2, [TableUse(first=15, version=2, taken=10)])
    """

    def __init__(self, uses: Iterable[Sequence[int]] = ()) -> None:
        self.uses = [TableUse(*use) for use in uses]

    def __bool__(self) -> bool:
        return bool(self.uses)

    def add(self, use: TableUse) -> None:
        """Use another version from a later batch on."""
        self.uses.append(use)

    def at(self, batch: int) -> TableUse:
        """The one that ``batch`` uses."""
        return next((use for use in reversed(self.uses) if use.first <= batch), self.uses[0])

    def from_batch(self, batch: int, planned: int | None = None) -> list[TableUse]:
        """Those that ``batch`` or a later one uses.

        Args:
            batch: the next to be trained on.
            planned: the first batch of its epoch, whose version is needed too where an epoch is planned by
                vectors.

        Example:
            >>> TableUses([(0, 1, 0), (4, 2, 3), (7, 3, 6)]).from_batch(8, planned=5)
            [TableUse(first=4, version=2, taken=3), TableUse(first=7, version=3, taken=6)]
        """
        if not self.uses:
            return []
        kept = self.uses[self.uses.index(self.at(batch)) :]
        first = kept[0] if planned is None else self.at(planned)
        return kept if first in kept else [first, *kept]
