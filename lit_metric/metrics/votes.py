"""The vote of nearest neighbours: for one class, for several, and the share of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged


def knn_predict(labels: Tensor, scores: Tensor | None = None, temperature: float | None = None) -> Tensor:
    """The class with most votes among each query's neighbours.

    ``argmax_c Σ_i w_i [label_i = c]`` with ``w_i = 1``, or ``w_i = exp(score_i / temperature)``. Of classes
    with equally many votes, the one whose nearest member is nearer wins, so no class number is favoured.

    Args:
        labels: ``[q, k]`` integers, the neighbours' classes, nearest first; a negative one does not vote.
        scores: ``[q, k]`` similarities, needed with ``temperature``. A score of -inf stands for no neighbour
            and does not vote.
        temperature: > 0 weighs the votes; ``None`` counts them.

    Returns:
        ``[q]`` int64; -1 where no item votes.

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
    votes, weights = _votes(labels >= 0, scores, temperature)
    # Of several largest values argmax gives the first, which is the class of the nearest.
    same = labels[:, :, None] == labels[:, None, :]
    tally = (same * weights[:, None, :]).sum(dim=2).masked_fill(~votes, -1.0)
    best = tally.argmax(dim=1, keepdim=True)
    return labels.gather(1, best).squeeze(1).long().masked_fill(~votes.any(dim=1), -1)


def _votes(
    voting: Tensor, scores: Tensor | None = None, temperature: float | None = None
) -> tuple[Tensor, Tensor]:
    """Which neighbours vote, ``[q, k]`` bool, and the float32 weight of each vote.

    A weight is 0 for a neighbour that does not vote, else 1, or ``exp(score / temperature)`` relative to the
    nearest voter. Arguments and errors as in `knn_predict`; ``voting [q, k]`` says which neighbours have
    labels.
    """
    if scores is not None:
        if scores.shape != voting.shape:
            raise ValueError(
                f"votes need scores {list(voting.shape)}, one for each label, got {list(scores.shape)}"
            )
        voting = voting & ~scores.isneginf()
    if temperature is None:
        return voting, voting.float()
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if scores is None:
        raise ValueError(f"weighted votes need scores {list(voting.shape)}, one for each label")
    if not voting.shape[1]:
        return voting, voting.float()
    logits = (scores.float() / temperature).masked_fill(~voting, -torch.inf)
    # Relative to the nearest, so that exp cannot overflow; where no item votes, all weights are 0.
    return voting, (logits - logits.amax(dim=1, keepdim=True)).exp().nan_to_num(0.0)


def knn_predict_labels(
    labels: Ragged, k: int, classes: int, scores: Tensor | None = None, temperature: float | None = None
) -> Tensor:
    """The classes that have at least half of the votes of each query's neighbours.

    Each neighbour with labels gives its vote, 1 or ``exp(score / temperature)``, to all of its classes. Where
    no class has half of the votes, the one with most is predicted; of several the one with the nearest
    member, then that of the lowest number.

    Args:
        labels: ``q * k`` rows, the distinct classes of each query's ``k`` neighbours, nearest first; one
            without classes doesn't vote.
        k: neighbours per query, >= 1.
        classes: number of classes, above every label.
        scores: as in `knn_predict`.
        temperature: as in `knn_predict`.

    Returns:
        ``[q, classes]`` bool; all False where no item votes.

    Raises:
        ValueError: the number of rows is no multiple of ``k``, or as in `knn_predict`.

    Example:
        >>> labels = Ragged.from_lists([[0, 2], [2], [1], [3], [1, 0], []])
        >>> knn_predict_labels(labels, k=3, classes=4).int().tolist()  # 2 of 3 votes; 1 of 2
        [[0, 0, 1, 0], [1, 1, 0, 1]]
    """
    tally, weights, voting = _tally(labels, k, classes, scores, temperature)
    if not classes:
        return tally.bool()
    neighbour = labels.segment_ids
    where = (neighbour // k, labels.values)
    predicted = (2 * tally >= weights.sum(dim=1, keepdim=True)) & (tally > 0)
    # How near the nearest member of each class is, as a place from 0 to k - 1.
    flat = where[0] * classes + where[1]
    nearest = torch.full((tally.numel(),), k, device=tally.device)
    nearest = nearest.scatter_reduce(0, flat, neighbour % k, "amin").view_as(tally)
    most = tally == tally.amax(dim=1, keepdim=True)
    best = nearest.masked_fill(~most, k + 1).argmin(dim=1, keepdim=True)
    undecided = ~predicted.any(dim=1, keepdim=True) & voting.any(dim=1, keepdim=True)
    return predicted.scatter(1, best, predicted.gather(1, best) | undecided)


def knn_shares(
    labels: Ragged, k: int, classes: int, scores: Tensor | None = None, temperature: float | None = None
) -> Tensor:
    """The share of each class in the votes of each query's neighbours.

    Each neighbour with labels gives its vote, 1 or ``exp(score / temperature)``, to all of its classes. With
    one class for each neighbour, the shares of a query add up to 1.

    Args:
        labels, k, classes, scores, temperature: as in `knn_predict_labels`.

    Returns:
        ``[q, classes]`` float32 in 0..1; 0 where no item votes.

    Raises:
        ValueError: as in `knn_predict_labels`.

    Example:
        >>> knn_shares(Ragged.from_lists([[0, 2], [2], [], [1]]), k=2, classes=3).tolist()
        [[0.5, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    tally, weights, _ = _tally(labels, k, classes, scores, temperature)
    return tally / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _tally(
    labels: Ragged, k: int, classes: int, scores: Tensor | None, temperature: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The votes for each class ``[q, classes]``, the weight of each vote ``[q, k]``, and which neighbours
    vote ``[q, k]``; see `knn_predict_labels`."""
    if k < 1 or len(labels) % k:
        raise ValueError(f"{len(labels)} rows of labels are not those of k = {k} neighbours for each query")
    voting, weights = _votes(labels.lengths.view(-1, k) > 0, scores, temperature)
    neighbour = labels.segment_ids
    where = (neighbour // k, labels.values)
    tally = weights.new_zeros(len(voting), classes).index_put(where, weights.view(-1)[neighbour], True)
    return tally, weights, voting
