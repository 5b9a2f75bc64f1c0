"""Classification by the votes of near neighbours, and accuracies for unbalanced classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def knn_predict(labels: Tensor, scores: Tensor | None = None, temperature: float | None = None) -> Tensor:
    """The class with most votes among each query's neighbours.

    ``argmax_c Σ_i w_i [label_i = c]`` with ``w_i = 1``, or ``w_i = exp(score_i / temperature)``. Of classes
    with equally many votes, the one whose nearest member is nearer wins, so no class number is favoured.

    Args:
        labels: ``[q, k]`` integers, the neighbours' classes, nearest first; a negative one does not vote.
        scores: ``[q, k]`` similarities, needed with ``temperature``. One of -inf, as an index gives where it
            has fewer than ``k`` vectors, does not vote.
        temperature: > 0 weighs the votes; ``None`` counts them.

    Returns:
        ``[q]`` int64; -1 where nobody votes.

    Raises:
        ValueError: ``temperature`` is not positive or comes without ``scores``, or shapes disagree.

    Example:
        >>> knn_predict(torch.tensor([[2, 0, 0, 1], [1, 0, 1, 0], [-1, -1, -1, -1]])).tolist()
        [0, 1, -1]
        >>> knn_predict(torch.tensor([[2, 0, 0]]), torch.tensor([[0.9, 0.1, 0.1]]), temperature=0.1).tolist()
        [2]
    """
    if labels.ndim != 2:
        raise ValueError(f"labels must be [q, k], got {list(labels.shape)}")
    if labels.shape[1] == 0:
        return labels.new_full((len(labels),), -1, dtype=torch.int64)
    votes = (labels >= 0) & found(scores, labels.shape)
    weights = vote_weights(votes, scores, temperature)
    # Of several largest values argmax gives the first, which is the class of the nearest.
    same = labels[:, :, None] == labels[:, None, :]
    tally = (same * weights[:, None, :]).sum(dim=2).masked_fill(~votes, -1.0)
    best = tally.argmax(dim=1, keepdim=True)
    return labels.gather(1, best).squeeze(1).long().masked_fill(~votes.any(dim=1), -1)


def found(scores: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Which of ``scores [q, k]`` are those of a neighbour: not -inf, which stands for none; all without
    scores.

    Raises:
        ValueError: the scores have another ``shape``.
    """
    if scores is None:
        return torch.ones((), dtype=torch.bool)
    if scores.shape != shape:
        raise ValueError(f"votes need scores {list(shape)}, one for each label, got {list(scores.shape)}")
    return ~scores.isneginf()


def vote_weights(voting: Tensor, scores: Tensor | None = None, temperature: float | None = None) -> Tensor:
    """``[q, k]`` float32, what each neighbour's vote weighs: 0 where it doesn't vote, else 1, or
    ``exp(score / temperature)`` relative to the nearest voter.

    Args:
        voting: ``[q, k]`` bool.
        scores: as in `knn_predict`.
        temperature: as in `knn_predict`.

    Raises:
        ValueError: as `knn_predict`.

    Example:
        >>> vote_weights(torch.tensor([[True, False]])).tolist()
        [[1.0, 0.0]]
    """
    if temperature is None:
        return voting.float()
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if scores is None or scores.shape != voting.shape:
        raise ValueError(f"weighted votes need scores {list(voting.shape)}, one for each label")
    if not voting.shape[1]:
        return voting.float()
    logits = (scores.float() / temperature).masked_fill(~voting, -torch.inf)
    # Relative to the nearest, so that exp cannot overflow; where nobody votes, all weights are 0.
    return (logits - logits.amax(dim=1, keepdim=True)).exp().nan_to_num(0.0)


def accuracy(predicted: Tensor, target: Tensor) -> Tensor:
    """Share of right predictions, a scalar in 0..1; NaN of none.

    Args:
        predicted: ``[q]`` classes; -1 is always wrong.
        target: ``[q]`` classes >= 0.

    Raises:
        ValueError: shapes disagree or a target is negative.

    Example:
        >>> accuracy(torch.tensor([0, 1, -1, 1]), torch.tensor([0, 1, 1, 1])).item()
        0.75
    """
    _check(predicted, target)
    return (predicted == target).float().mean()


