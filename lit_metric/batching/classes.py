"""Batches made of several classes with several members each: what planners of classes share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from lit_metric.batching.plan import BatchPlanner
from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations

log = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
ClassWeighting = Literal["size", "sqrt", "uniform"]

BATCH = 64
"""Items in a batch of classes, if nobody chose."""
PER_CLASS = 4
CLASSES = BATCH // PER_CLASS

EXPONENTS: dict[str, float] = {"size": 1.0, "sqrt": 0.5, "uniform": 0.0}
ROUNDS_PER_SLOT = 3


@dataclass(frozen=True)
class Members:
    """Items grouped by class.

    Args:
        ids: ``[n]`` global ids, class after class.
        sizes: ``[L]`` the number of members of each class, all positive.
    """

    ids: IntArray
    sizes: IntArray

    @property
    def items(self) -> int:
        """The number of distinct items; one may be a member of several classes."""
        return len(np.unique(self.ids))

    @property
    def starts(self) -> IntArray:
        """``[L]`` where each class begins within ``ids``."""
        return np.cumsum(self.sizes) - self.sizes

    def shuffled(self, random: np.random.Generator) -> Members:
        """The same classes with the members of each in random order."""
        classes = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return Members(self.ids[np.lexsort((random.random(len(self.ids)), classes))], self.sizes)


def check_arguments(
    classes: int | None,
    class_weighting: str,
    batches: int | None,
    per_class: int | None = 2,
    smallest_class: int = 1,
) -> None:
    """Refuse what no planner of classes can work with; None stands for what the planner chooses."""
    numbers = {"classes": classes, "per_class": per_class, "smallest_class": smallest_class}
    for name, value in {**numbers, "batches": batches}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if class_weighting not in EXPONENTS:
        raise ValueError(f"class_weighting must be one of {', '.join(EXPONENTS)}, not {class_weighting!r}")


def members_of(ids: Tensor, relations: Relations, smallest: int = 1, asking: str = "this planner") -> Members:
    """Group ``ids`` by class; one with several labels is a member of each of its classes.

    Items without a label and classes of fewer than ``smallest`` members are left out.

    Raises:
        TypeError: when the relations have no class labels.
    """
    labels = getattr(relations, "labels", None)
    distinct = ids.unique()
    if isinstance(labels, Ragged):
        rows = labels.select(distinct.to(labels.offsets.device))
        own, distinct = rows.values.numpy(force=True), distinct[rows.segment_ids.to(distinct.device)]
    elif isinstance(labels, Tensor):
        own = labels[distinct.to(labels.device)].numpy(force=True)
    else:
        raise TypeError(
            f"{asking} draws classes, and these data have none but pairs ({type(relations).__name__}): take "
            "planner=PairPlanner(), or planner=ScoredPairPlanner() where pairs have scores, or leave it out; "
            "if there are labels, name their column by label="
        )
    known = own >= 0
    order = np.argsort(own[known], kind="stable")
    of_item = own[known][order]
    _, inverse, sizes = np.unique(of_item, return_inverse=True, return_counts=True)
    kept = sizes >= smallest
    return Members(distinct.numpy(force=True)[known][order][kept[inverse]], sizes[kept])


def require_classes(members: Members, wanted: int, smallest: int, asked: str) -> None:
    """Refuse to plan batches of more distinct classes than there are."""
    if len(members.sizes) < wanted:
        raise DataError(
            f"{asked} asks for {wanted} different classes in a batch, but the items have only "
            f"{len(members.sizes)} with {smallest} or more labelled members; lower it to at most "
            f"{len(members.sizes)}, or give more data"
        )


def classes_to_take(
    planner: BatchPlanner, given: int | None, most: int, members: Members, smallest: int
) -> int:
    """How many classes a batch has: the number that was given, else as many as there are, up to a limit.

    Args:
        planner: that asks; what it takes is logged once if it is less than the most.
        given: the user's number, a demand; or None.
        most: that are taken if none was given.
        members: by class.
        smallest: members of a class that counts.

    Raises:
        DataError: when there are fewer than were given, or a single one.
    """
    name, count = type(planner).__name__, len(members.sizes)
    require_classes(members, given or 2, smallest, f"{name}(classes={given})" if given else name)
    if given is None and count < most:
        say_once(planner, f"{name}: all {count} classes in each batch (classes: {most} or fewer by default)")
    return given or min(most, count)


def members_to_take(given: int | None, classes: int, chosen: bool) -> int:
    """How many members of each class: the number that was given, else ``PER_CLASS``, and more where there are
    few ``classes`` that nobody has ``chosen``, to make up a batch."""
    if given is not None:
        return given
    return PER_CLASS if chosen else max(PER_CLASS, BATCH // classes)


def say_once(planner: BatchPlanner, message: str) -> None:
    """Log what a planner chose: not for each epoch, and not in a loader's worker."""
    if get_worker_info() is None and not getattr(planner, "_said", False):
        planner._said = True  # type: ignore[attr-defined]
        log.info(message)


def class_rates(sizes: IntArray, slots: int, weighting: ClassWeighting) -> FloatArray:
    """The share of batches in which each class appears.

    Proportional to ``sizes ** exponent`` with exponent 1, 1/2 or 0, but never above 1; what is cut off there
    goes to the other classes in proportion.

    Args:
        sizes: ``[L]`` members of each class.
        slots: distinct classes per batch, at most ``L``.
        weighting: ``"size"`` (every item equally often), ``"sqrt"`` or ``"uniform"`` (every class equally
            often).

    Returns:
        ``[L]`` rates in (0, 1] that sum to ``slots``.
    """
    weights = sizes.astype(np.float64) ** EXPONENTS[weighting]
    return capped_shares(weights, np.ones(len(sizes)), slots)


