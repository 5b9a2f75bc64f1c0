"""Items grouped by class: how often each class comes in an epoch, and in which order it gives its members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import Relations

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
ClassWeighting = Literal["size", "sqrt", "uniform"]

EXPONENTS: dict[str, float] = {"size": 1.0, "sqrt": 0.5, "uniform": 0.0}
SWAPS_PER_SLOT = 3


@dataclass(frozen=True)
class Members:
    """Items grouped by class.

    Args:
        ids: ``[n]`` global ids, class after class.
        sizes: ``[L]`` the number of members of each class, all positive.
    """

    ids: IntArray
    sizes: IntArray

    @classmethod
    def of(cls, ids: Tensor, relations: Relations, planner: str, smallest: int = 1) -> Members:
        """Group ``ids`` by class. An item with several labels is a member of each of its classes.

        Items without a label and classes with fewer than ``smallest`` members are left out.

        Raises:
            TypeError: when the relations have no class labels; names the ``planner``.
        """
        labels = getattr(relations, "labels", None)
        distinct = ids.unique()
        if isinstance(labels, Ragged):
            rows = labels.select(distinct.to(labels.offsets.device))
            classes = rows.values.numpy(force=True)
            distinct = distinct[rows.segment_ids.to(distinct.device)]
        elif isinstance(labels, Tensor):
            classes = labels[distinct.to(labels.device)].numpy(force=True)
        else:
            raise TypeError(
                f"{planner} draws classes, and these data have pairs only ({type(relations).__name__}): take "
                "planner=PairPlanner(), or planner=ScoredPairPlanner() where pairs have scores, or leave it "
                "out; if there are labels, name their column by label="
            )
        labelled = classes >= 0
        order = np.argsort(classes[labelled], kind="stable")
        _, inverse, sizes = np.unique(classes[labelled][order], return_inverse=True, return_counts=True)
        large = sizes >= smallest
        return cls(distinct.numpy(force=True)[labelled][order][large[inverse]], sizes[large])

    @property
    def items(self) -> int:
        """The number of distinct items; one may be a member of several classes."""
        return len(np.unique(self.ids))

    @property
    def starts(self) -> IntArray:
        """``[L]`` where each class begins within ``ids``."""
        return np.cumsum(self.sizes) - self.sizes

    def require(self, classes: int, smallest: int, planner: str) -> None:
        """Check that a batch of ``classes`` distinct classes is possible.

        Raises:
            DataError: when there are fewer.
        """
        if len(self.sizes) < classes:
            raise DataError(
                f"{planner} needs {classes} different classes in a batch, but the items have only "
                f"{len(self.sizes)} with {smallest} or more labelled members; lower it to at most "
                f"{len(self.sizes)}, or give more data"
            )

    def shuffled(self, random: np.random.Generator) -> Members:
        """The same classes with the members of each in random order."""
        classes = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return Members(self.ids[np.lexsort((random.random(len(self.ids)), classes))], self.sizes)

    def rates(self, slots: int, weighting: ClassWeighting) -> FloatArray:
        """The share of batches in which each class appears.

        Proportional to ``sizes ** exponent`` with exponent 1, 1/2 or 0, but never above 1. The excess goes to
        the other classes in proportion.

        Args:
            slots: distinct classes per batch, at most ``L``.
            weighting: ``"size"`` (every item equally often), ``"sqrt"`` or ``"uniform"`` (every class equally
                often).

        Returns:
            ``[L]`` rates in (0, 1] that sum to ``slots``.
        """
        weights = self.sizes.astype(np.float64) ** EXPONENTS[weighting]
        return capped_shares(weights, np.ones(len(self.sizes)), slots)

    def appearances(
        self, batches: int, slots: int, weighting: ClassWeighting, random: np.random.Generator
    ) -> IntArray:
        """``[L]`` the number of batches of an epoch that each class is in.

        It is the number that :meth:`rates` gives, rounded up or down at random, so that no class comes too
        often by chance. All together they fill ``batches * slots`` places.
        """
        expected, total = batches * self.rates(slots, weighting), batches * slots
        counts = np.minimum(np.floor(expected).astype(np.int64), batches)
        extra = total - int(counts.sum())
        if extra > 0:
            order = random.permutation(len(expected))
            ends = np.cumsum((expected - np.floor(expected))[order])
            points = (random.random() + np.arange(extra)) * (ends[-1] / extra)
            last = len(order) - 1
            np.add.at(counts, order[np.minimum(np.searchsorted(ends, points, side="right"), last)], 1)
            counts = np.minimum(counts, batches)
            # Floating point may have left some places empty.
            room = np.flatnonzero(counts < batches)
            counts[room[: total - int(counts.sum())]] += 1
        return counts

    def draw_classes(
        self, batches: int, slots: int, weighting: ClassWeighting, random: np.random.Generator
    ) -> IntArray:
        """The classes of each batch, ``[batches, slots]``, distinct within a batch.

        Each class comes as often as :meth:`appearances` says. Subject to that, random swaps mix the classes
        over the batches: the usual Markov chain over bipartite graphs of given degrees.
        """
        counts = self.appearances(batches, slots, weighting, random)
        order = random.permutation(len(self.sizes))
        # A class takes consecutive places, at most `batches` of them, and so never one batch twice.
        dealt = np.repeat(order, counts[order]).reshape(slots, batches).T
        table = np.ascontiguousarray(dealt[random.permutation(batches)])
        half = batches // 2
        for _ in range(SWAPS_PER_SLOT * slots if half else 0):
            pairs = random.permutation(batches)[: 2 * half].reshape(2, half)
            places = random.integers(slots, size=(2, half))
            first, second = table[pairs[0], places[0]], table[pairs[1], places[1]]
            # No swap where a batch would hold a class twice.
            clash = (table[pairs[0]] == second[:, None]).any(1) | (table[pairs[1]] == first[:, None]).any(1)
            table[pairs[0], places[0]] = np.where(clash, first, second)
            table[pairs[1], places[1]] = np.where(clash, second, first)
        return table

    def deal(self, classes: IntArray, taken: IntArray) -> Ragged:
        """The members that classes give, turn by turn.

        A class gives its members in their order and starts over after the last. So no member comes twice
        before every other has come.

        Args:
            classes: ``[n]`` the class of each turn.
            taken: ``[n]`` how many members it gives in that turn, at most its size.

        Returns:
            ``n`` rows of ids.
        """
        order = np.argsort(classes, kind="stable")
        given = np.cumsum(taken[order]) - taken[order]  # before each turn, over all classes
        first = np.searchsorted(classes[order], classes[order])
        before = np.empty(len(classes), dtype=np.int64)
        before[order] = given - given[first]
        turns = np.repeat(np.arange(len(classes)), taken)
        within = np.arange(len(turns)) - np.repeat(np.cumsum(taken) - taken, taken)
        places = (before[turns] + within) % self.sizes[classes][turns]
        ids = self.ids[self.starts[classes][turns] + places]
        return Ragged.from_lengths(torch.from_numpy(ids), torch.from_numpy(taken))


def capped_shares(weights: FloatArray, caps: FloatArray, total: float) -> FloatArray:
    """Divide ``total`` in proportion to ``weights``, all positive, so that no share is above its cap.

    The excess goes to the other shares in proportion. If the caps sum to less than ``total``, each share is
    its cap.

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


def first_in_batch(batch_of: IntArray, ids: IntArray) -> npt.NDArray[np.bool_]:
    """``[n]`` bool: whether this is the first place of an item in its batch; several classes may bring it."""
    first = np.zeros(len(ids), dtype=bool)
    keys = batch_of * (int(ids.max(initial=0)) + 1) + ids
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def distinct_rows(batch_of: IntArray, ids: IntArray, batches: int) -> Ragged:
    """A row of distinct items for each batch, in their order, without -1.

    Args:
        batch_of: ``[n]`` the batch of each item.
        ids: ``[n]`` global ids, or -1.
        batches: the number of rows.
    """
    batch_of, ids = batch_of[ids >= 0], ids[ids >= 0]
    kept = np.flatnonzero(first_in_batch(batch_of, ids))
    kept = kept[np.argsort(batch_of[kept], kind="stable")]
    lengths = np.bincount(batch_of[kept], minlength=batches)
    return Ragged.from_lengths(torch.from_numpy(ids[kept]), torch.from_numpy(lengths))
