"""k-NN classification block by block: one class per item, or any number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.index import top_k
from lit_metric.metrics.functional import (
    accuracy,
    accuracy_by_frequency,
    f1_macro,
    f1_micro,
    indicators,
    knn_predict,
    knn_predict_labels,
    label_counts,
    macro_accuracy,
    macro_f1,
)

OF_CLASSES = ("accuracy", "accuracy_macro", "f1_macro")
OF_LABELS = ("f1_micro", "f1_macro")
OF_FREQUENCY = ("accuracy_rare", "accuracy_medium", "accuracy_frequent")
"""What votes come to, after ``knn{k}_``; those of frequencies only where these differ."""


class Votes(Protocol):
    """What is collected of the votes for each block of queries."""

    per_row: int
    """How many numbers one query takes, at most."""

    def add(self, scores: Tensor, start: int) -> None:
        """The queries from ``start`` on, whose similarities to all voters are ``scores [b, N]``."""

    def results(self) -> dict[str, Tensor]:
        """All values by name; see `NeighbourMetrics`."""


class ClassVotes:
    """Votes for one class per query.

    Args:
        target: ``[Q]`` classes of the queries, negative where unlabelled.
        voters: ``[N]`` classes of the corpus, likewise.
        among: ``[Q]`` bool, which queries are in the corpus themselves, where they don't vote for themselves.
        knn: numbers of voting neighbours.
        temperature: see `knn_predict`.
        counts: ``[classes]`` frequencies for the bins; those of ``voters`` if None.
        edges: see `accuracy_by_frequency`.
    """

    def __init__(
        self,
        target: Tensor,
        voters: Tensor,
        among: Tensor,
        knn: Sequence[int],
        temperature: float | None = None,
        counts: Tensor | None = None,
        edges: tuple[float, float] | None = None,
    ) -> None:
        classes = int(torch.cat([target, voters]).max()) + 1
        of_class = torch.bincount(voters[voters >= 0], minlength=classes)
        known = target >= 0
        self.winnable = known.clone()
        self.winnable[known] = of_class[target[known]] > among[known].long()
        if counts is None:
            counts = of_class
        self.target, self.voters = target, voters
        self.knn, self.temperature = tuple(knn), temperature
        self.counts, self.edges = counts.to(target.device), edges
        # Votes are compared pair by pair among k neighbours.
        self.per_row = max([1, *(k * k for k in self.knn)])
        self.silent = voters < 0
        self.predicted = {k: target.new_full(target.shape, -1) for k in self.knn}

    def add(self, scores: Tensor, start: int) -> None:
        """See `Votes`."""
        if bool(self.silent.any()):
            scores = scores.masked_fill(self.silent, -torch.inf)
        near, where = top_k(scores, max([*self.knn, 1]))
        voters = self.voters[where].masked_fill(near.isneginf(), -1)
        for k in self.knn:
            predicted = knn_predict(voters[:, :k], near[:, :k], temperature=self.temperature)
            self.predicted[k][start : start + len(scores)] = predicted

    def results(self) -> dict[str, Tensor]:
        """See `Votes`."""
        known = self.target >= 0
        target, results = self.target[known], dict[str, Tensor]()
        if not bool(self.winnable.any()):
            return _not_measured(f"knn{k}_{what}" for k in self.knn for what in OF_CLASSES)
        for k in self.knn:
            predicted, name = self.predicted[k][known], f"knn{k}_accuracy"
            results[name] = accuracy(predicted, target)
            results[f"{name}_macro"] = macro_accuracy(predicted, target)
            results[f"knn{k}_f1_macro"] = macro_f1(predicted, target)
            bins = accuracy_by_frequency(predicted, target, self.counts, self.edges)
            results |= {f"{name}_{part}": value for part, value in bins.items()}
        return _with_count(results, known, self.winnable)


class LabelVotes:
    """Votes for any number of classes per query; memory is that of a block.

    Args:
        target: ``Q`` rows, the distinct classes of each query.
        voters: ``N`` rows, those of the corpus.
        among: as of `ClassVotes`.
        knn: numbers of voting neighbours.
        temperature: see `knn_predict_labels`.
    """

    def __init__(
        self,
        target: Ragged,
        voters: Ragged,
        among: Tensor,
        knn: Sequence[int],
        temperature: float | None = None,
    ) -> None:
        self.target, self.voters = target, voters
        self.knn, self.temperature = tuple(knn), temperature
        self.classes = max(
            (int(each.values.max()) + 1 for each in (target, voters) if len(each.values)), default=1
        )
        of_class = torch.bincount(voters.values, minlength=self.classes)
        self.winnable = torch.zeros(len(target), dtype=torch.bool, device=among.device)
        rows = target.segment_ids
        self.winnable[rows[of_class[target.values] > among[rows].long()]] = True
        self.per_row = max(self.classes, *self.knn, 1)
        self.silent = voters.lengths == 0
        self.counts = {k: torch.zeros(3, self.classes, dtype=torch.int64) for k in self.knn}

    def add(self, scores: Tensor, start: int) -> None:
        """See `Votes`."""
        rows = torch.arange(start, start + len(scores), device=scores.device)
        asked = self.target.select(rows)
        known = asked.lengths > 0
        target = indicators(asked, self.classes)[known]
        near, where = top_k(scores.masked_fill(self.silent, -torch.inf)[known], max([*self.knn, 1]))
        # Those that don't vote, for want of labels, are among the nearest only where there are no others.
        for k in self.knn:
            width = min(k, near.shape[1])
            labels = self.voters.select(where[:, :width].reshape(-1))
            labels = _without(labels, near[:, :width].isneginf().reshape(-1))
            predicted = knn_predict_labels(labels, width, self.classes, near[:, :width], self.temperature)
            self.counts[k] += label_counts(predicted, target).cpu()

    def results(self) -> dict[str, Tensor]:
        """See `Votes`."""
        if not bool(self.winnable.any()):
            return _not_measured(f"knn{k}_{what}" for k in self.knn for what in OF_LABELS)
        results: dict[str, Tensor] = {}
        for k, counts in self.counts.items():
            results |= {f"knn{k}_f1_micro": f1_micro(counts), f"knn{k}_f1_macro": f1_macro(counts)}
        return _with_count(results, self.target.lengths > 0, self.winnable)


def _not_measured(names: Iterable[str]) -> dict[str, Tensor]:
    """NaN for each: no query could have been right."""
    return {name: torch.tensor(torch.nan) for name in names}


def _with_count(results: dict[str, Tensor], known: Tensor, winnable: Tensor) -> dict[str, Tensor]:
    """``results``, and how many of the ``known`` queries nobody could vote for rightly, if there are any."""
    lost = (known & ~winnable).sum()
    return {**results, **({"queries_without_voter": lost} if lost else {})}


def _without(rows: Ragged, empty: Tensor) -> Ragged:
    """``rows`` with those emptied where ``empty [n]`` holds."""
    kept = ~empty[rows.segment_ids]
    return Ragged.from_lengths(rows.values[kept], rows.lengths.masked_fill(empty, 0))