def class_recalls(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Of each class the share of its queries that was predicted right.

    Args:
        predicted: as in `accuracy`.
        target: as in `accuracy`.
        classes: number of classes, above every target.

    Returns:
        ``[classes]`` in 0..1; NaN for a class without queries.

    Raises:
        ValueError: as `accuracy`.

    Example:
        >>> class_recalls(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]), classes=3).tolist()
        [1.0, 0.5, nan]
    """
    _check(predicted, target)
    asked = torch.bincount(target, minlength=classes)
    right = torch.bincount(target[predicted == target], minlength=classes)
    return right / asked


def macro_accuracy(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of `class_recalls` over the classes that have queries (balanced accuracy); NaN of none.

    Example:
        >>> macro_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])).item()
        0.5
    """
    classes = int(target.max()) + 1 if len(target) else 0
    return class_recalls(predicted, target, classes).nanmean()


def macro_f1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over classes of the harmonic mean of precision and recall, in 0..1; NaN of none.

    Classes are those that occur among the targets or the predictions; one that is never right scores 0.

    Example:
        >>> macro_f1(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])).item()
        0.428571...
    """
    _check(predicted, target)
    if not len(target):
        return torch.tensor(torch.nan, device=target.device)
    classes = int(torch.maximum(target.max(), predicted.max())) + 1
    asked = torch.bincount(target, minlength=classes)
    said = torch.bincount(predicted[predicted >= 0], minlength=classes)
    right = torch.bincount(target[predicted == target], minlength=classes)
    return (2 * right / (asked + said)).nanmean()


def frequency_edges(counts: Tensor) -> tuple[float, float]:
    """The terciles of the class frequencies: the 1/3 and 2/3 quantiles (interpolated) of the counts above 0.

    Args:
        counts: ``[classes]``, how often each class occurs in the training set.

    Raises:
        ValueError: no count is above 0.

    Example:
        >>> frequency_edges(torch.tensor([1, 4, 7, 10, 0]))
        (4.0, 7.0)
    """
    present = counts[counts > 0].double()
    if not len(present):
        raise ValueError("no class occurs, so there are no frequency terciles")
    low, high = present.quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64, device=counts.device))
    return float(low), float(high)


def accuracy_by_frequency(
    predicted: Tensor, target: Tensor, counts: Tensor, edges: tuple[float, float] | None = None
) -> dict[str, Tensor]:
    """Mean class recall for rare, medium and frequent classes.

    A class is *rare* if its count is at most ``edges[0]``, *frequent* if it is above ``edges[1]``, else
    *medium*. Tied classes are never parted, so bins may be of unequal size. Each value is the mean of
    `class_recalls` over the bin's classes; a bin without queries is left out, and all are if every class is
    equally frequent and no edges are given, since then no class is rarer than another.

    Args:
        predicted: as in `accuracy`.
        target: as in `accuracy`.
        counts: ``[classes]``, how often each class occurs in the training set; classes of 0 are rare.
        edges: the two counts that part the bins, rising; by default `frequency_edges`.

    Returns:
        Some of ``rare``, ``medium``, ``frequent``: scalars in 0..1.

    Raises:
        ValueError: the edges fall, or a target lies beyond ``counts``.

    Example:
        >>> target, counts = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 5, 100])
        >>> bins = accuracy_by_frequency(torch.tensor([2, 1, 2, 2]), target, counts)
        >>> {name: value.item() for name, value in bins.items()}
        {'rare': 0.0, 'medium': 0.5, 'frequent': 1.0}
    """
    if len(target) and int(target.max()) >= len(counts):
        raise ValueError(f"class {int(target.max())} has no count; counts has {len(counts)} classes")
    if edges is None:
        present = counts[counts > 0]
        if not len(present) or bool((present == present[0]).all()):
            return {}
        edges = frequency_edges(counts)
    low, high = edges
    if low > high:
        raise ValueError(f"frequency edges must rise, got {edges}")
    recalls = class_recalls(predicted, target, len(counts))
    rare, frequent = counts <= low, counts > high
    bins = {"rare": rare, "medium": ~rare & ~frequent, "frequent": frequent}
    values = {name: recalls[members].nanmean() for name, members in bins.items()}
    return {name: value for name, value in values.items() if not value.isnan()}


def _check(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape or target.ndim != 1:
        raise ValueError(
            f"predicted and target must be [q] alike, got {list(predicted.shape)} and {list(target.shape)}"
        )
    if len(target) and int(target.min()) < 0:
        raise ValueError("a target is negative; leave unlabelled queries out")