def capped_shares(weights: FloatArray, caps: FloatArray, total: float) -> FloatArray:
    """Divide ``total`` in proportion to ``weights``, all positive, but give none more than its cap.

    What is cut off there goes to the others in proportion. If the caps sum to less, each gets its cap.

    Example:
        >>> capped_shares(np.array([8.0, 3.0, 1.0]), np.array([4.0, 9.0, 9.0]), 12).tolist()
        [4.0, 6.0, 2.0]
    """
    shares = np.zeros(len(weights))
    full = np.zeros(len(weights), dtype=bool)
    while not full.all():
        free = ~full
        shares[free] = (total - caps[full].sum()) * weights[free] / weights[free].sum()
        shares[full] = caps[full]
        above = free & (shares >= caps)
        if not above.any():
            return shares
        full |= above
    return caps.astype(np.float64)


def draw_classes(
    sizes: IntArray, batches: int, slots: int, weighting: ClassWeighting, random: np.random.Generator
) -> IntArray:
    """Which classes make up each batch, ``[batches, slots]``, distinct within a batch.

    Each class appears as often as its rate says (:func:`class_rates`), rounded up or down at random, so an
    epoch holds no class too often by chance. Subject to that, the classes are mixed over the batches by
    random swaps, the usual chain over bipartite graphs of given degrees.
    """
    counts = round_counts(batches * class_rates(sizes, slots, weighting), batches, batches * slots, random)
    order = random.permutation(len(sizes))
    # A class occupies consecutive places, at most `batches` of them, and so never one batch twice.
    dealt = np.repeat(order, counts[order]).reshape(slots, batches).T
    table = np.ascontiguousarray(dealt[random.permutation(batches)])
    _mix(table, random)
    return table


def round_counts(expected: FloatArray, largest: int, total: int, random: np.random.Generator) -> IntArray:
    """Whole numbers with the given expectations, each rounded up or down, that sum to ``total``."""
    counts = np.minimum(np.floor(expected).astype(np.int64), largest)
    extra = total - int(counts.sum())
    if extra > 0:
        order = random.permutation(len(expected))
        ends = np.cumsum((expected - np.floor(expected))[order])
        points = (random.random() + np.arange(extra)) * (ends[-1] / extra)
        np.add.at(counts, order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)], 1)
        counts = np.minimum(counts, largest)
        # Nothing is short here except by floating point.
        room = np.flatnonzero(counts < largest)
        counts[room[: total - int(counts.sum())]] += 1
    return counts


def _mix(table: IntArray, random: np.random.Generator) -> None:
    """Swap classes between random pairs of batches, in place, where both stay free of repeats."""
    batches, slots = table.shape
    half = batches // 2
    for _ in range(ROUNDS_PER_SLOT * slots if half else 0):
        pairs = random.permutation(batches)[: 2 * half].reshape(2, half)
        places = random.integers(slots, size=(2, half))
        first, second = table[pairs[0], places[0]], table[pairs[1], places[1]]
        clash = (table[pairs[0]] == second[:, None]).any(1) | (table[pairs[1]] == first[:, None]).any(1)
        table[pairs[0], places[0]] = np.where(clash, first, second)
        table[pairs[1], places[1]] = np.where(clash, second, first)


def draw_members(members: Members, table: IntArray, per_class: int) -> Ragged:
    """The items that each slot of ``table [batches, slots]`` of classes contributes, a row per slot.

    A class hands out its members in their order, ``min(per_class, size)`` at a time, and starts over when it
    is through; so no member comes twice before every other has come, and never twice in one slot.
    """
    classes = table.reshape(-1)
    return deal(members, classes, np.minimum(per_class, members.sizes[classes]))


def deal(members: Members, classes: IntArray, taken: IntArray) -> Ragged:
    """The items that classes hand out, turn by turn, as :func:`draw_members` describes.

    Args:
        members: the items of each class in the order in which they come.
        classes: ``[n]`` whose turn it is.
        taken: ``[n]`` how many items it gives then, at most its size.

    Returns:
        ``n`` rows of ids.
    """
    order = np.argsort(classes, kind="stable")
    given = np.cumsum(taken[order]) - taken[order]  # before each turn, over all classes
    first = np.searchsorted(classes[order], classes[order])
    before = np.empty(len(classes), dtype=np.int64)
    before[order] = given - given[first]
    slots = np.repeat(np.arange(len(classes)), taken)
    within = np.arange(len(slots)) - np.repeat(np.cumsum(taken) - taken, taken)
    places = (before[slots] + within) % members.sizes[classes][slots]
    ids = members.ids[members.starts[classes][slots] + places]
    return Ragged.from_lengths(torch.from_numpy(ids), torch.from_numpy(taken))


def first_seen(batch_of: IntArray, ids: IntArray) -> npt.NDArray[np.bool_]:
    """``[n]`` bool: whether an item is in its batch for the first time; each of its classes may bring it."""
    kept = np.zeros(len(ids), dtype=bool)
    keys = batch_of * (int(ids.max(initial=0)) + 1) + ids
    kept[np.unique(keys, return_index=True)[1]] = True
    return kept


def without_repeats(groups: Ragged, batch_of: IntArray, batches: int) -> Ragged:
    """A row of distinct items for each batch.

    Args:
        groups: rows of ids.
        batch_of: ``[rows]`` the batch that each goes into, rising.
        batches: how many there are.
    """
    ids, of_item = groups.values.numpy(), np.repeat(batch_of, groups.lengths.numpy())
    kept = first_seen(of_item, ids)
    return Ragged.from_lengths(
        torch.from_numpy(ids[kept]), torch.from_numpy(np.bincount(of_item[kept], minlength=batches))
    )
