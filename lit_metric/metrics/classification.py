"""Accuracies of k-NN classification, also for unbalanced classes and for several classes per item."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.index import top_k
from lit_metric.metrics.votes import knn_predict, knn_predict_labels


def prediction_counts(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """How often each class was predicted rightly, was predicted, and is the target.

    Args:
        predicted: ``[q]`` classes; -1 is always wrong.
        target: ``[q]`` classes >= 0.
        classes: number of classes, above every class.

    Returns:
        ``[3, classes]`` int64.

    Raises:
        ValueError: shapes disagree or a target is negative.

    Example:
        >>> prediction_counts(torch.tensor([0, 1, -1]), torch.tensor([0, 1, 1]), classes=3).tolist()
        [[1, 1, 0], [1, 1, 0], [1, 2, 0]]
    """
    if predicted.shape != target.shape or target.ndim != 1:
        raise ValueError(
            f"predicted and target must both be [q], got {list(predicted.shape)} and {list(target.shape)}"
        )
    if len(target) and int(target.min()) < 0:
        raise ValueError("a target is negative; leave unlabelled queries out")
    columns = target[predicted == target], predicted[predicted >= 0], target
    return torch.stack([torch.bincount(column, minlength=classes) for column in columns])


def f1_micro(counts: Tensor) -> Tensor:
    """Harmonic mean of precision and recall over all labels together, in 0..1; NaN of none.

    Args:
        counts: ``[3, classes]``, see `prediction_counts`.

    Example:
        >>> f1_micro(torch.tensor([[1, 0], [1, 1], [1, 0]])).item()
        0.6666...
    """
    right, predicted, target = counts.sum(dim=1)
    return 2 * right / (predicted + target)


def f1_macro(counts: Tensor) -> Tensor:
    """Mean over classes of the harmonic mean of precision and recall, in 0..1; NaN of none.

    Classes are those that occur among the targets or the predictions; one that is never right scores 0.

    Args:
        counts: ``[3, classes]``, see `prediction_counts`.

    Example:
        >>> f1_macro(torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0]])).item()
        0.5
    """
    right, predicted, target = counts
    return (2 * right / (predicted + target)).nanmean()


def macro_accuracy(counts: Tensor) -> Tensor:
    """Mean over the classes with queries of the share that is right (balanced accuracy); NaN of none.

    Args:
        counts: ``[3, classes]``, see `prediction_counts`.

    Example:
        >>> macro_accuracy(torch.tensor([[3, 0], [4, 0], [3, 1]])).item()
        0.5
    """
    return (counts[0] / counts[2]).nanmean()


def accuracy_by_frequency(
    counts: Tensor, frequencies: Tensor, edges: tuple[float, float] | None = None
) -> dict[str, Tensor]:
    """`macro_accuracy` over the classes of the tail, the middle and the head of the class frequencies.

    A class is of the *tail* if its frequency is at most ``edges[0]``, of the *head* if it is above
    ``edges[1]``, else *medium*. Classes of equal frequency are never parted, so bins may be of unequal size.
    A bin without queries is left out. All bins are if every class is equally frequent and no edges are given.

    Args:
        counts: ``[3, classes]``, see `prediction_counts`.
        frequencies: ``[classes]``, how often each class occurs in the training set; a class with 0 is of the
            tail.
        edges: the two frequencies that part the bins, rising; by default the terciles (interpolated) of the
            frequencies above 0.

    Returns:
        Some of ``tail``, ``medium``, ``head``: scalars in 0..1.

    Raises:
        ValueError: the edges fall, or a class has no frequency.

    Example:
        >>> counts = prediction_counts(torch.tensor([2, 1, 2, 2]), torch.tensor([0, 1, 1, 2]), classes=3)
        >>> bins = accuracy_by_frequency(counts, torch.tensor([1, 5, 100]))
        >>> {name: value.item() for name, value in bins.items()}
        {'tail': 0.0, 'medium': 0.5, 'head': 1.0}
    """
    if len(beyond := counts[2, len(frequencies) :].nonzero()):
        missing = len(frequencies) + int(beyond[-1])
        raise ValueError(f"class {missing} has no frequency; there are those of {len(frequencies)} classes")
    if edges is None:
        present = frequencies[frequencies > 0]
        if not len(present) or bool((present == present[0]).all()):
            return {}
        thirds = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64, device=present.device)
        edges = tuple(present.double().quantile(thirds).tolist())
    low, high = edges
    if low > high:
        raise ValueError(f"frequency edges must rise, got {edges}")
    frequencies = frequencies[: counts.shape[1]]
    tail, head = frequencies <= low, frequencies > high
    bins = {"tail": tail, "medium": ~tail & ~head, "head": head}
    counts = counts[:, : len(frequencies)]
    values = {name: macro_accuracy(counts[:, members]) for name, members in bins.items()}
    return {name: value for name, value in values.items() if not value.isnan()}


class Votes:
    """Collects the votes for the queries, block by block.

    Attributes:
        per_row: how many numbers one query takes, at most.
        known: ``[Q]`` bool, which queries have labels.
        winnable: ``[Q]`` bool, for which of them some voter has the right class.
        names: of the results, without ``knn{k}_``; the frequency bins may be missing.
    """

    names: tuple[str, ...]
    per_row: int
    known: Tensor
    winnable: Tensor

    def __init__(self, knn: Sequence[int], temperature: float | None) -> None:
        self.knn, self.temperature = tuple(knn), temperature

    def add(self, scores: Tensor, start: int) -> None:
        """Add the queries from ``start`` on, with similarities ``[b, N]`` to all voters."""
        raise NotImplementedError

    def values(self, k: int) -> dict[str, Tensor]:
        """Scalars by name for k voters, without ``knn{k}_``."""
        raise NotImplementedError

    def results(self) -> dict[str, Tensor]:
        """All values by name; see `NeighbourMetrics`."""
        if not bool(self.winnable.any()):
            names = [name for name in self.names if name not in FREQUENCY_BINS]
            return {f"knn{k}_{name}": torch.tensor(torch.nan) for k in self.knn for name in names}
        results = {f"knn{k}_{name}": value for k in self.knn for name, value in self.values(k).items()}
        if lost := (self.known & ~self.winnable).sum():
            results["queries_without_voter"] = lost
        return results


FREQUENCY_BINS = ("accuracy_tail", "accuracy_medium", "accuracy_head")


class ClassVotes(Votes):
    """Votes for one class per query.

    Args:
        target: ``[Q]`` classes of the queries, negative where unlabelled.
        voters: ``[N]`` classes of the corpus, negative where unlabelled.
        among: ``[Q]`` bool, which queries are in the corpus, where they don't vote for themselves.
        knn: numbers of voting neighbours.
        temperature: see `knn_predict`.
        frequencies: ``[classes]`` for the bins; those of ``voters`` if None.
        edges: see `accuracy_by_frequency`.
    """

    names = ("accuracy", "accuracy_macro", "f1_macro", *FREQUENCY_BINS)

    def __init__(
        self,
        target: Tensor,
        voters: Tensor,
        among: Tensor,
        knn: Sequence[int],
        temperature: float | None = None,
        frequencies: Tensor | None = None,
        edges: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(knn, temperature)
        self.classes = int(torch.cat([target, voters]).max()) + 1
        of_class = torch.bincount(voters[voters >= 0], minlength=self.classes)
        self.known = target >= 0
        self.winnable = self.known.clone()
        self.winnable[self.known] = of_class[target[self.known]] > among[self.known].long()
        self.target, self.voters, self.edges = target, voters, edges
        self.frequencies = (of_class if frequencies is None else frequencies).to(target.device)
        # Votes are compared pair by pair among k neighbours.
        self.per_row = max([1, *(k * k for k in self.knn)])
        self.silent = voters < 0
        self.predicted = {k: target.new_full(target.shape, -1) for k in self.knn}

    def add(self, scores: Tensor, start: int) -> None:
        if bool(self.silent.any()):
            scores = scores.masked_fill(self.silent, -torch.inf)
        near, where = top_k(scores, max([*self.knn, 1]))
        voters = self.voters[where].masked_fill(near.isneginf(), -1)
        for k in self.knn:
            predicted = knn_predict(voters[:, :k], near[:, :k], temperature=self.temperature)
            self.predicted[k][start : start + len(scores)] = predicted

    def right(self, k: int) -> Tensor:
        """``[Q]`` float32, 1 where the query's class was predicted, 0 where another; NaN where unlabelled."""
        return (self.predicted[k] == self.target).float().masked_fill(~self.known, torch.nan)

    def values(self, k: int) -> dict[str, Tensor]:
        counts = prediction_counts(self.predicted[k][self.known], self.target[self.known], self.classes)
        bins = accuracy_by_frequency(counts, self.frequencies, self.edges)
        return {
            "accuracy": self.right(k)[self.known].mean(),
            "accuracy_macro": macro_accuracy(counts),
            "f1_macro": f1_macro(counts),
            **{f"accuracy_{name}": value for name, value in bins.items()},
        }


