"""Which of two similar texts is a part of the other, by the norms of their raw embeddings."""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor


def directional_scores(queries: Tensor, references: Tensor, most: float = 1.0) -> Tensor:
    """``[n]`` cosines of pairs, of which those the wrong way round are dropped: −1 where the query's norm is
    larger than ``most`` times the reference's.

    A query that is a part of its reference, such as an excerpt of its source, should have the smaller norm
    (:class:`~lit_metric.losses.NormRatioLoss`). So of two texts that resemble each other, only one is a match
    of the other.

    Source: Wang, Sun and Yang, AAAI 2023 (arXiv 2205.12358), section 4.3: matches with a ratio above 1 are
    dropped.

    Args:
        queries: ``[n, d]`` raw embeddings; of unit vectors no norm is left.
        references: ``[n, d]`` raw embeddings, one for each query.
        most: the largest ratio of norms that is kept, above 0.

    Raises:
        ValueError: if shapes differ, or ``most`` isn't above 0.

    Example:
        >>> part, whole = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> directional_scores(part, whole), directional_scores(whole, part)
        (tensor([1.]), tensor([-1.]))
    """
    _check(queries, references)
    if not most > 0:
        raise ValueError(f"most must be above 0, not {most}")
    cosines = torch.nn.functional.cosine_similarity(queries, references, dim=1)
    return torch.where(queries.norm(dim=1) > most * references.norm(dim=1), -1.0, cosines)


def direction_auc(parts: Tensor, wholes: Tensor) -> float:
    """How well the ratio of norms tells the direction of a pair: the area under the ROC curve of
    ‖whole‖/‖part‖ of the given pairs, against the same pairs turned round.

    0.5 is chance, as of embeddings whose norms mean nothing, and 1 is a right answer for every pair.

    Args:
        parts: ``[n, d]`` raw embeddings, n at least 1.
        wholes: ``[n, d]`` raw embeddings of what each is a part of.

    Raises:
        ValueError: if shapes differ, or there are no pairs.

    Example:
        >>> direction_auc(torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [0.9]]))  # turned: 0.5 and 1.11
        0.75
    """
    _check(parts, wholes)
    if not len(parts):
        raise ValueError("direction_auc needs at least one pair")
    logarithms = wholes.double().norm(dim=1).log() - parts.double().norm(dim=1).log()
    both = torch.cat([logarithms, -logarithms]).nan_to_num()  # two zero vectors have no direction
    right = torch.arange(len(both)) < len(parts)
    return float(roc_auc_score(right.numpy(), both.cpu().numpy().clip(-1e300, 1e300)))


def _check(first: Tensor, second: Tensor) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"embeddings must both be [n, d], got {list(first.shape)} and {list(second.shape)}")
