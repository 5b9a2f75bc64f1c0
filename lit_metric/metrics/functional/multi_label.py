"""Classification into any number of classes by the votes of near neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.metrics.functional.classification import found, vote_weights


def knn_predict_labels(
    labels: Ragged, k: int, classes: int, scores: Tensor | None = None, temperature: float | None = None
) -> Tensor:
    """The classes that have at least half of the votes of each query's neighbours.

    Each neighbour with labels gives its vote, 1 or ``exp(score / temperature)``, to all of its classes. Where
    no class has half of the votes, the one that has most is predicted; of several the one with the nearest
    member, then that of the lowest number.

    Args:
        labels: ``q * k`` rows, the distinct classes of each query's ``k`` neighbours, nearest first; one
            without classes doesn't vote.
        k: neighbours per query, >= 1.
        classes: number of classes, above every label.
        scores: ``[q, k]`` similarities, needed with ``temperature``. One of -inf, as an index gives where it
            has fewer than ``k`` vectors, does not vote.
        temperature: > 0 weighs the votes; ``None`` counts them.

    Returns:
        ``[q, classes]`` bool; nothing where nobody votes.

    Raises:
        ValueError: the number of rows is no multiple of ``k``, or as in `knn_predict`.

    Example:
        >>> labels = Ragged.from_lists([[0, 2], [2], [1], [3], [1, 0], []])
        >>> knn_predict_labels(labels, k=3, classes=4).int().tolist()  # 2 of 3 votes; 1 of 2
        [[0, 0, 1, 0], [1, 1, 0, 1]]
    """
    if k < 1 or len(labels) % k:
        raise ValueError(f"{len(labels)} rows of labels are not those of k = {k} neighbours for each query")
    voting = labels.lengths.view(-1, k) > 0
    voting = voting & found(scores, voting.shape)
    if not classes:
        return torch.zeros(len(voting), 0, dtype=torch.bool, device=voting.device)
    weights = vote_weights(voting, scores, temperature)
    neighbour = labels.segment_ids
    where = (neighbour // k, labels.values)
    tally = weights.new_zeros(len(voting), classes).index_put(where, weights.view(-1)[neighbour], True)
    predicted = (2 * tally >= weights.sum(dim=1, keepdim=True)) & (tally > 0)
    # How near the nearest member of each class is, as a place from 0 to k - 1.
    flat = where[0] * classes + where[1]
    nearest = torch.full((tally.numel(),), k, device=tally.device)
    nearest = nearest.scatter_reduce(0, flat, neighbour % k, "amin").view_as(tally)
    most = tally == tally.amax(dim=1, keepdim=True)
    best = nearest.masked_fill(~most, k + 1).argmin(dim=1, keepdim=True)
    undecided = ~predicted.any(dim=1, keepdim=True) & voting.any(dim=1, keepdim=True)
    return predicted.scatter(1, best, predicted.gather(1, best) | undecided)


def indicators(labels: Ragged, classes: int) -> Tensor:
    """``[n, classes]`` bool, which classes each row of ``labels`` holds.

    Example:
        >>> indicators(Ragged.from_lists([[2], [], [0, 1]]), classes=3).int().tolist()
        [[0, 0, 1], [0, 0, 0], [1, 1, 0]]
    """
    result = torch.zeros(len(labels), classes, dtype=torch.bool, device=labels.values.device)
    result[labels.segment_ids, labels.values] = True
    return result


def label_counts(predicted: Tensor, target: Tensor) -> Tensor:
    """What F1 is made of: of each class how often it was rightly predicted, predicted, and asked for.

    Counts of several blocks of queries may be added.

    Args:
        predicted: ``[q, classes]`` bool.
        target: ``[q, classes]`` bool.

    Returns:
        ``[3, classes]`` int64.

    Example:
        >>> label_counts(torch.tensor([[True, True]]), torch.tensor([[True, False]])).tolist()
        [[1, 0], [1, 1], [1, 0]]
    """
    return torch.stack([(predicted & target).sum(0), predicted.sum(0), target.sum(0)])


def f1_micro(counts: Tensor) -> Tensor:
    """Harmonic mean of precision and recall over all labels together, in 0..1; NaN of none.

    Args:
        counts: ``[3, classes]``, see `label_counts`.

    Example:
        >>> f1_micro(torch.tensor([[1, 0], [1, 1], [1, 0]])).item()
        0.6666...
    """
    right, said, asked = counts.sum(dim=1)
    return 2 * right / (said + asked)


def f1_macro(counts: Tensor) -> Tensor:
    """Mean over classes of the harmonic mean of precision and recall, in 0..1; NaN of none.

    Classes are those that occur among the targets or the predictions, as in `macro_f1`.

    Args:
        counts: ``[3, classes]``, see `label_counts`.

    Example:
        >>> f1_macro(torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0]])).item()
        0.5
    """
    right, said, asked = counts
    return (2 * right / (said + asked)).nanmean()