class LabelVotes(Votes):
    """Votes for any number of classes per query; memory is that of a block.

    Args:
        target: ``Q`` rows, the distinct classes of each query.
        voters: ``N`` rows, those of the corpus.
        among, knn, temperature: as of `ClassVotes`.
    """

    names = ("f1_micro", "f1_macro")

    def __init__(
        self,
        target: Ragged,
        voters: Ragged,
        among: Tensor,
        knn: Sequence[int],
        temperature: float | None = None,
    ) -> None:
        super().__init__(knn, temperature)
        self.target, self.voters = target, voters
        self.classes = max(
            (int(each.values.max()) + 1 for each in (target, voters) if len(each.values)), default=1
        )
        of_class = torch.bincount(voters.values, minlength=self.classes)
        rows = target.segment_ids
        self.known = target.lengths > 0
        self.winnable = torch.zeros(len(target), dtype=torch.bool, device=among.device)
        self.winnable[rows[of_class[target.values] > among[rows].long()]] = True
        self.per_row = max(self.classes, *self.knn, 1)
        self.silent = voters.lengths == 0
        self.counts = {k: torch.zeros(3, self.classes, dtype=torch.int64) for k in self.knn}

    def add(self, scores: Tensor, start: int) -> None:
        rows = torch.arange(start, start + len(scores), device=scores.device)
        labels = self.target.select(rows)
        known = labels.lengths > 0
        target = torch.zeros(len(rows), self.classes, dtype=torch.bool, device=rows.device)
        target[labels.segment_ids, labels.values] = True
        target = target[known]
        near, where = top_k(scores.masked_fill(self.silent, -torch.inf)[known], max([*self.knn, 1]))
        for k in self.knn:
            width = min(k, near.shape[1])
            voters = self.voters.select(where[:, :width].reshape(-1))
            # Items without labels are among the nearest only where there are no others; they don't vote.
            empty = near[:, :width].isneginf().reshape(-1)
            kept = ~empty[voters.segment_ids]
            voters = Ragged.from_lengths(voters.values[kept], voters.lengths.masked_fill(empty, 0))
            predicted = knn_predict_labels(voters, width, self.classes, near[:, :width], self.temperature)
            columns = (predicted & target).sum(0), predicted.sum(0), target.sum(0)
            self.counts[k] += torch.stack(columns).cpu()

    def values(self, k: int) -> dict[str, Tensor]:
        return {"f1_micro": f1_micro(self.counts[k]), "f1_macro": f1_macro(self.counts[k])}
